"""The rules of every ask: questions of agents, what to do where everything was tried, deadlines, and who may answer.

It is long because it is whole: a sentence for each option, deadline and refusal.
"""

import msgspec
import pytest
from spec import (
    AT_ONCE,
    NOW,
    TESTS,
    An,
    asked,
    completed,
    failed,
    given,
    green,
    red,
    retry,
    start,
    started,
    too_late,
    verified,
)

from domain.asks import QUESTION_SECONDS, QUESTIONS
from domain.errors import Conflict, Refused
from domain.events import (
    Answered,
    AskAnswered,
    AskExpired,
    AskOpened,
    AttemptFailed,
    ReportRefused,
    RetryScheduled,
    TaskAsked,
    TaskBranched,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskFailed,
    TaskReported,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    WorkflowCompleted,
    WorkflowFailed,
)
from domain.outcome import Failure, Result
from domain.plan import Approvals, Edit, Escalation, Task, Test

A, AFTER_A = Task("a"), Task("b", dependencies=("a",))
ONCE = Task("a", max_attempts=1)
CHECKED = Task("a", acceptance_criteria=TESTS, max_attempts=1)
BEFORE = ("before_dispatch",)
ASKING = Escalation()
DAY = 86_400.0


def exhausted(*tasks: Task, **plan: object) -> given:
    """A story in which the first task has used up its attempt, and left no result."""
    return given(start(*tasks, **({"escalation": ASKING} | plan)), failed("a/1", 1))


def unproven() -> given:
    """A story in which the work was done but its tests failed, for the last time."""
    return given(start(CHECKED, AFTER_A, escalation=ASKING), completed("a/1", 1), verified("a/verify.1", 2, *red()))


# Questions


def test_a_question_ends_the_run_and_is_no_failure() -> None:
    story = given(start(ONCE), started("a/1", 1))
    story.when(asked("a/1", 1, "Which port?", options=("80", "8080"), due_seconds=60.0, default="80")).then(
        TaskAsked(task="a", run="a/1", agent="ann", usage=AT_ONCE),
        An(
            AskOpened, "a", ask="ask-1", kind="question", question="Which port?", options=("80", "8080"), default="80",
            at=NOW, due=NOW + 60, who=(),
        ),
    )  # fmt: skip
    assert (story.state.tasks["a"].failures, story.state.tasks["a"].run) == (0, None)
    story.when(completed("a/1", 1)).then(An(ReportRefused, why="the task is waiting"))


def test_the_answer_reaches_the_next_run() -> None:
    story = given(start(ONCE), asked("a/1", 1, "Which port?", options=("80", "8080")))
    story.when(story.answer("ask-1", "8080", instructions="and say so")).then(
        An(AskAnswered, "a", choice="8080", by="pat"),
        An(
            TaskDispatched, "a", run="a/2", attempt=2, token=2,
            answers=(Answered("ask-1", "Which port?", "8080", "and say so", "pat"),),
        ),
    )  # fmt: skip
    story.when(failed("a/2", 2, "agent_lost")).then(An(TaskStarted), An(AttemptFailed), An(RetryScheduled))
    story.when(retry(3)).then(An(TaskDispatched, run="a/3", answers=story.state.tasks["a"].answers))


def test_an_open_question_takes_any_words_but_none() -> None:
    story = given(start(A), asked("a/1", 1))
    story.when(story.answer("ask-1", " ")).refused(Conflict, "takes an answer in words")
    story.when(story.answer("ask-1", "the blue one")).then(An(AskAnswered), An(TaskDispatched, run="a/2"))


def test_a_question_that_nobody_answers_has_its_default_for_an_answer() -> None:
    story = given(start(A), asked("a/1", 1, options=("red", "blue"), default="blue"))
    story.when(too_late("ask-1", NOW + QUESTION_SECONDS)).then(
        An(AskExpired, "a", ask="ask-1", choice="blue"),
        An(TaskDispatched, answers=(Answered("ask-1", "Which?", "blue"),)),
    )


def test_one_without_a_default_is_told_that_nobody_answered() -> None:
    story = given(start(A), asked("a/1", 1))
    story.when(too_late("ask-1")).then(
        An(AskExpired, "a", choice=None), An(TaskDispatched, answers=(Answered("ask-1", "Which?"),))
    )


