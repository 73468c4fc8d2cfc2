"""An ask as people read it: exactly what an answer is given to, the diff it is about, and how it was answered."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cairn.sync import SyncClient
from ops.cli.stop import CONFLICT, NOT_FOUND, USAGE, Stop
from ops.cli.text import clean, line
from projections.board_rows import BoardAsk, BoardDetail

OUTPUT_LINES = 12
ABOUT = {
    "before_dispatch": "before it starts",
    "before_completion": "before it counts as completed",
    "question": "which its agent needs to know",
    "escalation": "for which everything was tried",
    "budget": "whose budget does not suffice",
}


class Found(NamedTuple):
    detail: BoardDetail
    ask: BoardAsk


def named(name: str) -> tuple[str, str]:
    """`demo/ask-1` is ask-1 of the workflow demo."""
    workflow, _, ask = name.partition("/")
    if not workflow or not ask:
        raise Stop(USAGE, f"{name} names no ask", "an ask is named by its workflow too, as demo/ask-1", "cairn asks")
    return workflow, ask


def find(client: SyncClient, workflow: str, ask: str, shown: str | None = None) -> Found:
    """The ask; Stop if there is none, or if it is not the one whose sha256 was `shown`."""
    detail = msgspec.convert(client.workflow(workflow), BoardDetail)
    found = next((one for one in detail.asks if one.ask == ask), None)
    if found is None:
        known = ", ".join(one.ask for one in detail.asks) or "none"
        raise Stop(NOT_FOUND, f"workflow {workflow} has no ask {ask}, it has: {known}", fix=f"cairn show {workflow}")
    if shown is not None and shown != found.shown:
        why = f"what is asked has the sha256 {found.shown}, not {shown}"
        raise Stop(CONFLICT, f"{ask} of {workflow} is not what you were shown", why, f"cairn show {workflow}")
    return Found(detail, found)


def question(workflow: str, ask: BoardAsk) -> list[str]:
    """Exactly what is answered: all of the content that its hash covers."""
    lines = [f"{workflow} asks a person about task {line(ask.task)}, {ABOUT.get(ask.kind, ask.kind)} ({ask.ask})"]
    content = {**ask.content}
    receipts = content.pop("receipts", ())
    task = content.pop("task", {})
    for name, value in [*task.items(), *content.items()]:
        if name != "id" and value not in ("", None, [], {}):
            lines += _block(name, value)
    for receipt in receipts:
        lines += receipt_lines(receipt)
    if ask.question and "question" not in content:
        lines += _block("question", ask.question)
    if ask.who:
        lines.append(f"  who may answer: {line(', '.join(ask.who))}")
    return [*lines, f"  sha256 {ask.shown}"]


def answer_command(workflow: str, ask: BoardAsk) -> str:
    if ask.kind in ("before_dispatch", "before_completion"):
        return f"cairn approve {workflow} {ask.ask}"
    return f"cairn answer {workflow}/{ask.ask} --choose {line('|'.join(ask.options)) or 'WORDS'}"


def said(ask: BoardAsk) -> str:
    """What became of it, or how to answer."""
    match ask.state:
        case "open":
            return f"open: {answer_command(ask.workflow, ask)}"
        case "answered":
            choice = {"approve": "approved", "reject": "refused"}.get(ask.choice or "", ask.choice)
            return f"{choice} by {ask.answered_by}: {ask.because or 'no reason given'}"
        case "expired":
            return f"nobody answered in time: {ask.choice or 'no answer'}"
    return f"void: {ask.because or 'no reason given'}"


async def diff(found: Found) -> str:
    """The patches of the commits that are asked about; empty where there are none, or no repository on this machine."""
    from cairn.git import git

    repository, content = found.detail.workflow.repository, found.ask.content
    commit = (content.get("result") or {}).get("commit")
    if not commit or not repository or not Path(repository).is_dir():
        return ""
    since = [f"^{base}" for base in content.get("bases", ())]
    words = ("log", "--patch", "--stat", "--no-merges", "--no-color", "--no-ext-diff", "--no-textconv", "--reverse")
    return (await git("-C", repository, *words, commit, *since, "--")).decode(errors="replace")


def _block(name: str, value: Any) -> Iterator[str]:
    text = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    first, *rest = clean(text).splitlines() or [""]
    if rest:
        yield f"  {name}:"
        yield from (f"    {each}" for each in (first, *rest))
    else:
        yield f"  {name}: {first}"


def receipt_lines(receipt: dict[str, Any]) -> Iterator[str]:
    code = "killed for time" if receipt.get("timed_out") else f"exit code {receipt.get('exit_code')}"
    yield f"  $ {line(str(receipt.get('cmd', '')))}"
    chance = ", flaky: it had failed on this commit before" if receipt.get("flaky") else ""
    yield "    " + line(f"{code}, {receipt.get('duration_seconds')} s, {receipt.get('isolation')}{chance}")
    if receipt.get("timed_out") or receipt.get("exit_code"):
        yield from tail(str(receipt.get("output", "")))


def tail(output: str) -> Iterator[str]:
    lines = clean(output).rstrip().splitlines()
    if len(lines) > OUTPUT_LINES:
        yield f"    | … {len(lines) - OUTPUT_LINES} lines before"
    yield from (f"    | {each}" for each in lines[-OUTPUT_LINES:])
