"""What an agent is given, and what it gives back."""

from pathlib import Path
from typing import Any

import msgspec


class Result(msgspec.Struct, omit_defaults=True):
    """What was done. `commit` and `files` are filled in from the worktree; `data` is any JSON, up to 64 KiB."""

    summary: str = ""
    commit: str | None = None
    files: tuple[str, ...] = ()
    data: Any = None


class FailedCase(msgspec.Struct, omit_defaults=True):
    """A test that did not pass, as its report has it."""

    name: str
    message: str = ""


class Tally(msgspec.Struct, omit_defaults=True):
    """A JUnit report: how many tests there were and how they ended, and the first of those that did not pass."""

    tests: int
    failures: int
    errors: int
    skipped: int
    failed: tuple[FailedCase, ...] = ()


class Receipt(msgspec.Struct, omit_defaults=True):
    """One acceptance test as a sandbox saw it. Times in seconds; `output` is capped, the sha256 is of everything.

    `runtime` is the digest of the image or the interpreters that ran it. `flaky` is for the ledger to say.
    """

    cmd: str
    exit_code: int | None
    timed_out: bool
    duration_seconds: float
    isolation: str
    commit: str | None
    output_bytes: int
    output_sha256: str
    output: str = ""
    runtime: str = ""
    report: Tally | None = None
    flaky: bool = False


class Test(msgspec.Struct):
    cmd: str
    timeout_seconds: float = 300.0
    junit: str | None = None


class Failure(msgspec.Struct, omit_defaults=True):
    """Why an attempt did not succeed: a type of failure, one sentence, and the end of what was said."""

    type: str
    message: str
    detail: str = ""


class Debug(msgspec.Struct):
    """Why a branch task exists: the task whose attempt failed, the class of the failure, what the sandbox printed.

    What was done until then leads from `bases`, merged, to `commit`; `Task.diff` shows it.
    """

    parent: str
    reason: str
    instructions: str
    receipts: tuple[Receipt, ...] = ()
    output: str = ""
    bases: tuple[str, ...] = ()
    commit: str | None = None


class Task(msgspec.Struct):
    """One run of a task, offered under a lease.

    `dependencies` holds the result of every task this one waited for. `path` is the folder of the run's own Git
    worktree, at the merged commits of its dependencies (`bases`); it is None where the workflow has no repository. A
    task that mends a `merge_conflict` finds both versions there, between git's conflict marks.
    `diff` is what was done so far of what `debug` is about, as a patch of 64 KiB at most, read from Git.
    `previous` is what ended the attempt before this one. `worker` did what a run of purpose `verify` is to judge.
    `position` is the place of the dispatch in the ledger, `traceparent` the trace it belongs to (W3C Trace Context).
    """

    workflow: str
    task: str
    run: str
    attempt: int
    role: str
    token: int
    lease_seconds: float
    timeout_seconds: float
    purpose: str = "work"
    title: str = ""
    description: str = ""
    inputs: dict[str, Any] = {}
    files: tuple[str, ...] = ()
    repository: str | None = None
    bases: tuple[str, ...] = ()
    dependencies: dict[str, Result] = {}
    tests: tuple[Test, ...] = ()
    debug: Debug | None = None
    previous: Failure | None = None
    worker: str = ""
    capabilities: tuple[str, ...] = ()
    position: int = 0
    traceparent: str | None = None
    path: Path | None = None
    diff: str = ""

    def to_json(self) -> bytes:
        """The form that `--exec` agents read on standard input and in CAIRN_TASK."""
        return msgspec.json.encode(self, enc_hook=str)


class Failed(Exception):
    """Raise it from a handler to end the attempt with a class of failure that the plan can route.

    `type` is one of the failure types of the plan's schema, for example `spec_mismatch`; `detail` is evidence.
    """

    def __init__(self, message: str, *, type: str = "agent_error", detail: str = "") -> None:
        super().__init__(message)
        self.type, self.detail = type, detail
