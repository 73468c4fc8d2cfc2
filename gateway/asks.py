"""What people are asked, and their answers."""

import time
from typing import Annotated, ClassVar, Literal

from aiohttp import web
from msgspec import Meta, Struct

from domain.commands import Answer
from domain.events import AskAnswered
from domain.plan import Edit
from gateway import requests
from gateway.commands import Accepted, Commands
from gateway.pages import Page, link, reading
from gateway.requests import Words
from gateway.routes import API, COMMAND, Route, Routes, json
from projections.board import AskRow, asks
from projections.project import Projection


class Which(Page, frozen=True, forbid_unknown_fields=True):
    state: Literal["open", "answered", "expired", "voided", "any"] = "open"
    workflow: requests.Workflow | None = None


class AskPage(Struct, frozen=True):
    """In the order they were opened. `next` is what the next page comes `after`; null on the last."""

    asks: list[AskRow]
    next: int | None


class Decision(Struct, forbid_unknown_fields=True):
    """`shown` is the sha256 that the ask carries: what was looked at is what is decided on. `choice` is one of the
    ask's options, or any words where it has none; `role` goes with `reassign`, `edit` with `edit`."""

    choice: Words
    shown: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    because: Words = ""
    instructions: Words = ""
    role: Words | None = None
    edit: Edit | None = None


class Asks:
    def __init__(self, commands: Commands, board: Projection) -> None:
        self._commands, self._board = commands, board

    async def page(self, request: web.Request) -> web.Response:
        query = requests.query(request, Which)
        async with reading(self._board, query.at_least) as connection:
            found = await asks(
                connection, state=query.state, workflow=query.workflow, limit=query.limit + 1, after=query.after
            )
        following = found[query.limit - 1].opened if len(found) > query.limit else None
        return json(AskPage(found[: query.limit], following), headers=link(request, following))

    async def answer(self, request: web.Request) -> web.Response:
        requests.query(request)
        asked, ask = await requests.body(request, Decision), request.match_info["ask"]
        command = Answer(
            now=time.time(), ask=ask, shown=asked.shown, choice=asked.choice, by=requests.actor(request),
            because=asked.because, instructions=asked.instructions, role=asked.role, edit=asked.edit,
        )  # fmt: skip
        name, recorded = await self._commands.execute(request, command)
        match recorded[0].event:
            case AskAnswered(task=task) as said if recorded[0].stream == f"workflow-{name}" and said == AskAnswered(
                ask=ask, task=task, choice=asked.choice, by=command.by, because=asked.because,
                instructions=asked.instructions, role=asked.role, edit=asked.edit, at=said.at,
            ):  # fmt: skip
                return await self._commands.accepted(name, recorded)
        raise requests.key_reused()

    routes: ClassVar[Routes] = (
        Route("GET", f"{API}/asks", page, "read", "What people are asked.", AskPage, query=Which),
        Route(
            "POST", f"{API}/workflows/{{workflow}}/asks/{{ask}}/answer", answer, "operate",
            "Answers an ask, on what was shown and nothing else.", Accepted, body=Decision, headers=COMMAND,
        ),
    )  # fmt: skip