def test_a_task_that_asks_for_ever_has_failed_attempts() -> None:
    story = given(start(ONCE))
    for n in range(1, QUESTIONS + 1):
        story.when(asked(f"a/{n}", n)).then(An(TaskStarted), An(TaskAsked), An(AskOpened, ask=f"ask-{n}"))
        story.when(story.answer(f"ask-{n}", "this")).then(An(AskAnswered), An(TaskDispatched))
    story.when(asked(f"a/{QUESTIONS + 1}", QUESTIONS + 1)).then(
        An(TaskStarted), An(AttemptFailed), An(TaskFailed), An(WorkflowFailed)
    )


def test_a_tester_judges_and_does_not_ask() -> None:
    story = given(start(CHECKED), completed("a/1", 1))
    story.when(asked("a/verify.1", 2, agent="tess")).then(An(ReportRefused, kind="asked"))


def test_what_was_approved_is_not_asked_for_again_when_the_task_runs_again_unchanged() -> None:
    story = given(start(Task("a", approval=BEFORE)))
    story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskDispatched))
    story.when(failed("a/1", 1)).then(An(TaskStarted), An(AttemptFailed), An(RetryScheduled))
    story.when(retry(2)).then(An(TaskDispatched, run="a/2"))
    story.when(asked("a/2", 2)).then(An(TaskStarted), An(TaskAsked), An(AskOpened, kind="question"))
    story.when(story.answer("ask-2", "this")).then(An(AskAnswered), An(TaskDispatched, run="a/3"))


# Everything was tried


def test_where_everything_was_tried_a_person_is_asked_and_shown_what_was() -> None:
    story = given(start(ONCE, AFTER_A, escalation=Escalation(who=("lea",)))).when(failed("a/1", 1))
    story.then(
        An(TaskStarted), An(AttemptFailed),
        An(AskOpened, "a", kind="escalation", options=("retry", "edit", "reassign", "fail"), default="fail",
           who=("lea",), due=NOW + DAY, question="it broke: what now?"),
    )  # fmt: skip
    shown = story.events[-1].content
    assert (shown["task"]["id"], shown["failure"]["message"], shown["attempts"]) == ("a", "it broke", 1)
    assert story.state.status == "running"


def test_a_branch_that_is_exhausted_is_its_parents_matter_and_the_parent_asks() -> None:
    task = Task("a", failure_routing={"agent_error": "debugger"}, max_attempts=1, max_debug_attempts=1)
    story = given(start(task, escalation=ASKING), failed("a/1", 1)).when(failed("a.fix1/1", 2))
    story.then(
        An(TaskStarted), An(AttemptFailed, "a.fix1"), An(TaskFailed, "a.fix1"), An(AskOpened, "a", kind="escalation")
    )


def test_retried_the_next_run_is_told_what_to_do_and_all_attempts_are_there_anew() -> None:
    story = given(start(Task("a", max_attempts=2), escalation=ASKING), failed("a/1", 1), retry(2), failed("a/2", 2))
    story.when(story.answer("ask-1", "retry", instructions="use the cache")).then(
        An(AskAnswered, choice="retry", instructions="use the cache"),
        An(TaskDispatched, "a", run="a/3", attempt=3, answers=story_told("retry", "use the cache")),
    )
    story.when(failed("a/3", 3)).then(An(TaskStarted), An(AttemptFailed), An(RetryScheduled, attempt=4))
    story.when(retry(4)).then(An(TaskDispatched, run="a/4", answers=story_told("retry", "use the cache")))
    story.when(failed("a/4", 4)).then(An(TaskStarted), An(AttemptFailed), An(AskOpened, ask="ask-2"))


def story_told(choice: str, instructions: str) -> tuple[Answered, ...]:
    return (Answered("ask-1", "it broke: what now?", choice, instructions, "pat"),)


def test_accepted_the_work_counts_as_it_is_and_who_waived_the_evidence_is_recorded() -> None:
    story = unproven()
    assert "accept" in story.state.asks["ask-1"].options
    story.when(story.answer("ask-1", "accept", because="the test is wrong")).then(
        An(AskAnswered, because="the test is wrong"),
        TaskCompleted(task="a", run="a/1", agent="ann", result=Result("done", "c1"), waived_by="pat"),
        An(TaskDispatched, "b", bases=("c1",)),
    )


def test_what_left_no_result_cannot_be_accepted() -> None:
    story = exhausted(ONCE)
    story.when(story.answer("ask-1", "accept")).refused(Conflict, "has no option 'accept', it has: retry, edit,")


