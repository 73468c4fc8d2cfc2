"""Which events somebody wants: a filter is data, and means the same to a query, a live stream, a webhook, an export.

`Filter.matcher` says it of an event in memory. An index says it of very many: an event has `terms_of` it, a filter
wants one term out of each of its `groups`; what such an index finds, the matcher confirms.

*Text* is what stands in the strings of an event's state, names of fields aside, TEXT_CHARACTERS of it: words are runs
of letters and digits, in any case. An event has the text looked for if it has all its words, in any order.
"""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from domain.plan import ID_PATTERN
from ledger.recorded import Recorded

TEXT_CHARACTERS = 65_536
LONGEST_WORD = 64
"""What is longer is no word: an encoding of something."""

_WORDS = re.compile(r"[^\W_]+")
_PLAIN = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}

Words = Annotated[str, Meta(min_length=1, max_length=200)]
Moment = Annotated[datetime, Meta(tz=True)]


class Filter(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """All that is given has to hold. Types are separated by commas, each may have `*` in it; `since` <= time < `to`."""

    type: (
        Annotated[
            str,
            Meta(
                pattern=r"^[^\s,]{1,200}(,[^\s,]{1,200}){0,49}\Z",
                description="types of events, separated by commas, as task.completed,workflow.*",
            ),
        ]
        | None
    ) = None
    workflow: Annotated[str, Meta(pattern=ID_PATTERN, description="the id of a workflow")] | None = None
    task: Annotated[Words, Meta(description="the task that it is about")] | None = None
    agent: Annotated[Words, Meta(description="the agent that it is about, or whose work")] | None = None
    actor: Annotated[Words, Meta(description="who caused it")] | None = None
    correlation: Annotated[Words, Meta(description="the correlation id")] | None = None
    causation: Annotated[Words, Meta(description="the causation id: that of a command")] | None = None
    since: Annotated[Moment, Meta(description="a time as 2026-11-22T10:30:00Z, at or after which it was recorded")] | (
        None
    ) = field(name="from", default=None)
    to: Annotated[Moment, Meta(description="a time as 2026-11-22T10:30:00Z, before which it was recorded")] | None = (
        None
    )
    q: Annotated[Words, Meta(description="words that all stand in its texts")] | None = None  # fmt: skip

    def __post_init__(self) -> None:
        if self.q is not None and not words_in(self.q):
            raise ValueError("`q` holds no word: letters or digits")
        if self.since is not None and self.to is not None and self.since >= self.to:
            raise ValueError("`from` is not before `to`: there is nothing between")

    @property
    def selects(self) -> bool:
        """Whether it leaves anything out."""
        return any(getattr(self, name) is not None for name in Filter.__struct_fields__)

    @property
    def stream(self) -> str | None:
        return None if self.workflow is None else f"workflow-{self.workflow}"

    def matcher(self) -> Callable[[Recorded], bool]:
        """Whether an event is among them."""
        tests = list(self._tests())
        return tests[0] if len(tests) == 1 else lambda one: all(test(one) for test in tests)

    def _tests(self) -> Iterable[Callable[[Recorded], bool]]:
        """The cheap ones first."""
        if (stream := self.stream) is not None:
            yield lambda one: one.stream == stream
        if self.type is not None:
            yield lambda one: self._of_type(one.type)
        for name, value in (
            ("actor", self.actor),
            ("correlation_id", self.correlation),
            ("causation_id", self.causation),
        ):
            if value is not None:
                yield lambda one, name=name, value=value: getattr(one, name) == value  # type: ignore[misc]
        if (since := self.since) is not None:
            yield lambda one: one.recorded_at >= since
        if (to := self.to) is not None:
            yield lambda one: one.recorded_at < to
        if self.task is not None or self.agent is not None:
            yield self._about
        if self.q is not None:
            words = words_in(self.q)
            yield lambda one: words <= words_of(one.state)

    def _of_type(self, kind: str) -> bool:
        assert self.type is not None
        return any(pattern.fullmatch(kind) for pattern in _patterns(self.type))

    def _about(self, one: Recorded) -> bool:
        about = _about(one.state)
        return (self.task is None or self.task == about.task) and (self.agent is None or self.agent == about.agent)

    def groups(self, known_types: Iterable[str]) -> list[list[str]]:
        """Of each of these an event that is wanted has one term; times stand apart. `known_types` are all there are."""
        found = [
            [f"{kind}:{value}"]
            for kind, value in (
                ("stream", self.stream), ("task", self.task), ("agent", self.agent), ("actor", self.actor),
                ("correlation", self.correlation), ("causation", self.causation),
            )
            if value is not None
        ]  # fmt: skip
        if self.type is not None:
            found.append([f"type:{kind}" for kind in known_types if self._of_type(kind)])
        return found + [[f"word:{word}"] for word in sorted(words_in(self.q or ""))]


EVERYTHING = Filter()


def terms_of(recorded: Recorded) -> list[str]:
    """What an event can be found by, besides its time."""
    about = _about(recorded.state)
    named = (
        ("stream", recorded.stream), ("type", recorded.type), ("task", about.task), ("agent", about.agent),
        ("actor", recorded.actor), ("correlation", recorded.correlation_id), ("causation", recorded.causation_id),
    )  # fmt: skip
    found = [f"{kind}:{value}" for kind, value in named if isinstance(value, str)]
    return found + [f"word:{word}" for word in words_of(recorded.state)]


def words_of(state: bytes) -> frozenset[str]:
    """The words in an event's texts."""
    texts: list[str] = []
    size, left = 0, [msgspec.json.decode(state)]
    while left and size < TEXT_CHARACTERS:
        value = left.pop()
        if type(value) is str:
            texts.append(value)
            size += len(value)
        elif type(value) is dict:
            left += value.values()
        elif type(value) is list:
            left += value
    return words_in(" ".join(texts)[:TEXT_CHARACTERS])


def words_in(text: str) -> frozenset[str]:
    # The same for plain ASCII in a fifth of the time: every event that is recorded comes by here.
    found = text.translate(_PLAIN).split() if text.isascii() else _WORDS.findall(text.casefold())
    return frozenset(word for word in found if len(word) <= LONGEST_WORD)


class _About(Struct, gc=False):
    """Applications that are not ours may have anything under these names."""

    task: Any = None
    agent: Any = None


_about = msgspec.json.Decoder(_About).decode


@lru_cache(1_000)
def _patterns(types: str) -> tuple[re.Pattern[str], ...]:
    """Events carry their type as `cairn.task.completed.v1`: so it may be asked for too."""
    plain = (one.removeprefix("cairn.").removesuffix(".v1") for one in types.split(","))
    return tuple(re.compile(".*".join(map(re.escape, one.split("*"))), re.DOTALL) for one in plain)
