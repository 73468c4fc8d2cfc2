"""Rules of budgets: reserved before it is spent, settled after; what does not fit is refused, and a person is asked."""

from typing import Any

import msgspec
import pytest
from spec import NOBODY, NOW, An, asked, completed, failed, given, offer_again, retry, started, too_late
from test_usage import PRICES, told, used

from domain.budget import Books
from domain.commands import (
    ExpireLease,
    ExpireRun,
    RaiseBudget,
    ReportCompleted,
    ReportReserve,
    ReportSettle,
    StartWorkflow,
)
from domain.errors import Refused
from domain.events import (
    AskAnswered,
    AskExpired,
    AskOpened,
    AttemptFailed,
    BudgetRaised,
    RetryScheduled,
    TaskBranched,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskStarted,
    UsageCorrected,
    WorkflowEvent,
    WorkflowFailed,
)
from domain.outcome import Failure, Result
from domain.plan import Budget, Plan, Route, Task
from domain.state import Workflow, replay
from domain.usage import Spent, Usage
from domain.workflow import decide

A = Task("a")
ONE_MORE = Task("a", budget=Budget(tokens=1_000))


def within(*tasks: Task, budget: Budget = Budget(), **roles: Budget) -> StartWorkflow:
    plan = Plan(id="w", tasks=tasks, budget=budget, role_budgets=roles)
    return StartWorkflow(now=NOW, workflow="w", plan=plan, prices=PRICES)


def spent(tokens: int, **more: Any) -> Spent:
    return Spent(input_total=tokens, output=0, **more)


def done(run: str, token: int, tokens: int | None, now: float = NOW) -> ReportCompleted:
    task = run.split("/")[0]
    told = None if tokens is None else spent(tokens)
    return ReportCompleted(now=now, task=task, run=run, token=token, agent="ann", result=Result("done"), spent=told)


def reserve(call: str, tokens: int | None = None, usd: float | None = None, *, run: str = "a/1", token: int = 1) -> Any:
    task = run.split("/")[0]
    return ReportReserve(now=NOW, task=task, run=run, token=token, agent="ann", call=call, tokens=tokens, usd=usd)


def settle(call: str, told: Spent, *, run: str = "a/1", token: int = 1) -> ReportSettle:
    return ReportSettle(now=NOW, task=run.split("/")[0], run=run, token=token, agent="ann", call=call, spent=told)


def raised(amount: Budget, scope: str = "workflow") -> RaiseBudget:
    return RaiseBudget(now=NOW, scope=scope, amount=amount, by="pat", because="it pays")


def books(state: Workflow) -> Books:
    assert state.books is not None
    return state.books


# What a dispatch reserves


def test_without_budgets_nothing_is_kept_and_no_call_is_recorded() -> None:
    story = given(within(A), started("a/1", 1)).when(reserve("one", 10**9)).then()
    story.when(settle("one", spent(7))).then()
    assert story.state.books is None


def test_an_attempt_reserves_its_part_of_what_is_left() -> None:
    begin = within(A, Task("b"), Task("c", dependencies=("a",)), budget=Budget(tokens=1_000))
    grants = [one.budget for one in decide(Workflow(), begin) if isinstance(one, TaskDispatched)]
    assert grants == [Budget(tokens=334), Budget(tokens=333)]
    given(begin).when(done("a/1", 1, 100)).then(
        An(TaskStarted), An(TaskCompleted, "a"), An(TaskDispatched, "c", budget=Budget(tokens=567))
    )


def test_the_narrowest_of_workflow_role_and_task_decides() -> None:
    tasks = Task("a", budget=Budget(tokens=80, usd=9.0)), Task("b", agent_role="writer")
    begun = decide(Workflow(), within(*tasks, budget=Budget(tokens=1_000, usd=4.0), coder=Budget(tokens=90)))
    grants = [one.budget for one in begun if isinstance(one, TaskDispatched)]
    assert grants == [Budget(tokens=80, usd=2.0), Budget(tokens=920, usd=2.0)]


def test_an_agent_that_does_not_say_what_it_used_is_counted_as_it_had_reserved() -> None:
    story = given(within(A, Task("b", dependencies=("a",)), budget=Budget(tokens=1_000, usd=2.0)))
    story.when(done("a/1", 1, None)).then(
        An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "b", budget=Budget(tokens=500, usd=1.0))
    )
    assert story.events[1].usage.tokens is None, "unknown stays unknown"


