"""What is decided on, by the kind of its stream: the state that its events fold to, and the rules it obeys."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from domain import agents, queue, state, workflow
from domain.agents import Agent
from domain.queue import Queue
from domain.state import Workflow

S = TypeVar("S")


class Kind(NamedTuple, Generic[S]):
    """The streams `<prefix><key>`. `empty` makes the state before the first event, and can be read back from JSON.

    `size` says how much of the memory for states one is worth, in tasks of a workflow; 0 when nothing more will come.
    """

    prefix: str
    empty: type[S]
    decide: Callable[[S, Any], list[Any]]
    evolve: Callable[[S, Any], S]
    size: Callable[[S], int]


def _tasks(state: Workflow) -> int:
    return len(state.tasks) if state.status == "running" or state.open else 0


def _claims(state: Queue) -> int:
    return 1 + len(state.claims)


WORKFLOW = Kind("workflow-", Workflow, workflow.decide, state.evolve, _tasks)
QUEUE = Kind("queue-", Queue, queue.decide, queue.evolve, _claims)
AGENT = Kind("agent-", Agent, agents.decide, agents.evolve, lambda agent: int(agent.status != "left"))
