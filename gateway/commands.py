"""A command to a workflow, as a request gives it: carried out once, answered with the position that shows it."""

from collections.abc import Sequence

from aiohttp import web
from msgspec import Struct
from structlog.contextvars import bind_contextvars

from domain.commands import WorkflowCommand
from gateway import requests
from gateway.routes import json
from handlers.execute import Executor, Order, trace_of
from ledger.ledger import Ledger
from ledger.recorded import Recorded


class Accepted(Struct, frozen=True):
    """It is recorded, or was so already: a view of at least `position` shows it."""

    workflow: str
    position: int


class Commands:
    def __init__(self, executor: Executor, ledger: Ledger) -> None:
        self._executor, self._ledger = executor, ledger

    async def execute(self, request: web.Request, command: WorkflowCommand) -> tuple[str, list[Recorded]]:
        """The workflow that the path names, and what was recorded of it."""
        name = requests.workflow_of(request)
        order = Order(
            requests.command_id(request), command, requests.actor(request), trace_of(request.headers.get("traceparent"))
        )
        return name, await self._executor.submit(name, order)

    async def accepted(self, name: str, recorded: Sequence[Recorded]) -> web.Response:
        """What is so already has no event of its own; a view at the ledger's end shows it."""
        position = recorded[-1].position if recorded else (await self._ledger.head()).position
        bind_contextvars(position=position)
        return json(Accepted(name, position))