def test_an_unknown_cost_is_counted_by_the_prices() -> None:
    story = given(within(A, Task("b", dependencies=("a",)), budget=Budget(usd=10.0)))
    told = Spent(model="big", input_total=1_000_000, output=0)
    story.when(ReportCompleted(now=NOW, task="a", run="a/1", token=1, agent="ann", result=Result(), spent=told)).then(
        An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "b", budget=Budget(usd=7.0))
    )


def test_late_numbers_are_counted_too() -> None:
    story = given(within(A, Task("b"), budget=Budget(tokens=1_000)), started("a/1", 1), told(None))
    assert books(story.state).accounts["workflow"].used.tokens == 500
    story.when(used(spent(20))).then(An(UsageCorrected))
    assert books(story.state).accounts["workflow"].used.tokens == 20


def test_late_numbers_are_those_of_the_role_that_did_the_work() -> None:
    roles = {"coder": Budget(tokens=1_000), "writer": Budget(tokens=1_000)}
    routed = Task("a", failure_routing={"agent_error": Route("route", "writer")})
    story = given(within(routed, **roles), failed("a/1", 1)).when(used(spent(20))).then(An(UsageCorrected))
    accounts = books(story.state).accounts
    assert (accounts["role/coder"].used.tokens, accounts["role/writer"].used.tokens) == (20, 0)


def test_an_offer_that_is_made_again_reserves_nothing_more() -> None:
    story = given(within(ONE_MORE)).when(offer_again(1)).then(An(TaskDispatched, budget=Budget(tokens=1_000)))
    assert books(story.state).accounts["task/a"].held.tokens == 1_000
    assert books(story.state).accounts["task/a"].attempts == 1


def test_a_branch_gets_what_its_task_has_left() -> None:
    routed = Task("a", budget=Budget(tokens=1_000), failure_routing={"agent_error": "debugger"})
    story = given(within(routed), started("a/1", 1), reserve("one", 300), settle("one", spent(300)))
    story.when(failed("a/1", 1)).then(
        An(AttemptFailed), An(TaskBranched), An(TaskDispatched, "a.fix1", budget=Budget(tokens=700))
    )


# Nothing left


def test_where_nothing_is_left_a_person_is_asked_instead_of_a_dispatch() -> None:
    story = given(within(A, Task("b", dependencies=("a",)), budget=Budget(tokens=1_000)))
    story.when(done("a/1", 1, 1_000)).then(An(TaskStarted), An(TaskCompleted), An(AskOpened, "b", kind="budget"))
    assert story.events[-1].content["raise"] == {"workflow": {"tokens": 1_000}}
    story.when(story.answer("ask-1", "raise")).then(
        An(AskAnswered, "b"),
        BudgetRaised(scope="workflow", amount=Budget(tokens=1_000), by="pat"),
        An(TaskDispatched, "b", budget=Budget(tokens=1_000)),
    )


def test_whom_a_person_gives_no_more_fails() -> None:
    story = given(within(A, Task("b", dependencies=("a",)), budget=Budget(tokens=9)), done("a/1", 1, 10))
    story.when(story.answer("ask-1", "fail", because="too dear")).then(
        An(AskAnswered), TaskFailed(task="b", failure=Failure("budget", "too dear")), An(WorkflowFailed)
    )


def test_a_retry_is_an_attempt_and_the_last_one_asks() -> None:
    story = given(within(Task("a", budget=Budget(attempts=2))), failed("a/1", 1), retry(2), failed("a/2", 2))
    story.when(retry(3)).then(An(AskOpened, kind="budget"))
    story.when(story.answer("ask-1", "raise")).then(
        An(AskAnswered), An(BudgetRaised, scope="task/a", amount=Budget(attempts=2)), An(TaskDispatched, run="a/3")
    )


def test_raising_a_budget_lets_all_go_on_that_waited_for_it() -> None:
    story = given(within(A, Task("b", dependencies=("a",)), Task("c", dependencies=("a",)), budget=Budget(tokens=90)))
    story.when(done("a/1", 1, 90)).then(An(TaskStarted), An(TaskCompleted), An(AskOpened, "b"), An(AskOpened, "c"))
    story.when(raised(Budget(tokens=100))).then(
        BudgetRaised(scope="workflow", amount=Budget(tokens=100), by="pat", because="it pays"),
        An(AskAnswered, "b", by="pat"), An(TaskDispatched, "b", budget=Budget(tokens=50)),
        An(AskAnswered, "c", by="pat"), An(TaskDispatched, "c", budget=Budget(tokens=50)),
    )  # fmt: skip


