"""What somebody types to find something, as a query of Postgres. Any text is one, or says what is wrong with it.

Words that all have to be there, "phrases" in quotes, `prefix*`, `field:value` (also `field:"a value"` and
`field:prefix*`), and `-` before any of them for what must not be there. A word with several parts, as `snake_case` or
a path, is looked for as a phrase of its parts; what is no field is text.
"""

import re
from typing import Literal, NamedTuple, get_args

from domain.failures import FAILURE_TYPES
from projections.search_text import Term, fact, quoted, term

DocumentType = Literal["workflow", "task", "ask", "agent"]
DocumentStatus = Literal[
    "open", "completed", "failed", "cancelled", "timed_out", "skipped", "excused", "answered", "expired", "voided",
    "here", "lost", "left",
]  # fmt: skip
FIELDS = ("workflow", "task", "role", "agent", "status", "type", "failure")
VALUES: dict[str, tuple[str, ...]] = {
    "type": get_args(DocumentType), "status": get_args(DocumentStatus), "failure": FAILURE_TYPES,
}  # fmt: skip
"""Of the fields that have only these."""
LONGEST_QUERY = 1_000
MOST_TERMS = 32

_TERM = re.compile(
    rf'(?P<no>-(?=[\w"]))?(?:(?P<field>{"|".join(FIELDS)}):)?(?:"(?P<phrase>[^"]*)"?|(?P<word>\S+))', re.IGNORECASE
)


class BadQuery(ValueError):
    """A query that cannot be answered: the message says what to write instead."""


class Query(NamedTuple):
    """What a document has to match: `words` as `to_tsquery` reads it, `facts` as a `tsquery`, either may be empty.
    `ranked` are the words that its rank is made of, `terms` those that are marked."""

    words: str
    facts: str
    ranked: str
    terms: tuple[Term, ...]


def parse(text: str) -> Query:
    """Raises BadQuery: too long, nothing to look for, a value that a field cannot have."""
    if len(text) > LONGEST_QUERY:
        raise BadQuery(f"at most {LONGEST_QUERY} characters, not {len(text)}")
    text = text.encode("utf-8", "replace").decode()
    said: dict[str, list[str]] = {"words": [], "facts": []}
    positive, terms = 0, list[Term]()
    for found in _TERM.finditer(text):
        value, field = found["word"] if found["phrase"] is None else found["phrase"], found["field"]
        if field:
            operand = _fact(field.lower(), value)
        elif one := term(value, begun=found["phrase"] is None and value.endswith("*")):
            operand = _phrase(one)
            terms += [] if found["no"] else [one]
        else:
            continue
        positive += not found["no"]
        said["facts" if field else "words"].append(f"!{operand}" if found["no"] else operand)
    if not positive:
        raise BadQuery("names nothing to look for: at least one word, \"phrase\", prefix* or field:value without a '-'")
    if (many := sum(map(len, said.values()))) > MOST_TERMS:
        raise BadQuery(f"at most {MOST_TERMS} terms, not {many}")
    words, facts, ranked = (" & ".join(some) for some in (*said.values(), map(_phrase, terms)))
    return Query(words, facts, ranked, tuple(terms))


def _phrase(one: Term) -> str:
    operands = [quoted(word) for word in one.words]
    return f"({' <-> '.join(operands)}{':*' if one.begun else ''})"


def _fact(field: str, value: str) -> str:
    begun = value.endswith("*")
    if field in VALUES and not begun and value.lower() not in VALUES[field]:
        raise BadQuery(f"{field} is one of {', '.join(VALUES[field])}, not {value[:40]!a}")
    return f"({quoted(fact(field, value.removesuffix('*')))}{':*' if begun else ''})"
