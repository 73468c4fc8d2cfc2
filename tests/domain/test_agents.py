"""One agent's life: it comes, is missed and comes back, is drained, and leaves; saying it twice changes nothing."""

from typing import Any

import pytest

from domain.agents import Agent, decide, evolve
from domain.commands import Drain, Hear, Join, Leave, Miss
from domain.errors import Conflict, NotFound, Refused
from domain.events import AgentDrained, AgentJoined, AgentLeft, AgentLost, AgentReturned

JOIN = Join(now=1.0, agent="ann", role="coder", capacity=2, capabilities=("gpu",), version="1")
JOINED = AgentJoined(agent="ann", role="coder", capacity=2, capabilities=("gpu",), version="1")
MISS, HEAR, LEAVE = Miss(now=9.0, heard_at=3.0), Hear(now=9.5), Leave(now=10.0)
DRAIN = Drain(now=5.0, by="pat", reason="too hot")
LOST, RETURNED, LEFT = AgentLost(agent="ann", heard_at=3.0), AgentReturned(agent="ann"), AgentLeft(agent="ann")
DRAINED = AgentDrained(agent="ann", by="pat", reason="too hot")


def after(*commands: Any) -> Agent:
    state = Agent()
    for command in commands:
        for event in decide(state, command):
            evolve(state, event)
    return state


@pytest.mark.parametrize(
    ("before", "command", "events"),
    [
        ([], JOIN, [JOINED]),
        ([JOIN], JOIN, []),
        ([JOIN, MISS], JOIN, [RETURNED]),
        ([JOIN, LEAVE], JOIN, [JOINED]),
        ([JOIN, LEAVE], Join(now=1.0, agent="ann", role="tester"), [AgentJoined(agent="ann", role="tester")]),
        ([JOIN], Join(now=1.0, agent="ann", role="coder"), [AgentJoined(agent="ann", role="coder")]),
        ([JOIN], MISS, [LOST]),
        ([JOIN, MISS], MISS, []),
        ([JOIN, LEAVE], MISS, []),
        ([], MISS, []),
        ([JOIN, MISS], HEAR, [RETURNED]),
        ([JOIN], HEAR, []),
        ([], HEAR, []),
        ([JOIN], DRAIN, [DRAINED]),
        ([JOIN, MISS], DRAIN, [DRAINED]),
        ([JOIN, DRAIN], DRAIN, []),
        ([JOIN, DRAIN], JOIN, []),
        ([JOIN, DRAIN], MISS, [LOST]),
        ([JOIN, DRAIN], LEAVE, [LEFT]),
        ([JOIN], LEAVE, [LEFT]),
        ([JOIN, MISS], LEAVE, [LEFT]),
        ([JOIN, LEAVE], LEAVE, []),
        ([], LEAVE, []),
    ],
)
def test_what_follows(before: list[Any], command: Any, events: list[Any]) -> None:
    assert decide(after(*before), command) == events


@pytest.mark.parametrize(
    ("before", "command", "error", "why"),
    [
        ([], DRAIN, NotFound, "no such agent"),
        ([JOIN, LEAVE], DRAIN, Conflict, "has left"),
        ([JOIN], Join(now=1.0, agent="ann", role="tester"), Conflict, "name of a coder"),
        ([JOIN, MISS], Join(now=1.0, agent="ann", role="tester"), Conflict, "name of a coder"),
    ],
)
def test_what_is_refused(before: list[Any], command: Any, error: type[Refused], why: str) -> None:
    with pytest.raises(error, match=why):
        decide(after(*before), command)


def test_a_drain_lasts_until_it_leaves() -> None:
    again = Join(now=2.0, agent="ann", role="coder", version="2")
    assert after(JOIN, DRAIN, again).drained, "also for a process that is started again under its name"
    assert after(JOIN, DRAIN, MISS, HEAR).drained
    assert not after(JOIN, DRAIN, LEAVE, JOIN).drained
