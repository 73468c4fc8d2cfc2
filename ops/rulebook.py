"""`docs/rulebook.md`: what happens when, read off the very tables and rules that decide it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from domain.failures import FAILURE_TYPES, SIGNS
from domain.outcome import Failure, Result
from domain.plan import Approvals, Escalation, Plan, Task
from domain.policy import after_failure, after_refusal
from domain.state import CLOSED, TRANSITIONS, WORKFLOW_TRANSITIONS, TaskState, TaskStatus

TASKS: dict[TaskStatus, tuple[str, str]] = {
    "pending": ("not yet begun", "its dependencies; a slot while the workflow is paused"),
    "queued": ("it could be dispatched", "a slot: of its role, and its resources"),
    "dispatched": ("offered to the agents of its role", "a slot: an agent that takes it"),
    "running": ("an agent is at work", "the agent's lease, which heartbeats renew"),
    "verifying": ("its acceptance tests are run on the commit of the result", "the tester's lease"),
    "retrying": ("an attempt has failed, another follows", "a timer"),
    "branched": ("another task mends what failed", "that branch"),
    "waiting": ("a person is asked", "the answer, or the ask's deadline"),
    "completed": ("accepted", ""),
    "failed": ("given up", ""),
    "cancelled": ("ended by a person", ""),
    "skipped": ("a task it depends on did not complete", ""),
    "excused": ("a person said that it need not be done: what depends on it goes on", ""),
}
"""What a status means, and what a task in it waits for."""


def page() -> str:
    """The whole page, in Markdown."""
    parts = (
        "# The rulebook",
        "This page is generated from the rules themselves (`python -m ops.schemas`); `make check` fails where it differs.",
        "## A task",
        _diagram("pending", TRANSITIONS, CLOSED),
        _table(("status", "means", "waits for"), ((name, *TASKS[name]) for name in get_args(TaskStatus))),
        "## A workflow",
        _diagram("unknown", WORKFLOW_TRANSITIONS, [end for end, others in WORKFLOW_TRANSITIONS.items() if not others]),
        "The database refuses every other step of a task or a workflow, also one that is written by hand.",
        "## Why attempts fail",
        "A failed acceptance test is read from the top of this table; the first sign that fits decides. A test that ran "
        "longer than it may is a `timeout`, one that never ran a `sandbox` failure; what no sign explains is a "
        "`test_failure`. A line may follow pytest's own prefixes.",
        _table(("failure", "exit code", "prints a line"), map(_sign, SIGNS)),
        "## What follows a failure",
        "Of a task as a plan has it by default (but for `failure_routing`, which names a role for the failure):",
        _table(("failure", "in general", "routed", "after its last attempt"), map(_choices, FAILURE_TYPES)),
        "## What a plan says, and what holds if it does not",
        _table(("task", "default", ""), _fields(Task)),
        _table(("plan", "default", ""), _fields(Plan)),
        _table(("approvals", "default", ""), _fields(Approvals)),
        _table(("escalation", "default", ""), _fields(Escalation)),
    )
    return "\n\n".join(parts) + "\n"


def _diagram(first: str, transitions: Mapping[Any, Iterable[str]], ends: Iterable[str]) -> str:
    arrows = [f"    {one} --> {other}" for one, others in transitions.items() for other in sorted(others)]
    return "\n".join(
        ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}", *arrows]
        + [f"    {one} --> [*]" for one in transitions if one in ends]
        + ["```"]
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sign(sign: Any) -> tuple[str, str, str]:
    codes = ", ".join(map(str, sorted(sign.codes)))
    line = sign.line.pattern.rpartition("(?:FAILED|ERROR) .*? - |[ \\t]+)?")[2] if sign.line else ""
    return f"`{sign.type}`", codes, f"`{line}`" if line else ""


def _choices(kind: Any) -> tuple[str, ...]:
    failure = Failure(kind, "")
    fresh = TaskState(Task("t"), failures=1, lost=1)
    routed = TaskState(Task("t", failure_routing={kind: "role"}), failures=1, lost=1, result=Result())
    spent = TaskState(Task("t"), failures=99, lost=99)
    choose = after_refusal if kind == "refused" else (lambda task, line: after_failure(task, failure, line, ""))
    return f"`{kind}`", *(_word(choose(task, [task])) for task in (fresh, routed, spent))


def _word(choice: Any) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(choice).__name__).lower()


def _fields(kind: type) -> Iterable[tuple[str, str, str]]:
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    for field in msgspec.structs.fields(kind):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        shown = "required" if default is msgspec.NODEFAULT else f"`{msgspec.json.encode(default).decode()}`"
        yield f"`{field.encode_name}`", shown, schema[field.encode_name].get("description", "")
