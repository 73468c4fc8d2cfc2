"""Words of texts as people look for them: identifiers, paths and code by their parts, whatever the case.

`parse_config`, `parseConfig` and `src/parse.config` all hold the words `parse` and `config`, next to each other;
`parseconfig` is a word of the second, too. No word is left out or reduced to its stem, as in Postgres' `simple`
configuration. The same rules make the index, the query and what is marked in a result.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SNIPPET_CHARACTERS = 160

_EACH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
"""Scripts that are written without spaces: every character is a word."""
_RUN = re.compile(f"[{_EACH}]|[^\\W_{_EACH}]{{1,200}}")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Word(NamedTuple):
    """`text` is in lower case; it stands from `start` to `end`."""

    text: str
    start: int
    end: int


class Term(NamedTuple):
    """Words that stand next to each other, of which the last may be only the `begun` one."""

    words: tuple[str, ...]
    begun: bool = False

    def holds(self, word: str) -> bool:
        return word in self.words or (self.begun and word.startswith(self.words[-1]))


def lexed(text: str) -> str:
    """The words of a text in lower case and nothing else, as Postgres is to index it: parts in their order, then what
    has several of them whole."""
    parts = _HUMP.sub(" ", text)
    found = _RUN.findall(parts)
    if len(parts) != len(text):
        found += [run for run in _RUN.findall(text) if _HUMP.search(run)]
    return " ".join(found).lower()


def words(text: str) -> Iterator[Word]:
    """All parts, and what has several of them whole, where they stand."""
    for run in _RUN.finditer(text):
        yield Word(run[0].lower(), run.start(), run.end())
        if _HUMP.search(run[0]):
            start = run.start()
            for part in _HUMP.split(run[0]):
                yield Word(part.lower(), start, start + len(part))
                start += len(part)


def term(said: str, *, begun: bool = False) -> Term | None:
    """What is looked for when somebody says this; None if there is no word in it."""
    found = tuple(run.lower() for run in _RUN.findall(_HUMP.sub(" ", said)))
    return Term(found, begun) if found else None


def fact(field: str, value: str) -> str:
    """A lexeme that no text has: every field of a document is one."""
    return f"{field}:{value.lower()[:200]}".replace("\0", "\ufffd")


def quoted(lexeme: str) -> str:
    """As an operand of a `tsquery`."""
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


def snippet(text: str, terms: Sequence[Term]) -> tuple[int, list[str]]:
    """How many different words of the terms the part of a text has that has most, and that part in pieces.

    The second piece, and every other one from there, is what was looked for.
    """
    found = [word for word in words(text) if any(term.holds(word.text) for term in terms)]
    hits = [word for n, word in enumerate(found) if not n or word.start >= found[n - 1].end]  # a whole hides its parts
    best, count = 0, 0
    seen: list[Word] = []
    for hit in hits:  # the window that ends with this one
        seen = [word for word in (*seen, hit) if hit.end - word.start <= SNIPPET_CHARACTERS]
        if (distinct := len({word.text for word in seen})) > count:
            best, count = seen[0].start, distinct
    start = _start(text, best)
    end = min(len(text), start + SNIPPET_CHARACTERS)
    pieces, at = [], start
    for hit in hits:
        if at <= hit.start and hit.end <= end:
            pieces += [text[at : hit.start], text[hit.start : hit.end]]
            at = hit.end
    pieces.append(text[at:end])
    pieces[0] = ("…" if start else "") + pieces[0]
    pieces[-1] += "…" if end < len(text) else ""
    return count, pieces


def _start(text: str, hit: int) -> int:
    """Some words before a hit, at the beginning of one."""
    start = max(0, hit - SNIPPET_CHARACTERS // 4)
    if start:
        space = text.find(" ", start, hit)
        start = space + 1 if space >= 0 else start
    return start
