"""What an attempt leaves behind: a result, a failure, and the receipts of the tests that were run.

Agents of any age send these, so fields that they do not have are passed over. A new field that rules go by therefore
takes new tags of the events that hold it: a program that does not know it must not fold them.
"""

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from domain.failures import FailureType

FindingKind = Literal["security", "lint", "type", "test", "other"]
Severity = Literal["info", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The gravest last."""
Percent = Annotated[float, Meta(ge=0, le=100)]
FINDINGS = 200
"""Of a result."""
RESULT_BYTES = 65_536
"""A result's `data`, `summary` and `findings` together; anything larger belongs into a file of the work tree."""
RECEIPTS_BYTES = 524_288
"""All receipts of a run: whoever is to mend the work is sent them, in one message with the task."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent has found wrong: with what it was given, or with its own work. `line` counts from 1."""

    kind: FindingKind
    severity: Severity
    message: str
    path: str = ""
    line: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent says it has done. `commit` holds its work, `files` are the paths it changed against its base."""

    summary: str = ""
    commit: str | None = None
    files: tuple[str, ...] = ()
    data: Any = None
    findings: tuple[Finding, ...] = ()


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt did not succeed: the class that routing goes by, one sentence, and the evidence's tail."""

    type: FailureType
    message: str
    detail: str = ""


class FailedCase(msgspec.Struct, frozen=True, omit_defaults=True):
    """A test that did not pass, as its report has it; `message` is the beginning of what it says."""

    name: str
    message: str = ""


class Tally(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JUnit report: how many tests there were and how they ended, and the first of those that did not pass."""

    tests: int
    failures: int
    errors: int
    skipped: int
    failed: tuple[FailedCase, ...] = ()


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One acceptance test as the sandbox saw it: never an agent's word.

    `exit_code` is None when it was killed for time. `output` is the capped text, `output_sha256` the hash of
    everything printed. `commit` is what was tested, `isolation` what it ran under, `runtime` the digest of the image or
    the interpreters that ran it. `report` is what the command's own report says, if it left one. `flaky` is ours to
    say: it passed on a commit on which it had failed. `coverage` is the percentage of lines that ran, as the report says
    that the plan's test names; where that says nothing that can be believed, `uncovered` says why.
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
    coverage: Percent | None = None
    uncovered: str = ""

    @property
    def passed(self) -> bool:
        return self.exit_code == 0 and not self.timed_out
