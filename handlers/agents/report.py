"""A report that a test leaves in its folder: who wrote it is not trusted, so nothing it says can hurt us.

No link is followed and nothing but a file is read, up to `MOST_BYTES`; of XML a document type may name what it is, as
some tools have it, and declare nothing: so there is no entity, and nothing is fetched.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

MOST_BYTES = 16 << 20
_BEFORE = r"\ufeff?(?>\s|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE"
_DOCTYPE = re.compile(_BEFORE, re.DOTALL)
_PLAIN = re.compile(
    _BEFORE + r"""\s+[\w:.-]+\s*(?:(?:SYSTEM|PUBLIC\s+(?:"[^"<\[]*"|'[^'<\[]*'))\s+(?:"[^"<\[]*"|'[^'<\[]*')\s*)?>""",
    re.DOTALL,
)


class Unreadable(Exception):
    """Why there is nothing that could be read."""


def discard(folder: Path, path: str) -> None:
    """What lies there from before is no report of the run that begins."""
    with suppress(OSError), _parent(folder, path) as (parent, name):
        os.unlink(name, dir_fd=parent)


def text(folder: Path, path: str) -> str:
    """All of it, which has to be UTF-8. Raises Unreadable."""
    try:
        return _content(folder, path).decode()
    except UnicodeDecodeError:
        raise Unreadable("it is not UTF-8") from None
    except FileNotFoundError:
        raise Unreadable("it is not there") from None
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from None


def parse(xml: str, target: Any) -> None:
    """Has the elements pass by the target of a parser. Raises Unreadable."""
    if _DOCTYPE.match(xml) and not _PLAIN.match(xml):
        raise Unreadable("it declares a document type of its own")
    parser = ElementTree.XMLParser(target=target)
    try:
        parser.feed(xml)  # text, so no encoding that it declares is believed
        parser.close()
    except ElementTree.ParseError as error:
        raise Unreadable(f"it is no XML: {error}") from None


def local(tag: str) -> str:
    """The name of an element without its namespace."""
    return tag.rpartition("}")[2]


def _content(folder: Path, path: str) -> bytes:
    with _parent(folder, path) as (parent, name):
        # A pipe would keep us waiting for whoever writes into it.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
        with open(file, "rb") as content:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise Unreadable("it is no file")
            if len(read := content.read(MOST_BYTES + 1)) > MOST_BYTES:
                raise Unreadable(f"it has more than {MOST_BYTES} bytes")
            return read


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
