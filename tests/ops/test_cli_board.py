"""What is drawn of a workflow: pure functions of the board's rows and of events."""

from datetime import UTC, datetime, timedelta
from typing import Any

from domain.outcome import Failure, Receipt
from ops.cli.board import board, head
from ops.cli.happened import happened
from ops.cli.report import details, question, summary
from projections.board_rows import BoardAsk, BoardAttempt, BoardDetail, BoardTask, BoardWorkflow

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
NOW = START + timedelta(seconds=90)
SHA = "ab" * 32


def workflow(**changed: Any) -> BoardWorkflow:
    given: dict[str, Any] = {"workflow": "study", "title": "A study", "objective": "", "status": "running", "tasks": 3,
             "repository": "/data/artifacts.git", "base": None, "lease_seconds": 30.0, "started_at": START, "first": 4,
             "last": 40}  # fmt: skip
    return BoardWorkflow(**(given | changed))


def task(name: str, ordinal: int = 0, **changed: Any) -> BoardTask:
    given: dict[str, Any] = {"workflow": "study", "task": name, "title": "", "role": "coder", "dependencies": (), "parent": None,
             "depth": 0, "branch_reason": None, "priority": 0, "ordinal": ordinal, "created": 4, "updated": 4}  # fmt: skip
    return BoardTask(**(given | changed))


def run(name: str, run: str, dispatched: int, **changed: Any) -> BoardAttempt:
    given: dict[str, Any] = {"workflow": "study", "task": name, "run": run, "attempt": 1, "purpose": "work", "role": "coder",
             "dispatched_at": START, "dispatched": dispatched}  # fmt: skip
    return BoardAttempt(**(given | changed))


def ask(**changed: Any) -> BoardAsk:
    content = {"task": "b", "title": "Publish", "description": "Put it\non the site."}
    given: dict[str, Any] = {"workflow": "study", "ask": "ask-1", "task": "b", "kind": "before_dispatch", "shown": SHA,
             "content": content, "opened_at": START}  # fmt: skip
    return BoardAsk(**(given | changed))


FAILURE = Failure("test_failure", "`pytest` ended with exit code 1")
RECEIPT = Receipt("pytest -q", 1, False, 1.25, "bubblewrap, no network", "c0ffee", 9, SHA, "E  assert \x1b[31m1 == 2\n")
MENDED = BoardDetail(
    workflow(status="completed", completed=2, tasks=2, branches=1, ended_at=NOW),
    [
        task("a", 0, status="completed", commit="c" * 40, agent="fixer", failure=FAILURE, updated=30),
        task("a.fix1", 0, parent="a", depth=1, status="completed", commit="c" * 40, agent="fixer", created=9),
        task("b", 1, status="completed", commit="d" * 40, updated=39),
    ],
    [
        run("a", "a/1", 5, outcome="reported"),
        run("a", "a/verify.1", 7, purpose="verify", outcome="failed", agent="tester-1", failure=FAILURE),
        run("a.fix1", "a.fix1/1", 9, outcome="completed", agent="fixer"),
        run("a", "a/verify.2", 12, purpose="verify", outcome="passed"),
        run("b", "b/1", 20, outcome="completed"),
    ],
    [ask(open=False, approved=True, answered_by="ada", because="looks right")],
)


def drawn(detail: BoardDetail, width: int = 0, height: int = 0) -> list[str]:
    return [text.plain for text in board(detail, NOW, width, height)]


def test_a_branch_stands_under_its_parent_whatever_the_order_of_the_rows() -> None:
    detail = BoardDetail(
        workflow(),
        [task("b"), task("a"), task("a.fix1.fix1", parent="a.fix1", depth=2), task("a.fix1", parent="a", depth=1)],
        [], [],
    )  # fmt: skip
    assert [text.split()[1:3] for text in drawn(detail)[2:]] == [
        ["b", "coder"],
        ["a", "coder"],
        ["└", "a.fix1"],
        ["└", "a.fix1.fix1"],
    ]


def test_each_task_shows_its_state_attempt_time_and_what_it_waits_for() -> None:
    detail = BoardDetail(
        workflow(asks=1, completed=1, progress=1 / 3),
        [
            task("done", status="completed", attempt=1, commit="c" * 40, summary="wrote\nit", started_at=START,
                 ended_at=START + timedelta(seconds=3)),
            task("now", status="running", attempt=2, started_at=START, waiting_on="lease of bob"),
            task("later", status="retrying", failure=FAILURE, waiting_on="retry at 9:02"),
            task("lost", status="failed", failure=FAILURE),
        ],
        [], [],
    )  # fmt: skip
    top, _, done, now, later, lost = drawn(detail)
    assert top == "study  A study  running  1/3 completed · 1 ask · 1 m 30 s"
    assert done.startswith("✓ done   coder  completed ") and done.endswith("1     3.0 s  cccccccccc wrote it")
    assert "running" in now and now.endswith("2  1 m 30 s  waits for lease of bob")
    assert later.endswith("waits for retry at 9:02 (after test_failure)")
    assert lost.startswith("✗ lost") and lost.endswith("test_failure: `pytest` ended with exit code 1")


def test_a_board_fits_its_terminal_and_keeps_what_is_open() -> None:
    tasks = [task(f"t{n}", n, status="completed", updated=n) for n in range(500)]
    tasks[17].status = "running"
    lines = drawn(BoardDetail(workflow(tasks=500), tasks, [], []), width=40, height=20)
    assert len(lines) <= 20 and all(len(text) <= 40 for text in lines)
    assert any("t17 " in text for text in lines) and any("t499 " in text for text in lines)
    assert lines[-1] == "  … 484 more tasks"


