"""A filter means the same in memory and to an index of terms."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import AgentJoined, Event, TaskNoted, TaskStarted
from ledger.codec import encode, tag_of
from ledger.filters import _WORDS, LONGEST_WORD, TEXT_CHARACTERS, Filter, terms_of, words_in, words_of
from ledger.foreign import Foreign
from ledger.recorded import Recorded

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
NAMES = st.sampled_from(["ann", "bob", "ann/1", "Ännchen", "word:ann", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(TaskNoted, task=NAMES, run=NAMES, key=NAMES, value=JSON),
    st.builds(TaskStarted, task=NAMES, run=NAMES, agent=NAMES, lease_until=st.just(1.0), timeout_at=st.just(2.0)),
    st.builds(AgentJoined, agent=NAMES, role=NAMES),
    st.builds(lambda value: Foreign.of("Dog.Named", 1, msgspec.json.encode(value)), JSON),
)
MAYBE = st.none() | NAMES


def recorded(event: Event, **envelope: Any) -> Recorded:
    named = {"stream": "workflow-w", "correlation_id": None, "causation_id": None, "actor": "ann"} | envelope
    return Recorded(
        position=1, version=1, type=tag_of(event), id=UUID(int=1), recorded_at=AT, traceparent=None,
        state=encode(event), digest=b"", **named,
    )  # fmt: skip


def has_a_term_of_each_group(wanted: Filter, one: Recorded) -> bool:
    terms = {*terms_of(one)}
    return all(not terms.isdisjoint(group) for group in wanted.groups(["task.noted", "task.started", "agent.joined",
                                                                       "es.Dog.Named"]))  # fmt: skip


@given(
    one=st.builds(recorded, EVENTS, correlation_id=MAYBE, causation_id=MAYBE, actor=NAMES,
                  stream=st.sampled_from(["workflow-w", "workflow-v", "agent-ann"])),
    wanted=st.builds(
        Filter, workflow=st.sampled_from([None, "w", "v"]), task=MAYBE, agent=MAYBE, actor=MAYBE, correlation=MAYBE,
        causation=MAYBE, q=st.none() | NAMES,
        type=st.sampled_from([None, "*", "task.*", "*.joined,task.noted", "es.*", "cairn.task.started.v1", "task"]),
    ),
)  # fmt: skip
def test_an_index_of_terms_finds_what_the_matcher_does(one: Recorded, wanted: Filter) -> None:
    assert wanted.matcher()(one) == has_a_term_of_each_group(wanted, one)


@pytest.mark.parametrize(
    ("since", "to", "expected"),
    [
        (None, AT, False),
        (AT, None, True),
        (AT - timedelta(1), AT + timedelta(microseconds=1), True),
        (None, None, True),
    ],
)
def test_times_are_from_and_before(since: datetime | None, to: datetime | None, expected: bool) -> None:
    assert Filter(since=since, to=to).matcher()(recorded(AgentJoined(agent="a", role="b"))) is expected


@given(st.text() | st.text(st.characters(max_codepoint=127)))
def test_words_are_runs_of_letters_and_digits_in_any_case(text: str) -> None:
    assert words_in(text) == {word for word in _WORDS.findall(text.casefold()) if len(word) <= LONGEST_WORD}


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("quoted", True), ("ÜBER-maß", True), ("über MASS", True), ("line two", True), ("deep_er", True),
        ("key", False), ("inner", False), ("quote", False), ("nline", False), ("17", False), ("two absent", False),
    ],
)  # fmt: skip
def test_text_is_what_stands_in_strings(q: str, expected: bool) -> None:
    value = {"inner": ['a "quoted"\nline', {"inner": "Über-Maß TWO"}, 17, "deep", "er"]}
    one = recorded(TaskNoted(task="t", run="t/1", key="k", value=value))
    assert Filter(q=q).matcher()(one) is expected


def test_of_very_long_texts_the_first_part_counts() -> None:
    note = TaskNoted(task="t", run="t/1", key="k", value="early " + "x" * 100 + " " + "y " * TEXT_CHARACTERS + "late")
    found = words_of(encode(note))
    assert {"early", "y"} <= found and "late" not in found and "x" * 100 not in found


@pytest.mark.parametrize(
    "given",
    [{"q": "..."}, {"q": ""}, {"type": ""}, {"type": "a,,b"}, {"type": "a b"}, {"workflow": "a/b"}, {"task": ""},
     {"from": "2026-11-22T10:00:00"}, {"from": "2026-11-22T10:00:00Z", "to": "2026-11-22T10:00:00Z"}, {"since": "x"}],
)  # fmt: skip
def test_a_filter_that_means_nothing_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, Filter, strict=False)


@given(st.builds(Filter, type=st.just("task.*") | st.none(), since=st.none() | st.just(AT), q=st.none() | NAMES))
def test_a_filter_is_data(wanted: Filter) -> None:
    assert msgspec.json.decode(msgspec.json.encode(wanted), type=Filter) == wanted
    check: Callable[[Recorded], bool] = wanted.matcher()
    assert wanted.selects or check(recorded(AgentJoined(agent="a", role="b")))