def test_time_in_which_they_waited_for_it_does_not_count() -> None:
    plan = within(A, Task("b", dependencies=("a",)), Task("c", dependencies=("a",)), budget=Budget(tokens=90))
    more = msgspec.structs.replace(raised(Budget(tokens=100)), now=NOW + 5000)
    story = given(plan, done("a/1", 1, 90), more)
    assert story.state.clock.due == NOW + 5000 + 1800


def test_nobody_adds_to_a_budget_by_not_answering() -> None:
    plan = within(A, Task("b", dependencies=("a",)), budget=Budget(tokens=9))
    story = (
        given(plan, done("a/1", 1, 10))
        .when(too_late("ask-1", NOW + 86_400))
        .then(
            An(AskExpired, "b", choice="fail"),
            TaskFailed(task="b", failure=Failure("budget", "nobody answered in time")),
            An(WorkflowFailed),
        )
    )
    at_once = msgspec.structs.replace(plan, plan=msgspec.structs.replace(plan.plan, escalation=NOBODY))
    story = given(at_once, done("a/1", 1, 10))
    assert story.state.asks["ask-1"].due == NOW


def test_a_run_that_ends_with_a_question_is_counted_too() -> None:
    story = given(within(ONE_MORE), started("a/1", 1), asked("a/1", 1, spent=spent(400)))
    assert story.state.tasks["a"].runs[0].usage == Usage(input_total=400, output=0, seconds=0.0)
    story.when(story.answer("ask-1", "that one")).then(An(AskAnswered), An(TaskDispatched, budget=Budget(tokens=600)))


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (raised(Budget(tokens=1), "role/coder"), "role/coder has no budget .* those that do: task/a"),
        (raised(Budget(usd=1), "task/a"), "does not limit usd"),
    ],
)
def test_what_is_not_limited_cannot_be_raised(command: RaiseBudget, why: str) -> None:
    given(within(ONE_MORE)).when(command).refused(Refused, why)


# Time


def test_an_attempt_that_reaches_the_end_of_its_working_time_is_ended_and_a_person_asked() -> None:
    story = given(within(Task("a", budget=Budget(seconds=60.0)))).when(started("a/1", 1))
    story.then(An(TaskStarted, timeout_at=NOW + 60))
    story.when(ExpireRun(now=NOW + 60, task="a", token=1)).then(
        An(AttemptFailed, failure=Failure("budget", "run a/1 took longer than 60 s, its part of the budget")),
        An(AskOpened, kind="budget"),
    )


def test_an_agent_that_says_so_itself_is_ended_by_the_budget_too_and_one_that_gave_up_before_is_not() -> None:
    story = given(within(Task("a", budget=Budget(seconds=60.0))), started("a/1", 1))
    late = msgspec.structs.replace(failed("a/1", 1, "timeout"), now=NOW + 59.9)
    story.when(late).then(
        An(AttemptFailed, failure=Failure("budget", "it broke, its part of the budget")), An(AskOpened, kind="budget")
    )
    story = given(within(Task("a", budget=Budget(seconds=60.0))), started("a/1", 1))
    early = msgspec.structs.replace(failed("a/1", 1, "timeout"), now=NOW + 30)
    story.when(early).then(An(AttemptFailed, failure=Failure("timeout", "it broke")), An(RetryScheduled))


def test_working_time_that_is_left_over_is_there_for_the_next_attempt() -> None:
    story = given(within(Task("a", budget=Budget(seconds=60.0))), started("a/1", 1))
    story.when(ExpireLease(now=NOW + 40, task="a", token=1)).then(An(AttemptFailed), An(RetryScheduled))
    story.when(retry(2)).then(An(TaskDispatched, timeout_seconds=20.0, budget=Budget(seconds=20.0)))


def test_what_was_stored_folds_to_the_same_books() -> None:
    begin = within(A, Task("b", dependencies=("a",)), budget=Budget(tokens=900, usd=1.0, seconds=50.0))
    state, history = Workflow(), list[WorkflowEvent]()
    for command in (begin, started("a/1", 1), reserve("one", 5), settle("one", spent(3)), completed("a/1", 1)):
        events = decide(state, command)
        history += events
        replay(events, state)
    assert replay(msgspec.json.decode(msgspec.json.encode(history), type=list[WorkflowEvent])) == state
    assert msgspec.json.decode(msgspec.json.encode(state), type=Workflow) == state
