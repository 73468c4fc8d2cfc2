"""Rules of calls within a budget: one that does not fit is refused; however many there are, the cap holds."""

from typing import Any

from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from spec import An, failed, given, started
from test_budget import ONE_MORE, A, books, reserve, settle, spent, within

from domain.events import (
    AskOpened,
    AttemptFailed,
    CallReserved,
    CallSettled,
    ReportRefused,
    RetryScheduled,
)
from domain.outcome import Failure
from domain.plan import Budget, Task
from domain.state import Workflow, replay
from domain.usage import Spent
from domain.workflow import decide

# Calls


def test_a_call_is_reserved_before_and_settled_after() -> None:
    story = given(within(ONE_MORE), started("a/1", 1)).when(reserve("one", 600))
    story.then(CallReserved(task="a", run="a/1", call="one", tokens=600))
    story.when(reserve("two", 600)).then(
        An(ReportRefused, why="a call of 600 tokens does not fit: 400 of the 1000 of task/a are left for it")
    )
    story.when(settle("one", spent(100))).then(CallSettled(task="a", run="a/1", call="one", tokens=100))
    story.when(reserve("two", 600)).then(An(CallReserved))


def test_a_call_takes_from_what_is_left_of_all_where_its_attempt_does_not_hold_enough() -> None:
    story = given(within(A, Task("b"), Task("c", dependencies=("a",)), budget=Budget(tokens=900)), started("a/1", 1))
    story.when(reserve("one", 500)).then(An(CallReserved))
    account = books(story.state).accounts["workflow"]
    assert (account.held.tokens, account.left("tokens")) == (800, 100)
    story.when(reserve("two", 101)).then(An(ReportRefused, kind="reserve"))
    story.when(reserve("two", 100)).then(An(CallReserved))


def test_a_call_that_does_not_say_how_much_is_the_only_one() -> None:
    story = given(within(ONE_MORE), started("a/1", 1)).when(reserve("one")).then(An(CallReserved, tokens=1_000))
    story.when(reserve("two")).then(An(ReportRefused, why="nothing is left of the tokens that run a/1 may use"))
    story.when(settle("one", spent(1_400))).then(An(CallSettled))
    story.when(reserve("two", 1)).then(An(ReportRefused))


def test_what_a_call_used_and_nobody_knows_is_counted_as_reserved() -> None:
    story = given(within(ONE_MORE), started("a/1", 1), reserve("one", 600)).when(settle("one", Spent()))
    story.then(CallSettled(task="a", run="a/1", call="one"))
    story.when(reserve("two", 500)).then(An(ReportRefused))


def test_a_spender_whose_call_was_refused_is_ended_by_a_person_and_not_tried_again() -> None:
    story = given(within(ONE_MORE), started("a/1", 1), reserve("one", 900), settle("one", spent(900)))
    story.when(reserve("two", 900)).then(An(ReportRefused, kind="reserve"))
    story.when(failed("a/1", 1, "budget")).then(An(AttemptFailed), An(AskOpened, kind="budget"))
    assert story.events[-1].content["raise"] == {"task/a": {"tokens": 1_000}}


def test_an_agent_that_was_refused_nothing_cannot_blame_the_budget() -> None:
    story = given(within(ONE_MORE), started("a/1", 1)).when(failed("a/1", 1, "budget"))
    story.then(An(AttemptFailed, failure=Failure("agent_error", "(budget) it broke")), An(RetryScheduled))


def test_a_call_is_fenced_by_the_lease() -> None:
    story = given(within(ONE_MORE), started("a/1", 1)).when(reserve("one", 1, token=2))
    story.then(An(ReportRefused, kind="reserve"))


SIZES = st.integers(1, 40)
CALLS = st.lists(st.tuples(st.integers(0, 4), SIZES, SIZES, st.booleans()), min_size=1, max_size=120)


@settings(max_examples=150, deadline=None)
@given_any(cap=st.integers(1, 400), calls=CALLS, ends=st.lists(st.integers(0, 9), max_size=8), over=SIZES)
def test_honest_calls_never_pass_the_cap_and_one_that_is_not_passes_it_by_itself_alone(
    cap: int, calls: list[tuple[int, int, int, bool]], ends: list[int], over: int
) -> None:
    """Five agents reserve and settle at random, up to 120 calls at once; one of them, once, uses more than it said."""
    tasks = [Task(name, max_attempts=9) for name in "abcde"]
    state = replay(decide(Workflow(), within(*tasks, budget=Budget(tokens=cap))))
    excess, out = 0, list[tuple[str, str, int]]()

    def tell(command: Any) -> list[Any]:
        events = decide(state, command)
        replay(events, state)
        account = books(state).accounts["workflow"]
        assert account.used.tokens + account.held.tokens <= cap + excess
        assert account.held.tokens == sum(hold.granted.tokens for hold in books(state).holds.values())
        assert all(hold.taken.tokens <= hold.granted.tokens for hold in books(state).holds.values())
        return events

    for number, (who, tokens, really, now) in enumerate(calls):
        task = state.tasks["abcde"[who]]
        if task.run is None:
            continue
        where = {"run": task.run.id, "token": task.run.token}
        if any(isinstance(event, CallReserved) for event in tell(reserve(str(number), tokens, **where))):
            out.append((task.spec.id, str(number), tokens))
        if now and out:
            name, call, most = out.pop()
            run = state.tasks[name].run
            if run is not None:
                honest = min(really, most)
                tell(settle(call, spent(honest), run=run.id, token=run.token))
        if number in ends:
            tell(failed(task.run.id, task.run.token))
            out = [one for one in out if one[0] != task.spec.id]
    if out:
        name, call, most = out.pop()
        run = state.tasks[name].run
        assert run is not None
        excess = over
        tell(settle(call, spent(most + over), run=run.id, token=run.token))
        for other, last, size in out:
            run = state.tasks[other].run
            assert run is not None
            tell(settle(last, spent(size), run=run.id, token=run.token))
