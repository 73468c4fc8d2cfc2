"""What never stands in a log: tokens, keys and passwords, whoever put them into a line.

Three nets: values that this process knows to be secret, fields that are called as secrets are, and text that looks like
one (credentials in a URL, `Authorization`, `password=`, the forms of well-known keys, JSON Web Tokens, private keys).
"""

import re
from collections.abc import Iterable
from typing import Any

MASK = "***"
SHORTEST = 6
"""A shorter value is no secret worth the name, and would be found in the middle of words."""
_FIELD = re.compile(
    r"(?i)(^|[_-])(token|secret|passw(or)?d|authorization|cookie|credentials?|api_?key|private_?key)s?$"
)
_LOOKS = (
    (re.compile(r"(?<=://)[^@/\s'\"]+(?=@)"), MASK),
    (re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic|token)?\s*)[^\s'\",;}]+"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {MASK}"),
    (
        re.compile(
            r"(?i)((?:passw(?:or)?d|passfile|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)['\"]?\s*[:=]\s*)"
            r"(?:'[^']*'|\"[^\"]*\"|[^\s'\",;&}]+)"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}"), MASK),
    (re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,})"), MASK),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), MASK),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
)
_MAYBE = re.compile(
    r"(?i)://|authori|bearer|basic|pass|secret|token|key|[spr]k-|gh[pousr]_|github_|glpat|xox|AKIA|ASIA|AIza|eyJ"
)
"""What all of them contain: most lines have none of it, and cost one look."""

_known: list[str] = []


def hide(values: Iterable[str]) -> None:
    """From now on these are masked wherever they stand."""
    _known[:] = sorted({*_known, *(value for value in values if len(value) >= SHORTEST)}, key=len, reverse=True)


def masked(value: Any) -> Any:
    """The value, a text or what holds texts, without secrets."""
    match value:
        case str():
            return _text(value)
        case dict():
            return {name: MASK if _is_secret(name, held) else masked(held) for name, held in value.items()}
        case list() | tuple():
            return [masked(held) for held in value]
        case None | bool() | int() | float():
            return value
    return _text(str(value))


def _is_secret(name: Any, held: Any) -> bool:
    # A lease's token is a number that grows by one; how many tokens a model read is one too.
    return isinstance(name, str) and held is not None and not isinstance(held, int) and bool(_FIELD.search(name))


def _text(text: str) -> str:
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    if _MAYBE.search(text):
        for form, instead in _LOOKS:
            text = form.sub(instead, text)
    return text
