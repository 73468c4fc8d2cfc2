"""Words of texts as people look for them: identifiers, paths and code by their parts, whatever the case.

`parse_config`, `parseConfig` and `src/parse.config` all hold the words `parse` and `config`, next to each other;
`parseconfig` is a word of the second, too. No word is left out or reduced to its stem, as in Postgres' `simple`
configuration. The same rules make the index, the query and what is marked in a result.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

LONGEST_WORD = 200
"""Characters; what is longer is cut, here as in a query."""
SNIPPET_CHARACTERS = 160

_EACH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
"""Scripts that are written without spaces: every character is a word."""
_RUN = re.compile(f"[{_EACH}]|[^\\W_{_EACH}]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Word(NamedTuple):
    """`text` is in lower case; it stands from `start` to `end`, as the `position`-th. A `whole` has parts after it."""

    text: str
    position: int
    start: int
    end: int
    whole: bool = False


class Term(NamedTuple):
    """Words that stand next to each other, of which the last may be only the `begun` one."""

    words: tuple[str, ...]
    begun: bool = False

    def holds(self, word: str) -> bool:
        return word in self.words or (self.begun and word.startswith(self.words[-1]))


def words(text: str, after: int = 0) -> Iterator[Word]:
    """All of a text; the first has the position `after` + 1."""
    position = after
    for run in _RUN.finditer(text):
        found, start = run[0], run.start()
        lower = found.lower()
        position += 1
        if found[1:] == lower[1:] or found.isupper() or len(parts := _HUMP.split(found)) == 1:
            yield Word(lower[:LONGEST_WORD], position, start, run.end())
            continue
        yield Word(lower[:LONGEST_WORD], position, start, run.end(), whole=True)
        for number, part in enumerate(parts):
            position += number > 0
            yield Word(part.lower()[:LONGEST_WORD], position, start, start + len(part))
            start += len(part)


def vector(texts: Iterable[tuple[str, str]], facts: Iterable[str]) -> str:
    """A `tsvector` as Postgres reads it: of texts, each with its weight (A to D) before it, and of facts as they are."""
    found: dict[str, list[str]] = {}
    after = 0
    for weight, text in texts:
        for word in words(text, after):
            found.setdefault(word.text, []).append(f"{word.position}{weight}")
            after = word.position
        after += 1  # the last word of a text does not stand next to the first of another
    lexemes = [f"'{word}':{','.join(places)}" for word, places in found.items()]
    return " ".join((*lexemes, *(quoted(fact) for fact in facts)))


def fact(field: str, value: str) -> str:
    """A lexeme that no text has: every field of a document is one."""
    return f"{field}:{value.lower()[:LONGEST_WORD]}"


def quoted(lexeme: str) -> str:
    return "'" + lexeme.replace("\0", "\ufffd").replace("\\", "\\\\").replace("'", "''") + "'"


def snippet(text: str, terms: Sequence[Term]) -> tuple[int, list[str]]:
    """How many different words of the terms the part of a text has that has most, and that part in pieces.

    The second piece, and every other one from there, is what was looked for.
    """
    hits = [word for word in words(text) if any(term.holds(word.text) for term in terms)]
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
