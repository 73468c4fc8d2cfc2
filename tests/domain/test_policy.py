"""What follows a failure: the plan's word for its type, as far as attempts and branches are left."""

import pytest

from domain.failures import FailureType
from domain.outcome import Failure, Result
from domain.plan import Retry as Backoff
from domain.plan import Route, Task
from domain.policy import LOST_LIMIT, Ask, Branch, Choice, Fail, Reroute, Retry, after_failure, after_refusal
from domain.state import TaskState

STEADY = Backoff(initial_seconds=10.0, factor=1.0, jitter=0.0)
OWN = Backoff(initial_seconds=3.0, factor=1.0, jitter=0.0)


def after(route: Route | str | None, kind: FailureType = "test_failure", **counters: int) -> Choice:
    routing = {kind: route} if route else {}
    task = TaskState(Task("a", retry=STEADY, failure_routing=routing), **{"failures": 1, **counters})
    return after_failure(task, Failure(kind, ""), [task], "w/a")


@pytest.mark.parametrize(
    ("route", "choice"),
    [
        (None, Retry(10.0)),
        (Route("retry"), Retry(10.0)),
        (Route("retry", retry=OWN), Retry(3.0)),
        (Route("route", "architect"), Reroute("architect", 10.0)),
        (Route("route", "architect", OWN), Reroute("architect", 3.0)),
        (Route("branch", "debugger"), Branch("debugger", "a")),
        ("debugger", Branch("debugger", "a")),
        (Route("ask"), Ask()),
        (Route("fail"), Fail()),
    ],
)
def test_the_plan_says_what_follows(route: Route | str | None, choice: Choice) -> None:
    assert after(route) == choice


@pytest.mark.parametrize("route", [None, Route("retry"), Route("route", "architect")])
def test_when_no_attempt_is_left_a_person_is_asked(route: Route | None) -> None:
    assert after(route, failures=3) == Ask()


def test_when_no_branch_is_left_what_is_left_of_the_attempts_is_tried_and_then_a_person_asked() -> None:
    assert after("debugger", branches=2, failures=2) == Retry(10.0)
    assert after("debugger", branches=2, failures=3) == Ask()
    assert after("debugger", branches=1, failures=3) == Branch("debugger", "a")


def test_what_surrounds_a_task_may_fail_more_often_than_its_work() -> None:
    assert after(None, "sandbox", failures=3, lost=1) == Retry(10.0)
    assert after(None, "sandbox", lost=LOST_LIMIT) == Ask()


def test_a_branch_that_is_given_up_is_its_parents_matter() -> None:
    assert after(None, failures=3, depth=1) == Fail()
    assert after(Route("ask"), depth=1) == Ask()


def test_a_branch_that_did_not_do_has_one_below_it_then_beside_it_then_further_up() -> None:
    spec = Task("a", failure_routing={"test_failure": "debugger"}, max_branch_depth=2, max_debug_attempts=2)

    def under(task: int, first: int, second: int) -> Choice:
        branches = [
            TaskState(Task("a.fix1.fix1"), depth=2, branches=second),
            TaskState(Task("a.fix1"), depth=1, branches=first),
        ]
        a = TaskState(spec, failures=9, branches=task)
        return after_failure(a, Failure("test_failure", ""), [*branches, a], "w/a")

    assert under(1, 1, 0) == Branch("debugger", "a.fix1"), "a third level is not allowed, a second one beside it is"
    assert under(1, 2, 0) == Branch("debugger", "a")
    assert under(2, 2, 0) == Ask()


def refused(route: Route | str | None, result: bool = True, **counters: int) -> Choice:
    task = TaskState(Task("a", retry=STEADY, failure_routing={"refused": route} if route else {}), **counters)
    task.result = Result() if result else None
    return after_refusal(task, [task])


@pytest.mark.parametrize(
    ("route", "choice"),
    [
        (None, Fail()),
        ("debugger", Branch("debugger", "a")),
        (Route("ask"), Ask()),
        (Route("retry"), Retry(10.0)),
        (Route("route", "architect", OWN), Reroute("architect", 3.0)),
    ],
)
def test_a_refusal_ends_a_task_unless_the_plan_says_otherwise(route: Route | str | None, choice: Choice) -> None:
    assert refused(route, attempt=1) == choice


def test_who_refuses_what_is_not_begun_or_for_the_last_time_ends_it() -> None:
    assert refused("debugger", result=False) == Fail()
    assert refused(Route("retry"), result=False) == Fail()
    assert refused(Route("retry"), attempt=3) == Fail()
    assert refused("debugger", branches=2) == Fail()
