"""Why attempts fail: the closed list of failure types, and how a failed acceptance test is read into one.

A failure type decides what follows (`Task.failure_routing`), so a receipt is classified by evidence only: how the
command ended, what it printed and reported, how long it took. `SIGNS` is read from the top and the first sign that fits
decides; causes that spoil everything after them (the sandbox, a missing package) stand above what they lead to (a
failed assertion).
"""

import math
import re
from collections.abc import Container, Iterable
from typing import Literal, NamedTuple, get_args

FailureType = Literal[
    "missing_dependency",
    "spec_mismatch",
    "implementation_bug",
    "test_failure",
    "timeout",
    "flaky_test",
    "merge_conflict",
    "agent_lost",
    "agent_error",
    "invalid_result",
    "finding",
    "budget",
    "sandbox",
    "refused",
]
FAILURE_TYPES: tuple[FailureType, ...] = get_args(FailureType)


class Sign(NamedTuple):
    """Evidence for a failure type: the exit codes it ends with, a line it prints, or (both given) the two together."""

    type: FailureType
    codes: frozenset[int] = frozenset()
    line: re.Pattern[str] | None = None

    def fits(self, exit_code: int, output: str) -> bool:
        return (not self.codes or exit_code in self.codes) and (self.line is None or bool(self.line.search(output)))


def _line(pattern: str) -> re.Pattern[str]:
    """A line that starts like this, alone or as pytest repeats it ("E   ...", "FAILED path::test - ...").

    The start is matched without backtracking: an agent's code writes these lines, and must not be able to stall us.
    """
    return re.compile(rf"^(?>E[ \t]+|(?:FAILED|ERROR) .*? - |[ \t]+)?(?:{pattern})", re.MULTILINE)


def _signal(number: int) -> set[int]:
    """How an end by signal is written: negative by a parent process, 128 + n by a shell."""
    return {-number, 128 + number}


_KILLED = frozenset(_signal(9) | _signal(24) | _signal(25))  # SIGKILL (memory), SIGXCPU, SIGXFSZ
_CRASHED = frozenset(_signal(4) | _signal(6) | _signal(7) | _signal(8) | _signal(11))
_ERROR = r"(?:[A-Za-z_]\w*\.)*(?!AssertionError)[A-Z]\w*(?:Error|Exception|Warning)(?::|[ \t\r]*$)"

SIGNS: tuple[Sign, ...] = (
    Sign("sandbox", _KILLED),
    Sign("sandbox", frozenset({125}), _line(r"docker: ")),
    Sign("sandbox", line=_line(r"bwrap: ")),
    Sign("sandbox", line=_line(r"MemoryError\b|.*(?:Cannot allocate memory|No space left on device|File too large)")),
    Sign("sandbox", line=_line(r".*(?:[Ff]ork: |can't start new thread|Resource temporarily unavailable)")),
    Sign("sandbox", line=_line(r".*(?:Network is unreachable|[Nn]ame resolution|Name or service not known)")),
    Sign("missing_dependency", frozenset({127})),
    Sign("missing_dependency", line=_line(r"ModuleNotFoundError: |ImportError: .*cannot open shared object")),
    Sign("missing_dependency", line=_line(r"\S+: No module named ")),
    Sign("missing_dependency", line=_line(r".*: (?:command )?not found[ \t\r]*$|make.*\bError 127\b")),
    Sign("missing_dependency", line=_line(r"(?:Error: )?Cannot find module ")),
    Sign("spec_mismatch", line=_line(r"ImportError: cannot import name ")),
    Sign("spec_mismatch", line=_line(r"AttributeError: .*module '[^'\n]*' has no attribute ")),
    Sign("spec_mismatch", line=_line(r"TypeError: .*\b(?:unexpected keyword argument|positional arguments?\b)")),
    Sign("spec_mismatch", frozenset({4}), _line(r"ERROR: (?:file or directory )?not found: ")),
    Sign("spec_mismatch", frozenset({5}), _line(r".*\bno tests ran\b")),
    Sign("implementation_bug", _CRASHED),
    Sign("implementation_bug", frozenset({126})),
    Sign("implementation_bug", line=_line(_ERROR)),
    Sign("implementation_bug", line=_line(r"\S+:\d+:\d+: (?:fatal )?error: |panic: ")),
)

GAVE_UP = 124
"""How `timeout` ends when what it ran took too long."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def classify(
    exit_code: int | None,
    timed_out: bool,
    output: str,
    *,
    told: Iterable[str] = (),
    seconds: float = 0.0,
    limit_seconds: float = math.inf,
    signs: Iterable[tuple[FailureType, str, Container[int]]] = (),
) -> FailureType:
    """Read the receipt of an acceptance test that did not pass.

    `exit_code` is None when the command has none: killed for time (`timed_out`), or never started, which is the
    sandbox's fault. `told` is what its report says of the failed ones, `seconds` how long it took of `limit_seconds`.
    `signs` are a plan's own and read first: a type, a text that stands in what it said, and the codes it ends with;
    what is empty is not asked for. What no sign explains is a `test_failure`: the code ran and the test said no.
    Raises ValueError for exit code 0, which is a pass.
    """
    if timed_out:
        return "timeout"
    if exit_code is None:
        return "sandbox"
    if exit_code == 0:
        raise ValueError("exit code 0 is a pass: only the receipt of a failed test can be classified")
    plain = _COLOUR.sub("", "\n".join((output, *told)))
    for kind, text, codes in signs:
        if text in plain and (not codes or exit_code in codes):
            return kind
    if seconds >= limit_seconds or exit_code == GAVE_UP:
        return "timeout"
    return next((sign.type for sign in SIGNS if sign.fits(exit_code, plain)), "test_failure")
