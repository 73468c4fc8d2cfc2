"""Rules of what attempts use and note: every attempt ends with its usage, what is unknown stays so, late numbers correct."""

from typing import Any

import msgspec
import pytest
from spec import AT_ONCE, NOW, TESTS, An, completed, failed, given, retry, start, started
from test_workflow import CANCEL

from domain.commands import ExpireLease, ReportCompleted, ReportNoted, ReportUsage
from domain.events import (
    AttemptFailed,
    ReportRefused,
    RetryScheduled,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskNoted,
    TaskStarted,
    UsageCorrected,
    WorkflowCancelled,
    WorkflowCompleted,
)
from domain.outcome import Result
from domain.plan import Route, Task
from domain.state import Workflow
from domain.usage import Price, Prices, Spent, Usage, usage
from domain.workflow import decide

A, B = Task("a"), Task("b", dependencies=("a",))
PRICES = Prices("2026-11-01", {"big": Price(3.0, 15.0, 0.3, 3.75)})
TOLD = Spent(model="big-20261030", turns=2, input_total=1_000_000, output=100_000)


def told(spent: Spent | None, *, run: str = "a/1", token: int = 1, now: float = NOW) -> ReportCompleted:
    held: dict[str, Any] = {"now": now, "task": "a", "run": run, "token": token, "agent": "ann"}
    return ReportCompleted(**held, result=Result("done"), spent=spent)


def used(spent: Spent, *, token: int = 1, agent: str = "ann", role: str | None = None, now: float = NOW) -> ReportUsage:
    held: dict[str, Any] = {"now": now, "task": "a", "run": "a/1", "token": token, "agent": agent, "role": role}
    return ReportUsage(**held, spent=spent, why="the bill came")


def noted(key: str, value: Any, *, run: str = "a/1", token: int = 1) -> ReportNoted:
    return ReportNoted(now=NOW, task=run.split("/")[0], run=run, token=token, agent="ann", key=key, value=value)


def priced(*tasks: Task) -> Any:
    command = start(*tasks)
    return type(command)(**{name: getattr(command, name) for name in command.__struct_fields__} | {"prices": PRICES})


# Usage


def test_an_attempt_takes_as_long_as_from_its_start_to_its_outcome_and_what_nobody_says_is_unknown() -> None:
    story = given(start(A), started("a/1", 1)).when(told(None, now=NOW + 12.3456))
    story.then(An(TaskCompleted, "a", usage=Usage(seconds=12.346)), An(WorkflowCompleted))
    (known,) = story.state.tasks["a"].ended
    assert known.usage is not None
    assert (known.usage.tokens, known.usage.cost_usd, known.usage.cost_source) == (None, None, "unknown")


def test_an_outcome_that_overtook_its_start_counts_from_the_offer() -> None:
    story = given(start(A)).when(told(None, now=NOW + 5))
    story.then(An(TaskStarted), An(TaskCompleted, usage=Usage(seconds=5.0)), An(WorkflowCompleted))


def test_a_cost_that_the_agent_says_is_believed() -> None:
    spent = Spent(model="big", input_total=10, output=10, cost_usd=0.5)
    given(priced(A), started("a/1", 1)).when(told(spent)).then(
        An(TaskCompleted, usage=usage(spent, 0.0, None)), An(WorkflowCompleted)
    )
    assert usage(spent, 0.0, PRICES).cost_source == "reported"


def test_a_cost_is_computed_by_the_prices_that_the_workflow_began_with() -> None:
    story = given(priced(A), started("a/1", 1)).when(told(TOLD))
    story.then(An(TaskCompleted), An(WorkflowCompleted))
    one = story.events[0].usage
    assert (one.cost_usd, one.cost_source, one.turns) == (4.5, "computed", 2)


@pytest.mark.parametrize(
    "spent",
    [Spent(model="other", input_total=1, output=1), Spent(input_total=1, output=1), Spent(model="big", input_total=1)],
)
def test_without_a_price_a_model_or_all_tokens_the_cost_stays_unknown(spent: Spent) -> None:
    found = usage(spent, 1.0, PRICES)
    assert (found.cost_usd, found.cost_source) == (None, "unknown")


def test_cached_tokens_cost_what_the_cache_costs() -> None:
    spent = Spent(model="big", input_total=1_000_000, cache_read=500_000, cache_write=200_000, output=0)
    assert usage(spent, 0.0, PRICES).cost_usd == pytest.approx(0.3 * 3 + 0.5 * 0.3 + 0.2 * 3.75)


def test_an_attempt_that_is_ended_from_outside_ends_with_its_usage_too() -> None:
    lost = ExpireLease(now=NOW + 40, task="a", token=1)
    given(start(A), started("a/1", 1)).when(lost).then(An(AttemptFailed, usage=Usage(seconds=40.0)), An(RetryScheduled))
    given(start(A), started("a/1", 1)).when(CANCEL).then(An(TaskCancelled, usage=AT_ONCE), An(WorkflowCancelled))


