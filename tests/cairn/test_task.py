"""What a task tells its agent to say: usage that adds up, notes, calls; also without a system, as in an author's tests."""

from typing import Any

import pytest

from cairn.task import Budget as Reserved
from cairn.task import BudgetExceeded, Failed, Task, Usage


class Desk:
    """What was said; `why` is the answer to every question."""

    def __init__(self, why: str = "") -> None:
        self.ended, self.why = False, why
        self.said: list[tuple[str, dict[str, Any]]] = []

    def say(self, kind: str, **said: Any) -> None:
        self.said.append((kind, said))

    async def ask(self, kind: str, **said: Any) -> str:
        self.say(kind, **said)
        return self.why


def task(**fields: Any) -> Task:
    return Task("w", "a", "a/1", 1, "coder", 1, 30.0, 30.0, **fields)


def test_what_was_used_adds_up_and_what_one_call_leaves_out_is_unknown() -> None:
    one = task()
    assert one.usage is None
    one.used(input=10, output=2, cost_usd=0.5, model="m")
    one.used(input=5, output=1, model="m")
    assert one.usage == Usage(model="m", input_total=15, output=3)
    one.used(input=1, output=1, model="another")
    assert one.usage.model is None and one.usage.input_total == 16


@pytest.mark.parametrize("numbers", [{"input": -1}, {"cost_usd": float("nan")}, {"input": 1, "cache_read": 2}])
def test_numbers_that_cannot_be_are_refused_at_once(numbers: dict[str, Any]) -> None:
    one = task()
    with pytest.raises(ValueError, match=r"it takes 0 or more|counts cached"):
        one.used(**numbers)
    assert one.usage is None


def test_what_is_told_after_the_end_corrects_what_was_told() -> None:
    desk = Desk()
    one = task().at(desk)
    one.used(input=1, output=1)
    assert desk.said == []
    desk.ended = True
    one.used(input=1, output=1)
    assert desk.said == [("used", {"usage": Usage(input_total=2, output=2), "why": "told after the end"})]


async def test_a_note_is_read_back_and_one_that_does_not_fit_is_refused_before_it_is_sent() -> None:
    desk = Desk()
    one = task(notes={f"k{n}": n for n in range(31)}).at(desk)
    await one.note("tried", (1, 2))
    assert one.notes["tried"] == [1, 2]
    for key, value in (("no key", 1), ("k1", "x" * 4_095), ("k1", object()), ("one-more", 1)):
        with pytest.raises(ValueError, match=r"key of a note|limit|no JSON"):
            await one.note(key, value)
    assert [said["note"]["key"] for _, said in desk.said] == ["tried"]
    with pytest.raises(Failed, match="somebody else holds"):
        await one.at(Desk("somebody else holds the lease")).note("k1", 2)


async def test_a_call_is_asked_for_and_settled_only_where_there_is_a_budget() -> None:
    desk = Desk()
    async with task().at(desk).call(tokens=5) as free:
        free.used(input=3, output=1)
    assert desk.said == []
    one = task(budget=Reserved(tokens=9)).at(desk)
    async with one.call(tokens=5) as call:
        call.used(input=3, output=1)
    (asked, reserved), (told, settled) = desk.said
    assert (asked, reserved["call"]["tokens"], told) == ("reserve", 5, "settle")
    assert settled["call"]["id"] == reserved["call"]["id"]
    assert settled["usage"] == one.usage == Usage(input_total=3, output=1)


async def test_a_call_that_breaks_is_settled_as_unknown_and_one_that_does_not_fit_is_never_made() -> None:
    desk, made = Desk(), False
    one = task(budget=Reserved(tokens=9)).at(desk)
    with pytest.raises(RuntimeError, match="cut"):
        async with one.call():
            raise RuntimeError("cut")
    assert desk.said[-1][1]["usage"] == Usage()
    desk.why = "a call of 5 tokens does not fit"
    with pytest.raises(BudgetExceeded, match="does not fit") as refused:
        async with one.call(tokens=5):
            made = True
    assert not made and refused.value.type == "budget"
