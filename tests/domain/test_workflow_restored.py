"""The rules of a workflow whose ledger was brought back from a backup: two lives never believe each other's agents."""

from spec import NOW, TESTS, An, completed, failed, given, green, offer_again, retry, start, started, verified

from domain.commands import ExpireLease, Restore
from domain.events import (
    AskAnswered,
    ReportRefused,
    TaskCompleted,
    TaskDispatched,
    TaskStarted,
    TaskVerified,
    WorkflowCompleted,
    WorkflowRestored,
)
from domain.plan import Task

A, B = Task("a"), Task("b")
RESTORE = Restore(now=NOW + 50, skipped=1000, repository="/srv/restored.git")


def restored(tokens: int) -> WorkflowRestored:
    return WorkflowRestored(workflow="w", tokens=tokens, repository="/srv/restored.git", at=RESTORE.now)


def test_what_is_out_is_offered_again_under_tokens_of_the_new_life_whether_somebody_holds_it_or_not() -> None:
    story = given(start(A, B), started("a/1", 1)).when(RESTORE)
    story.then(
        restored(1002),
        An(TaskDispatched, "a", run="a/1", token=1003, attempt=1, repository="/srv/restored.git", due=NOW + 650),
        An(TaskDispatched, "b", run="b/1", token=1004, attempt=1, repository="/srv/restored.git"),
    )


def test_an_agent_of_the_old_life_is_refused_before_and_after_another_has_taken_its_run() -> None:
    story = given(start(A), started("a/1", 1), RESTORE)
    story.when(completed("a/1", 1)).then(An(ReportRefused, "a", token=1, agent="ann"))
    story.when(started("a/1", 1002, agent="bob")).then(An(TaskStarted, "a", agent="bob"))
    story.when(completed("a/1", 1)).then(An(ReportRefused, "a", token=1, agent="ann"))
    story.when(completed("a/1", 1002, agent="bob")).then(An(TaskCompleted, "a", agent="bob"), An(WorkflowCompleted))


def test_a_token_that_the_old_life_gave_out_after_the_backup_is_not_given_out_again() -> None:
    after_a = Task("b", dependencies=("a",))
    old = given(start(A, after_a), started("a/1", 1))
    old.when(completed("a/1", 1)).then(An(TaskCompleted), An(TaskDispatched, "b", run="b/1", token=2))
    new = given(start(A, after_a), started("a/1", 1), RESTORE, completed("a/1", 1002))
    assert new.state.tasks["b"].run is not None and new.state.tasks["b"].run.id == "b/1"
    new.when(completed("b/1", 2)).then(An(ReportRefused, "b", token=2))


def test_what_is_being_tested_is_tested_again_on_the_same_commit() -> None:
    story = given(start(Task("a", acceptance_criteria=TESTS)), completed("a/1", 1), started("a/verify.1", 2, "tess"))
    story.when(RESTORE).then(
        restored(1002), An(TaskDispatched, "a", run="a/verify.1", token=1003, purpose="verify", bases=("c1",))
    )
    story.when(verified("a/verify.1", 2, *green())).then(An(ReportRefused, "a"))
    story.when(verified("a/verify.1", 1003, *green())).then(
        An(TaskStarted), An(TaskVerified, passed=True), An(TaskCompleted, agent="ann"), An(WorkflowCompleted)
    )
    assert story.state.tasks["a"].checks == 1


def test_what_waits_for_time_or_a_person_goes_on_waiting_and_leads_to_new_tokens() -> None:
    story = given(start(A), failed("a/1", 1), RESTORE)
    assert story.state.tasks["a"].status == "retrying"
    story.when(retry(2)).then(An(TaskDispatched, "a", run="a/2", token=1002))
    story = given(start(Task("a", approval=("before_dispatch",))), RESTORE)
    story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskDispatched, "a", token=1001))


def test_a_deadline_of_the_old_life_fires_into_nothing() -> None:
    story = given(start(A), started("a/1", 1), RESTORE)
    story.when(ExpireLease(now=NOW, task="a", token=1)).then()
    story.when(offer_again(1)).then()


def test_what_has_ended_stays_as_it_is() -> None:
    given(start(A), completed("a/1", 1)).when(RESTORE).then()
