"""More for a workflow, a role of it or a task: a budget that was reached is raised."""

import time
from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta, Struct

from domain.commands import RaiseBudget
from domain.events import BudgetRaised
from domain.plan import Budget
from gateway import requests
from gateway.commands import Accepted, Commands
from gateway.routes import API, COMMAND, Route, Routes


class Raise(Struct, forbid_unknown_fields=True):
    """`scope` is `workflow`, `role/<role>` or `task/<id>`; `amount` is added to its limits."""

    amount: Budget
    scope: Annotated[str, Meta(max_length=200)] = "workflow"
    because: requests.Words = ""

    def __post_init__(self) -> None:
        if self.amount == Budget():
            raise ValueError("`amount` names nothing to add: tokens, usd, seconds or attempts")


class Budgets:
    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def add(self, request: web.Request) -> web.Response:
        requests.query(request)
        asked = await requests.body(request, Raise)
        by = requests.actor(request)
        command = RaiseBudget(now=time.time(), scope=asked.scope, amount=asked.amount, by=by, because=asked.because)
        name, recorded = await self._commands.execute(request, command)
        match recorded[0].event:
            case BudgetRaised(scope=asked.scope, amount=asked.amount) if recorded[0].stream == f"workflow-{name}":
                return await self._commands.accepted(name, recorded)
        raise requests.key_reused()

    routes: ClassVar[Routes] = (
        Route(
            "POST", f"{API}/workflows/{{workflow}}/budget", add, "operate",
            "Adds to what a workflow, a role or a task may use up.", Accepted, body=Raise, headers=COMMAND,
        ),
    )  # fmt: skip
