"""One agent: whether it is there, and whether it takes work. What it is given is the workflows' matter.

That it lives is heard in its heartbeats, which are no events; only that it was missed, and that it came back, is one.
"""

from typing import Literal, assert_never

import msgspec

from domain.commands import AgentCommand, Drain, Hear, Join, Leave, Miss
from domain.errors import Conflict, NotFound
from domain.events import AgentDrained, AgentEvent, AgentJoined, AgentLeft, AgentLost, AgentReturned

AgentStatus = Literal["unknown", "here", "lost", "left"]


class Agent(msgspec.Struct):
    """`drained` lasts until it leaves: a process that is started again under its name takes nothing either."""

    name: str = ""
    status: AgentStatus = "unknown"
    role: str = ""
    capacity: int = 1
    capabilities: tuple[str, ...] = ()
    version: str = ""
    drained: bool = False

    @property
    def gone(self) -> bool:
        return self.status in ("unknown", "left")


def decide(state: Agent, command: AgentCommand) -> list[AgentEvent]:
    """The events that follow; none when it is so already. Raises NotFound for an agent nobody has heard of, and Conflict
    for a name that is another role's, or an agent that has left."""
    match command:
        case Join():
            return _join(state, command)
        case Hear():
            return [AgentReturned(agent=state.name)] if state.status == "lost" else []
        case Miss(heard_at=heard_at):
            return [AgentLost(agent=state.name, heard_at=heard_at)] if state.status == "here" else []
        case Leave():
            return [] if state.gone else [AgentLeft(agent=state.name)]
        case Drain(by=by, reason=reason):
            if state.status == "unknown":
                raise NotFound("there is no such agent")
            if state.status == "left":
                raise Conflict(f"agent {state.name} has left: there is nothing to drain")
            return [] if state.drained else [AgentDrained(agent=state.name, by=by, reason=reason)]
    assert_never(command)


def _join(state: Agent, command: Join) -> list[AgentEvent]:
    claim(state, command.agent, command.role)
    same = (state.capacity, state.capabilities, state.version) == (
        command.capacity, command.capabilities, command.version,
    )  # fmt: skip
    if same and not state.gone:
        return [AgentReturned(agent=state.name)] if state.status == "lost" else []
    return [
        AgentJoined(
            agent=command.agent, role=command.role, capacity=command.capacity, capabilities=command.capabilities,
            version=command.version,
        )
    ]  # fmt: skip


def claim(state: Agent, name: str, role: str) -> None:
    """Whether somebody of this role may have the name. Raises Conflict when it is another role's."""
    if not state.gone and state.role != role:
        raise Conflict(f"{name} is the name of a {state.role}: give this {role} a name of its own")


def evolve(state: Agent, event: AgentEvent) -> Agent:
    match event:
        case AgentJoined():
            state.drained = state.drained and not state.gone
            state.name, state.role, state.status = event.agent, event.role, "here"
            state.capacity, state.capabilities, state.version = event.capacity, event.capabilities, event.version
        case AgentLost():
            state.status = "lost"
        case AgentReturned():
            state.status = "here"
        case AgentDrained():
            state.drained = True
        case AgentLeft():
            state.status = "left"
    return state
