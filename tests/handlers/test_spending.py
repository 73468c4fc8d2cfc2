"""The wire form of what agents use, note and may use: taken, or refused with a sentence."""

from typing import Any
from uuid import UUID

import msgspec
import pytest

from domain.commands import ReportCompleted, ReportNoted, ReportReserve, ReportSettle, ReportUsage
from domain.usage import Spent
from handlers.reports import Report, command

SENT = {"id": str(UUID(int=1)), "workflow": "w", "task": "a", "run": "a/1", "token": 1, "agent": "ann"}
USAGE = {"model": "m", "turns": 2, "input_total": 9, "cache_read": 4, "cache_write": 1, "output": 3, "cost_usd": 0.25}


def heard(kind: str, **said: Any) -> Any:
    body = msgspec.json.encode({**SENT, "kind": kind, **said})
    return command(msgspec.json.decode(body, type=Report), "coder", 5.0)


def test_an_outcome_may_say_what_it_used() -> None:
    told = heard("completed", result={}, usage=USAGE)
    assert isinstance(told, ReportCompleted) and told.spent == Spent(**USAGE)  # type: ignore[arg-type]
    assert heard("completed", result={}).spent is None
    assert heard("completed", result={}, usage={"turns": 1, "of_a_newer_agent": 1}).spent == Spent(turns=1)


def test_usage_notes_and_calls_are_reports_of_their_own() -> None:
    held = {"now": 5.0, "task": "a", "run": "a/1", "token": 1, "agent": "ann", "role": "coder"}
    spent = Spent(output=3)
    assert heard("used", usage={"output": 3}, why="late") == ReportUsage(**held, spent=spent, why="late")
    assert heard("noted", note={"key": "k", "value": [1]}) == ReportNoted(**held, key="k", value=[1])
    assert heard("reserve", call={"id": "c1", "tokens": 5}) == ReportReserve(**held, call="c1", tokens=5)
    assert heard("settle", call={"id": "c1"}, usage={"output": 3}) == ReportSettle(**held, call="c1", spent=spent)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"kind": "used"}, "needs a usage"),
        ({"kind": "settle", "call": {"id": "c"}}, "needs a usage"),
        ({"kind": "reserve"}, "needs a call"),
        ({"kind": "noted"}, "needs a note"),
        ({"kind": "used", "usage": {"output": -1}}, "usage.output"),
        ({"kind": "used", "usage": {"cost_usd": -0.5}}, "usage.cost_usd"),
        ({"kind": "used", "usage": {"input_total": 1, "cache_read": 2}}, "counts cache_read"),
        ({"kind": "reserve", "call": {"id": "no id"}}, "call.id"),
        ({"kind": "reserve", "call": {"id": "c", "usd": -1}}, "call.usd"),
        ({"kind": "noted", "note": {"key": "k", "value": msgspec.Raw(b"[" * 200 + b"]" * 200)}}, "nested more than"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place(said: dict[str, Any], why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        heard(**said)
