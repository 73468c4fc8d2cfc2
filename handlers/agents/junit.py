"""The JUnit report that a test leaves in its folder: who wrote it is not trusted, so nothing it says can hurt us.

No link is followed and nothing but a file is read, up to `MOST_BYTES`; a document type, and with it every entity, is
refused; elements are counted as they pass and never kept.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from cairn.task import FailedCase, Tally

MOST_BYTES = 16 << 20
NAME_CHARACTERS, MESSAGE_CHARACTERS = 200, 300
_DOCTYPE = re.compile(r"\ufeff?(?>\s|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE", re.DOTALL)
TEXT_CHARACTERS = 1_000
"""The end of what a failed test says, where tools print the error."""


def discard(folder: Path, path: str) -> None:
    """What lies there from before is no report of the run that begins."""
    with suppress(OSError), _parent(folder, path) as (parent, name):
        os.unlink(name, dir_fd=parent)


def read(folder: Path, path: str, characters: int) -> Tally | None:
    """The report at `path`, its failed tests as far as `characters` go; None if there is none that can be read."""
    counted = _Counted(characters)
    parser = ElementTree.XMLParser(target=counted)
    try:
        parser.feed(_text(folder, path))
        parser.close()
    except (OSError, UnicodeDecodeError, ElementTree.ParseError, _Refused):
        return None
    return counted.tally()


class _Refused(Exception):
    pass


class _Counted:
    """A parser's target."""

    def __init__(self, characters: int) -> None:
        self._room = characters
        self._counts = dict.fromkeys(("testcase", "failure", "error", "skipped"), 0)
        self._failed: list[FailedCase] = []
        self._case = ""
        self._said: str | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = _local(tag)
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
        if _local(tag) not in ("failure", "error") or self._said is None:
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


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _text(folder: Path, path: str) -> str:
    with _parent(folder, path) as (parent, name):
        # A pipe would keep us waiting for whoever writes into it.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
        with open(file, "rb") as report:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise _Refused
            if len(content := report.read(MOST_BYTES + 1)) > MOST_BYTES:
                raise _Refused
    text = content.decode()  # the parser gets text, so no encoding that it declares is believed
    if _DOCTYPE.match(text):
        raise _Refused
    return text


@contextmanager
def _parent(folder: Path, path: str) -> Iterator[tuple[int, str]]:
    """The folder that holds it, opened step by step, and its name there."""
    *folders, name = PurePosixPath(path).parts
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for one in folders:
            inner = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(parent)
            parent = inner
        yield parent, name
    finally:
        os.close(parent)