def test_numbers_told_before_the_end_stand_when_the_agent_dies() -> None:
    story = given(priced(A), started("a/1", 1)).when(used(TOLD, now=NOW + 3))
    story.then(An(UsageCorrected, "a", run="a/1", was=None, why="the bill came", role="coder"))
    story.when(ExpireLease(now=NOW + 40, task="a", token=1)).then(An(AttemptFailed), An(RetryScheduled))
    assert story.events[0].usage == usage(TOLD, 40.0, PRICES)


def test_late_numbers_correct_what_was_recorded_and_say_so() -> None:
    story = given(priced(A), started("a/1", 1), told(None, now=NOW + 2)).when(used(TOLD, now=NOW + 900))
    story.then(An(UsageCorrected, run="a/1", was=Usage(seconds=2.0), now=usage(TOLD, 2.0, PRICES)))
    story.when(used(TOLD)).then()
    more = Spent(model="big", input_total=2_000_000, output=100_000)
    story.when(used(more)).then(An(UsageCorrected, was=usage(TOLD, 2.0, PRICES), now=usage(more, 2.0, PRICES)))
    assert story.state.status == "completed"


@pytest.mark.parametrize("who", [{"token": 2}, {"agent": "mallory"}, {"role": "tester"}])
def test_only_the_agent_that_held_a_run_corrects_it(who: dict[str, Any]) -> None:
    story = given(start(A), started("a/1", 1), told(None)).when(used(TOLD, **who))
    story.then(An(ReportRefused, kind="usage", run="a/1"))


def test_a_closed_run_is_corrected_by_the_role_that_it_was_offered_to() -> None:
    """Whatever its task has become since: here it is another role's, and is being tested by a third."""
    routed = Task("a", acceptance_criteria=TESTS, failure_routing={"agent_error": Route("route", "architect")})
    story = given(start(routed), started("a/1", 1), failed("a/1", 1), retry(2), completed("a/2", 2, agent="arch"))
    assert story.state.tasks["a"].status == "verifying"
    for role in ("architect", "tester"):
        story.when(used(TOLD, role=role)).then(
            An(ReportRefused, why=f"it is offered to the role coder, and ann is {role}")
        )
    story.when(used(TOLD, role="coder")).then(An(UsageCorrected, run="a/1"))


# Notes


def test_what_an_attempt_noted_is_shown_to_the_next_one() -> None:
    story = given(start(A), started("a/1", 1)).when(noted("tried", ["x", 1]))
    story.then(TaskNoted(task="a", run="a/1", key="tried", value=["x", 1]))
    story.when(noted("tried", ["x", 1])).then()
    story.when(failed("a/1", 1)).then(An(AttemptFailed), An(RetryScheduled))
    story.when(retry(2)).then(An(TaskDispatched, notes={"tried": ["x", 1]}))


def test_a_note_is_fenced_by_the_lease_as_an_outcome_is() -> None:
    story = given(start(A), started("a/1", 1), failed("a/1", 1), retry(2))
    story.when(noted("late", 1)).then(
        An(ReportRefused, kind="noted", why="the task is dispatched, run a/2 holds the lease")
    )


def test_a_branch_reads_the_notes_of_its_parent_and_keeps_its_own() -> None:
    fixed = Task("a", failure_routing={"agent_error": "debugger"})
    story = given(start(fixed), noted("tried", 1)).when(failed("a/1", 1))
    story.then(An(AttemptFailed), An(TaskBranched), An(TaskDispatched, "a.fix1", notes={"tried": 1}))
    story.when(noted("tried", 2, run="a.fix1/1", token=2)).then(An(TaskStarted), An(TaskNoted, "a.fix1"))
    assert (story.state.tasks["a"].notes, story.state.tasks["a.fix1"].notes) == ({"tried": 1}, {"tried": 2})


def test_a_note_that_does_not_fit_is_refused_with_the_limit() -> None:
    full = given(start(A), *(noted(f"k{n}", n) for n in range(32)))
    full.when(noted("one-more", 1)).then(
        An(ReportRefused, why="task a has 32 notes, which is the limit: write over one of them")
    )
    full.when(noted("k3", "again")).then(An(TaskNoted, key="k3"))
    full.when(noted("k4", "x" * 4_095)).then(An(ReportRefused))
    assert "note k4 has 4097 bytes, the limit is 4096" in full.events[0].why
    full.when(noted("not a key", 1)).then(An(ReportRefused))
    assert "'not a key' is no key" in full.events[0].why


def test_a_plain_task_is_recorded_as_briefly_as_ever() -> None:
    """What nobody says takes no room: only the seconds of the attempt do."""
    story = given(start(A)).when(completed("a/1", 1)).then(An(TaskStarted), An(TaskCompleted), An(WorkflowCompleted))
    assert b'"usage":{"seconds":0.0}' in msgspec.json.encode(story.events[1])
    dispatched = decide(Workflow(), start(A))[1]
    assert b"notes" not in msgspec.json.encode(dispatched) and b"budget" not in msgspec.json.encode(dispatched)