def test_edited_the_task_is_done_as_it_says_now() -> None:
    story = unproven()
    edit = Edit("say it", {"n": 1}, (Test("true"),))
    story.when(story.answer("ask-1", "edit", edit=edit)).then(
        An(AskAnswered, edit=edit),
        An(TaskEdited, "a", by="pat"),
        An(TaskDispatched, "a", run="a/2", description="say it", inputs={"n": 1}),
    )
    story.when(completed("a/2", 3)).then(
        An(TaskStarted), An(TaskReported), An(TaskDispatched, purpose="verify", tests=(Test("true"),))
    )


def test_an_edit_has_to_leave_a_task_that_a_plan_can_hold() -> None:
    story = exhausted(ONCE)
    for edit, why in (
        (Edit(tests=(Test(" "),)), "cmd: "),
        (Edit(), "changes nothing"),
        (Edit(description="\0"), "NUL"),
        (Edit(description="x" * 300_000), "the limit is"),
        (None, "takes what is to be edited"),
    ):
        story.when(story.answer("ask-1", "edit", edit=edit)).refused(Refused, why)
    story.when(story.answer("ask-1", "retry", edit=Edit("x"))).refused(Refused, "no other choice does")


def test_reassigned_another_role_does_it() -> None:
    story = exhausted(ONCE, roles=("quant",))
    story.when(story.answer("ask-1", "reassign")).refused(Refused, "takes a role")
    story.when(story.answer("ask-1", "reassign", role="quand")).refused(Refused, 'did you mean "quant"')
    story.when(story.answer("ask-1", "retry", role="quant")).refused(Refused, "no other choice does")
    story.when(story.answer("ask-1", "reassign", role="quant")).then(
        An(AskAnswered, role="quant"), An(TaskEdited), An(TaskDispatched, "a", run="a/2", role="quant")
    )


def test_reassigned_what_only_agents_of_the_former_role_have_is_not_needed() -> None:
    story = exhausted(Task("a", max_attempts=1, capabilities=("gpu",)))
    story.when(story.answer("ask-1", "reassign", role="writer")).then(
        An(AskAnswered), An(TaskEdited), An(TaskDispatched, "a", role="writer", capabilities=())
    )
    story = exhausted(Task("a", max_attempts=1, capabilities=("gpu",)))
    story.when(story.answer("ask-1", "retry")).then(
        An(AskAnswered), An(TaskDispatched, "a", role="coder", capabilities=("gpu",))
    )


def test_failed_what_depends_on_it_is_skipped() -> None:
    story = exhausted(ONCE, AFTER_A)
    story.when(story.answer("ask-1", "fail")).then(
        An(AskAnswered), TaskFailed(task="a", failure=Failure("agent_error", "it broke")), An(TaskSkipped, "b"),
        An(WorkflowFailed),
    )  # fmt: skip


def test_nobody_answers_and_the_default_is_taken() -> None:
    story = exhausted(ONCE)
    story.when(too_late("ask-1", NOW + DAY - 1)).then()
    story.when(too_late("ask-1", NOW + DAY)).then(An(AskExpired, choice="fail"), An(TaskFailed), An(WorkflowFailed))
    story.when(too_late("ask-1")).then()
    story.when(story.answer("ask-1", "retry")).refused(Conflict, "was not answered in time: fail was taken")


