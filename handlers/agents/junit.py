"""The JUnit report that a test leaves in its folder: elements are counted as they pass and never kept."""

from pathlib import Path

from cairn.task import FailedCase, Tally
from handlers.agents import report

NAME_CHARACTERS, MESSAGE_CHARACTERS = 200, 300
TEXT_CHARACTERS = 1_000
"""The end of what a failed test says, where tools print the error."""


def read(folder: Path, path: str, characters: int) -> Tally | None:
    """The report at `path`, its failed tests as far as `characters` go; None if there is none that can be read."""
    counted = _Counted(characters)
    try:
        report.parse(report.text(folder, path), counted)
    except report.Unreadable:
        return None
    return counted.tally()


class _Counted:
    """A parser's target."""

    def __init__(self, characters: int) -> None:
        self._room = characters
        self._counts = dict.fromkeys(("testcase", "failure", "error", "skipped"), 0)
        self._failed: list[FailedCase] = []
        self._case = ""
        self._said: str | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = report.local(tag)
        if tag in self._counts:
            self._counts[tag] += 1
        if tag == "testcase":
            named = (attributes.get("classname"), attributes.get("name"))
            self._case = ".".join(part for part in named if part)[:NAME_CHARACTERS]
        elif tag in ("failure", "error"):
            self._message, self._said = attributes.get("message", "")[:MESSAGE_CHARACTERS], ""

    def data(self, text: str) -> None:
        if self._said is not None:
            self._said = (self._said + text)[-TEXT_CHARACTERS:]

    def end(self, tag: str) -> None:
        if report.local(tag) not in ("failure", "error") or self._said is None:
            return
        message = "\n".join(part for part in (self._message, self._said.strip()) if part)
        self._said = None
        self._room -= len(self._case) + len(message)
        if self._room >= 0:
            self._failed.append(FailedCase(self._case, message))

    def close(self) -> None:
        """Nothing is built."""

    def tally(self) -> Tally:
        counts = self._counts
        return Tally(counts["testcase"], counts["failure"], counts["error"], counts["skipped"], tuple(self._failed))
