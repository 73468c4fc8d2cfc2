"""What somebody types to find something, as a query of Postgres. Any text is one, or says what is wrong with it.

Words that all have to be there, "phrases" in quotes, `prefix*`, `field:value` (also `field:"a value"` and
`field:prefix*`), and `-` before any of them for what must not be there. A word with several parts, as `snake_case` or
a path, is looked for as a phrase of its parts; what is no field is text.
"""

import re
from typing import Literal, NamedTuple, get_args

from domain.failures import FAILURE_TYPES
from projections.search_text import Term, fact, quoted, words

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
    """`all` is what a document has to match, `ranked` what its rank is made of (None: nothing is); both as Postgres
    reads a `tsquery`. `terms` are the words that are marked."""

    all: str
    ranked: str | None
    terms: tuple[Term, ...]


def parse(text: str) -> Query:
    """Raises BadQuery: too long, nothing to look for, a value that a field cannot have."""
    if len(text) > LONGEST_QUERY:
        raise BadQuery(f"at most {LONGEST_QUERY} characters, not {len(text)}")
    text = text.encode("utf-8", "replace").decode()
    wanted, unwanted, terms = list[str](), list[str](), list[Term]()
    for found in _TERM.finditer(text):
        said, field = found["word"] if found["phrase"] is None else found["phrase"], found["field"]
        if field:
            lexeme = _fact(field.lower(), said)
        elif term := _term(said, begun=found["phrase"] is None and said.endswith("*")):
            lexeme = _phrase(term)
            terms += [] if found["no"] else [term]
        else:
            continue
        (unwanted if found["no"] else wanted).append(lexeme)
    if not wanted:
        raise BadQuery("names nothing to look for: at least one word, \"phrase\", prefix* or field:value without a '-'")
    if len(wanted) + len(unwanted) > MOST_TERMS:
        raise BadQuery(f"at most {MOST_TERMS} terms, not {len(wanted) + len(unwanted)}")
    ranked = " & ".join(_phrase(term) for term in terms)
    return Query(" & ".join((*wanted, *(f"!{one}" for one in unwanted))), ranked or None, tuple(terms))


def _term(said: str, *, begun: bool) -> Term | None:
    found = tuple(word.text for word in words(said) if not word.whole)
    return Term(found, begun) if found else None


def _phrase(term: Term) -> str:
    lexemes = [quoted(word) for word in term.words]
    return f"({' <-> '.join(lexemes)}{':*' if term.begun else ''})"


def _fact(field: str, value: str) -> str:
    begun = value.endswith("*")
    if field in VALUES and not begun and value.lower() not in VALUES[field]:
        raise BadQuery(f"{field} is one of {', '.join(VALUES[field])}, not {value[:40]!a}")
    return f"({quoted(fact(field, value.removesuffix('*')))}{':*' if begun else ''})"