def test_what_agents_say_is_escaped_wherever_it_is_shown() -> None:
    nasty = "\x1b[2J\x9b1m"
    failure = Failure("agent_error", nasty, detail=f"{nasty}\nlast")
    detail = BoardDetail(
        workflow(title=nasty, status="failed", reason=nasty),
        [task("a", status="failed", failure=failure, agent=nasty), task("b", status="completed", summary=nasty, commit=nasty)],
        [run("a", "a/1", 5, outcome="failed", failure=failure, agent=nasty)],
        [ask(content={"task": nasty, "note": nasty, "receipts": [{"cmd": nasty, "exit_code": 1, "output": nasty}]}),
         ask(ask="ask-2", open=False, approved=False, answered_by=nasty, because=nasty)],
    )  # fmt: skip
    shown = [*drawn(detail), *details(detail, NOW), *summary(detail, None), *question("study", detail.asks[0])]
    event = {"sequence": "7", "time": "2026-11-21T09:00:00Z", "type": "cairn.task.failed.v1", "subject": "workflow/w",
             "data": {"task": "a", "failure": {"type": "agent_error", "message": nasty}}}  # fmt: skip
    assert not any(mark in text for text in [*shown, happened(event)] for mark in "\x1b\x9b")


def test_a_summary_tells_the_failed_attempt_and_how_it_was_mended() -> None:
    text = "\n".join(summary(MENDED, "/data/artifacts.git"))
    assert (
        "failed     a/verify.1 by tester-1: test_failure: `pytest` ended with exit code 1; mended by a.fix1 (fixer, cccccccccc)"
        in text
    )
    assert "approved   b before_dispatch: approved by ada, looks right" in text
    assert "attempts   3 of work, 2 runs of tests, 1 failed" in text
    assert "positions  4 to 40" in text and "commit     dddddddddd  ai/generated/study/b" in text
    assert text.endswith("git -C /data/artifacts.git log --stat ai/generated/study/b")


def test_a_summary_tells_of_what_was_tried_again_and_of_what_was_not() -> None:
    detail = BoardDetail(
        workflow(status="failed", reason="failed: a", failed=1, ended_at=NOW), [task("a", status="failed", failure=FAILURE)],
        [run("a", "a/1", 5, outcome="failed", failure=FAILURE), run("a", "a/2", 9, outcome="failed", failure=FAILURE)], [],
    )  # fmt: skip
    text = "\n".join(summary(detail, None))
    assert "status     failed: failed: a" in text
    assert "exit code 1; tried again as a/2: failed" in text and "exit code 1; nothing came after it" in text
    assert "git" not in text


def test_show_names_the_command_that_answers_and_quotes_the_tests_that_failed() -> None:
    detail = BoardDetail(
        workflow(), [task("a", status="branched", failure=FAILURE, receipts=(RECEIPT,)), task("b", status="waiting")],
        [run("a", "a/1", 5, started_at=START)], [ask()],
    )  # fmt: skip
    text = "\n".join(details(detail, NOW))
    assert "ask-1  b  before_dispatch  open: cairn approve study ask-1" in text
    assert "a/1 no coder yet open 1 m 30 s" in text.replace("  ", " ")
    assert (
        "Why a failed: test_failure" in text and "  $ pytest -q" in text and "    | E  assert \\x1b[31m1 == 2" in text
    )


def test_a_question_shows_all_that_its_hash_covers() -> None:
    content = {"task": "b", "title": "Publish", "description": "One.\nTwo.", "result": {"commit": "c" * 40, "files": ["x.py"]},
               "receipts": [{"cmd": "pytest -q", "exit_code": 0, "duration_seconds": 1.5, "isolation": "docker"}],
               "anything": {"else": 1}}  # fmt: skip
    text = "\n".join(question("study", ask(kind="before_completion", content=content)))
    assert text.startswith("study asks a person about task b, before it counts as completed (ask-1)")
    for part in (
        "Publish",
        "    One.\n    Two.",
        "c" * 40,
        '"x.py"',
        "$ pytest -q",
        "exit code 0, 1.5 s, docker",
        '"else": 1',
        SHA,
    ):
        assert part in text


def test_an_event_is_one_line_with_what_is_new_in_it() -> None:
    event = {
        "sequence": "00000000000000000042", "time": "2026-11-21T09:00:00Z", "type": "cairn.task.attempt_failed.v1",
        "subject": "workflow/study/task/a",
        "data": {"task": "a", "run": "a/1", "agent": "bob", "failure": {"type": "timeout", "message": "too\nlong"}},
    }  # fmt: skip
    shown = happened(event)
    assert "\n" not in shown and shown.startswith("    42  ")
    assert shown.split()[2:] == ["task.attempt_failed", "study/a", "a/1", "by", "bob", "timeout:", "too", "long"]
    retry = {
        **event,
        "type": "cairn.task.retry_scheduled.v1",
        "data": {"task": "a", "attempt": 2, "due": START.timestamp()},
    }
    assert happened(retry).split()[4:6] == ["attempt", "2"]
    announced = {**event, "data": None, "subject": "workflow/study"}
    assert happened(announced).split()[2:] == ["task.attempt_failed", "study"]


def test_the_head_counts_failures_and_branches_and_stops_its_clock_at_the_end() -> None:
    text = head(BoardDetail(workflow(status="failed", failed=1, branches=2, ended_at=START), [], [], []), NOW).plain
    assert text == "study  A study  failed  0/3 completed · 1 failed · 2 branches · 0.0 s"
