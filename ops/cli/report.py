"""What is told of a workflow besides its board: failures, asks, attempts, commits; and the summary at a run's end."""

import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from domain.usage import Usage
from ops.cli.question import receipt_lines, said, tail
from ops.cli.text import between, clean, commit, line, plural
from projections.board_rows import BoardAttempt, BoardDetail, BoardTask
from projections.used import Rollup, used


def details(detail: BoardDetail, now: datetime) -> list[str]:
    """For `show`, below the board: every attempt, why tests failed, asks with the command that answers, commits."""
    return [*_asks(detail), *_attempts(detail, now), *_usage(detail), *_failures(detail), *_commits(detail)]


def summary(detail: BoardDetail, repository: str | None, *, up: bool = True) -> list[str]:
    """For the end of `run`: how it went, what failed and how it was mended, and where to look next.

    `up`: whether the system stays up; else the way to look begins with starting it.
    """
    flow, tries = detail.workflow, [one for one in detail.attempts if one.purpose == "work"]
    tests = [one for one in detail.attempts if one.purpose == "verify"]
    failed = [one for one in detail.attempts if one.outcome == "failed"]
    counts = [f"{flow.completed} of {plural(flow.tasks, 'task')} completed"]
    counts += [f"{flow.failed} failed"] if flow.failed else []
    counts += [plural(flow.branches, "debug branch", "debug branches")] if flow.branches else []
    rows = [
        ("workflow", f"{flow.workflow}{f' ({line(flow.title)})' if flow.title else ''}"),
        ("status", f"{flow.status}{f': {line(flow.reason)}' if flow.reason else ''}"),
        ("took", between(flow.started_at, flow.ended_at)),
        ("tasks", ", ".join(counts)),
        ("attempts", f"{len(tries)} of work, {plural(len(tests), 'run')} of tests, {len(failed)} failed"),
        *(("failed", text) for text in _mended(detail)),
        *(("asked", text) for text in _answers(detail)),
        *(("commit", f"{commit(task.commit)}  {branch_of(task)}") for task in detail.tasks if task.commit),
        *(("used", text) for text in _used(used(detail).workflow)),
        ("positions", f"{flow.first} to {flow.last}"),
        ("next", f"cairn show {flow.workflow}" if up else "cairn up, and in another terminal:"),
        *([] if up else [("", f"cairn show {flow.workflow}")]),
        ("", f"cairn events --workflow {flow.workflow}"),
    ]
    if repository and (last := _last_commit(detail)):
        rows.append(("", f"git -C {shlex.quote(repository)} log --stat {branch_of(last)}"))
    return [f"{name:<10} {text}".rstrip() for name, text in rows]


def branch_of(task: BoardTask) -> str:
    """The Git branch that holds the task's accepted work."""
    return f"ai/generated/{task.workflow}/{task.task}"


def _asks(detail: BoardDetail) -> Iterator[str]:
    if detail.asks:
        yield from ("", "Asks")
    for ask in detail.asks:
        yield f"  {ask.ask}  {ask.task}  {ask.kind}  {line(said(ask))}"


def _attempts(detail: BoardDetail, now: datetime) -> Iterator[str]:
    if detail.attempts:
        yield from ("", "Attempts")
    for one in detail.attempts:
        what = f": {one.failure.type}: {one.failure.message}" if one.failure else ""
        duration = between(one.started_at, one.ended_at or now)
        text = f"{one.run}  {one.agent or f'no {one.role} yet'}  {one.outcome or 'open'}{what}"
        cost = _spent(one.usage) if one.usage and one.purpose == "work" else ""
        yield "  " + line(text) + (f"  {duration}" if duration else "") + (f"  {cost}" if cost else "")


def _usage(detail: BoardDetail) -> Iterator[str]:
    found = used(detail)
    for text in _used(found.workflow):
        yield from ("", "Usage", f"  {text}")
        for name, rollup in found.tasks.items():
            yield from (f"  {line(name)}: {each}" for each in _used(rollup))


def _used(rollup: Rollup) -> Iterator[str]:
    """One line, or none where no agent has said anything: what is unknown is told apart."""
    if not (rollup.tokens_known or rollup.cost_known):
        return
    tokens = f"{rollup.input_total:,} tokens in, {rollup.output:,} out"
    cost = f"${rollup.cost_usd:,.4f}"
    if rollup.tokens_known == rollup.cost_known == rollup.attempts:
        yield f"{tokens}, {cost}"
    else:
        known = f"of {plural(rollup.attempts, 'attempt')} known"
        yield f"{tokens} ({rollup.tokens_known} {known}), {cost} ({rollup.cost_known} {known})"


def _spent(one: Usage) -> str:
    tokens = "" if one.tokens is None else f"{one.tokens:,} tokens"
    cost = "" if one.cost_usd is None else f"${one.cost_usd:,.4f}" + (" computed" * (one.cost_source == "computed"))
    return ", ".join(part for part in (tokens, cost) if part)


def _failures(detail: BoardDetail) -> Iterator[str]:
    for task in detail.tasks:
        if task.failure and task.status not in ("completed", "cancelled"):
            yield from ("", f"Why {task.task} failed: {task.failure.type}: {line(task.failure.message)}")
            if any(receipt.exit_code or receipt.timed_out for receipt in task.receipts):
                for receipt in task.receipts:
                    yield from receipt_lines(msgspec.to_builtins(receipt))
            elif task.failure.detail:
                yield from tail(task.failure.detail)


def _commits(detail: BoardDetail) -> Iterator[str]:
    made = [task for task in detail.tasks if task.commit]
    if made:
        yield from ("", f"Commits in {line(detail.workflow.repository or '')}")
    for task in made:
        yield f"  {clean(task.commit or '')}  {branch_of(task)}"


def _mended(detail: BoardDetail) -> Iterator[str]:
    tasks = {task.task: task for task in detail.tasks}
    for one in detail.attempts:
        if one.outcome == "failed":
            reason = _reason(one, tasks[one.task])
            yield line(f"{one.run} by {one.agent or one.role}: {reason}; {_then(one, detail)}")


def _reason(one: BoardAttempt, task: BoardTask) -> str:
    failure = one.failure or task.failure
    return f"{failure.type}: {failure.message}" if failure else "its tests did not pass"


def _then(one: BoardAttempt, detail: BoardDetail) -> str:
    """What happened after a failed run: the first branch or later attempt that was dispatched after it."""
    for task in detail.tasks:
        if task.depth and task.parent == one.task and task.created > one.dispatched:
            if task.status == "completed":
                return f"mended by {task.task} ({task.agent or task.role}, {commit(task.commit) or 'no commit'})"
            return f"{task.task} was to mend it: {task.status}"
    for later in detail.attempts:
        if later.task == one.task and later.dispatched > one.dispatched:
            return f"tried again as {later.run}: {later.outcome or 'open'}"
    return "nothing came after it"


def _answers(detail: BoardDetail) -> Iterator[str]:
    for ask in detail.asks:
        if ask.state in ("answered", "expired"):
            yield line(f"{ask.task} {ask.kind}: {said(ask)}")


def _last_commit(detail: BoardDetail) -> BoardTask | None:
    made = [task for task in detail.tasks if task.commit and not task.depth]
    return max(made, key=lambda task: task.updated, default=None)


def repository_of(detail: BoardDetail) -> str | None:
    """The folder of the workflow's repository if it is on this machine."""
    found = detail.workflow.repository
    return found if found and Path(found).is_dir() else None