def test_the_default_can_be_to_accept_what_there_is() -> None:
    plan = Escalation(default="accept")
    story = given(start(CHECKED, escalation=plan), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    story.when(too_late("ask-1")).then(
        An(AskExpired, choice="accept"), An(TaskCompleted, waived_by="nobody answered in time"), An(WorkflowCompleted)
    )
    nothing = exhausted(ONCE, escalation=plan)
    nothing.when(too_late("ask-1")).then(An(AskExpired, choice="fail"), An(TaskFailed), An(WorkflowFailed))


def test_a_plan_that_asks_nobody_has_its_default_taken_at_once() -> None:
    at_once = Escalation(due_seconds=0.0, default="accept")
    story = given(start(CHECKED, escalation=at_once), completed("a/1", 1)).when(verified("a/verify.1", 2, *red()))
    story.then(
        An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(TaskCompleted, waived_by="the plan"),
        An(WorkflowCompleted),
    )  # fmt: skip


def test_a_refusal_is_a_persons_word_already_and_asks_nobody() -> None:
    story = given(start(Task("a", approval=("before_completion",)), escalation=ASKING), completed("a/1", 1))
    story.when(story.answer("ask-1", "reject")).then(An(AskAnswered), An(TaskFailed), An(WorkflowFailed))


def test_after_a_retry_the_branches_stay_counted() -> None:
    routed = msgspec.structs.replace(CHECKED, failure_routing={"test_failure": "debugger"}, max_debug_attempts=1)
    story = given(start(routed, escalation=ASKING), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    story.when(completed("a.fix1/1", 3, "c2")).then(
        An(TaskStarted), An(TaskCompleted), An(TaskReported), An(TaskDispatched)
    )
    story.when(verified("a/verify.2", 4, *red("c2"))).then(
        An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(AskOpened, "a", kind="escalation")
    )
    story.when(story.answer("ask-1", "retry")).then(An(AskAnswered), An(TaskDispatched, "a", run="a/2", bases=("c0",)))
    story.when(completed("a/2", 5, "c3")).then(An(TaskStarted), An(TaskReported), An(TaskDispatched))
    story.when(verified("a/verify.3", 6, *green("c3"))).then(
        An(TaskStarted), An(TaskVerified), An(TaskCompleted, "a"), An(WorkflowCompleted)
    )
    assert not any(isinstance(event, TaskBranched) for event in story.events)


# What was approved


def test_a_task_that_was_changed_after_its_approval_is_asked_for_again() -> None:
    story = given(start(msgspec.structs.replace(ONCE, approval=BEFORE), escalation=ASKING))
    story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskDispatched))
    story.when(failed("a/1", 1)).then(An(TaskStarted), An(AttemptFailed), An(AskOpened, kind="escalation"))
    story.when(story.answer("ask-2", "edit", edit=Edit("another thing"))).then(
        An(AskAnswered), An(TaskEdited), An(AskOpened, "a", ask="ask-3", kind="before_dispatch")
    )
    assert story.state.asks["ask-3"].shown != story.state.asks["ask-1"].shown
    stale = story.answer("ask-3", "approve", shown=story.state.asks["ask-1"].shown)
    story.when(stale).refused(Conflict, "shows something else by now")
    story.when(story.answer("ask-3", "approve")).then(
        An(AskAnswered), An(TaskDispatched, run="a/2", description="another thing")
    )


@pytest.mark.parametrize(
    "change",
    [{"agent_role": "writer"}, {"inputs": {"n": 1}}, {"files": ("a.py",)}, {"acceptance_criteria": TESTS},
     {"metadata": {"k": 1}}, {"max_attempts": 7}],
)  # fmt: skip
def test_the_hash_covers_the_whole_task(change: dict[str, object]) -> None:
    task = Task("a", approval=BEFORE)
    shown = [given(start(one)).state.asks["ask-1"].shown for one in (task, msgspec.structs.replace(task, **change))]
    assert shown[0] != shown[1]


def test_the_hash_covers_the_commits_it_starts_from() -> None:
    task = Task("a", approval=BEFORE)
    assert len({given(start(task, base=base)).state.asks["ask-1"].shown for base in ("c0", "c1", None)}) == 3


def test_an_approval_that_nobody_gives_is_refused_or_given_as_the_plan_has_it() -> None:
    task = Task("a", approval=BEFORE)
    given(start(task)).when(too_late("ask-1", NOW + 7 * DAY)).then(
        An(AskExpired, choice="reject"), TaskFailed(task="a", failure=Failure("refused", "nobody answered in time")),
        An(WorkflowFailed),
    )  # fmt: skip
    story = given(start(task, approvals=Approvals(due_seconds=60.0, default="approve")))
    story.when(too_late("ask-1", NOW + 60)).then(An(AskExpired, choice="approve"), An(TaskDispatched, "a", run="a/1"))


# Who may answer


def test_an_ask_is_answered_by_those_it_is_for() -> None:
    story = given(start(Task("a", approval=BEFORE), approvals=Approvals(who=("lea", "kim"))))
    story.when(story.answer("ask-1", "approve")).refused(Conflict, "is for lea, kim to answer, not for pat")
    story.when(story.answer("ask-1", "approve", by="kim")).then(An(AskAnswered, by="kim"), An(TaskDispatched))


def test_a_choice_that_is_none_is_refused_with_those_there_are() -> None:
    story = given(start(Task("a", approval=BEFORE)))
    story.when(story.answer("ask-1", "yes")).refused(Conflict, "no option 'yes', it has: approve, reject")
