"""What an operator does to a workflow: a route for each act, its body, how a key that was used before is judged."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from domain.commands import (
    AddTasks,
    Cancel,
    EditTask,
    Pause,
    Prioritise,
    Resume,
    RetryNow,
    Skip,
    SplitTask,
    WorkflowCommand,
)
from domain.events import (
    Event,
    RetryScheduled,
    TaskAdded,
    TaskCancelled,
    TaskEdited,
    TaskExcused,
    TaskPrioritised,
    WorkflowCancelled,
    WorkflowPaused,
    WorkflowResumed,
)
from domain.plan import Task
from gateway import requests
from gateway.commands import Accepted, Commands
from gateway.requests import Words
from gateway.routes import API, COMMAND, Route, Routes
from ledger.recorded import Recorded

Body = TypeVar("Body", bound="Act")
_WORKFLOW = f"{API}/workflows/{{workflow}}"
_TASK = f"{_WORKFLOW}/tasks/{{task}}"


class Act(Struct, forbid_unknown_fields=True, kw_only=True):
    reason: Words = ""


class Changes(Act, forbid_unknown_fields=True, kw_only=True):
    """Fields of a task as a plan writes them."""

    changes: dict[str, Any]


class Addition(Act, forbid_unknown_fields=True, kw_only=True):
    tasks: tuple[Task, ...]


class Split(Act, forbid_unknown_fields=True, kw_only=True):
    parts: tuple[Task, ...]
    replace: bool = False


class Priority(Act, forbid_unknown_fields=True, kw_only=True):
    priority: int


def _route(path: str, handle: Callable[..., Awaitable[web.Response]], body: type[Act], summary: str) -> Route:
    return Route("POST", path, handle, "operate", summary, Accepted, body=body, headers=COMMAND)


class Acts:
    """The same act under the same key gets the same answer; a key of another command is refused."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    async def pause(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Act)
        return await self._act(request, Pause(**by), WorkflowPaused, reason=asked.reason)

    async def resume(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Act)
        return await self._act(request, Resume(**by), WorkflowResumed, reason=asked.reason)

    async def cancel(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Act)
        return await self._act(request, Cancel(**by), WorkflowCancelled, reason=asked.reason)

    async def cancel_task(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Act)
        task = request.match_info["task"]
        return await self._act(request, Cancel(task=task, **by), TaskCancelled, task=task, reason=asked.reason)

    async def retry(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Act)
        task = request.match_info["task"]
        return await self._act(
            request, RetryNow(task=task, **by), RetryScheduled, task=task, by=by["by"], reason=asked.reason
        )

    async def skip(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Act)
        task = request.match_info["task"]
        return await self._act(request, Skip(task=task, **by), TaskExcused, task=task, reason=asked.reason)

    async def prioritise(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Priority)
        fields: dict[str, Any] = {"task": request.match_info["task"], "priority": asked.priority}
        return await self._act(request, Prioritise(**fields, **by), TaskPrioritised, **fields, reason=asked.reason)

    async def edit(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Changes)
        task = request.match_info["task"]
        name, recorded = await self._commands.execute(request, EditTask(task=task, changes=asked.changes, **by))
        for event in _of(recorded, TaskEdited):
            if not _is_as(event.spec, asked.changes) or (event.task, event.reason) != (task, asked.reason):
                raise requests.key_reused()
        return await self._answer(name, recorded, TaskEdited)

    async def add(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Addition)
        name, recorded = await self._commands.execute(request, AddTasks(tasks=asked.tasks, **by))
        added = {(event.task, event.reason): event.spec for event in _of(recorded, TaskAdded)}
        if recorded and added != {(task.id, asked.reason): task for task in asked.tasks}:
            raise requests.key_reused()
        return await self._answer(name, recorded, TaskAdded)

    async def split(self, request: web.Request) -> web.Response:
        asked, by = await _asked(request, Split)
        task = request.match_info["task"]
        command = SplitTask(task=task, parts=asked.parts, replace=asked.replace, **by)
        name, recorded = await self._commands.execute(request, command)
        added = {(event.task, event.spec.parent_id, event.reason) for event in _of(recorded, TaskAdded)}
        if recorded and added != {(part.id, task, asked.reason) for part in asked.parts}:
            raise requests.key_reused()
        return await self._answer(name, recorded, TaskAdded)

    async def _act(
        self, request: web.Request, command: WorkflowCommand, kind: type[Event], **fields: Any
    ) -> web.Response:
        """`fields` are what the event of this act, which is of this kind, says."""
        name, recorded = await self._commands.execute(request, command)
        meant = [event for event in _of(recorded, kind) if all(getattr(event, key) == fields[key] for key in fields)]
        whole = kind is not WorkflowCancelled and any(_of(recorded, WorkflowCancelled))
        if recorded and (whole or not meant):
            raise requests.key_reused()
        return await self._answer(name, recorded, kind)

    async def _answer(self, name: str, recorded: list[Recorded], kind: type[Event]) -> web.Response:
        if recorded and (recorded[0].stream != f"workflow-{name}" or not any(_of(recorded, kind))):
            raise requests.key_reused()
        return await self._commands.accepted(name, recorded)

    routes: ClassVar[Routes] = (
        _route(f"{_WORKFLOW}/pause", pause, Act, "Nothing new of it is handed out; what is out goes on."),
        _route(f"{_WORKFLOW}/resume", resume, Act, "Hands out what has become ready meanwhile."),
        _route(f"{_WORKFLOW}/cancel", cancel, Act, "Cancels what is still open of a workflow."),
        _route(f"{_WORKFLOW}/tasks", add, Addition, "Adds tasks, which may depend on what is there."),
        _route(f"{_TASK}/cancel", cancel_task, Act, "Cancels a task: what depends on it is skipped."),
        _route(f"{_TASK}/retry", retry, Act, "The next attempt begins now, whatever is left of the backoff."),
        _route(f"{_TASK}/skip", skip, Act, "The task is not done; what depends on it goes on without its result."),
        _route(f"{_TASK}/edit", edit, Changes, "Changes fields of a task that is not under way."),
        _route(f"{_TASK}/split", split, Split, "The task waits for its parts, or is replaced by them."),
        _route(f"{_TASK}/prioritise", prioritise, Priority, "Of tasks that are ready, the higher priority goes first."),
    )


async def _asked(request: web.Request, kind: type[Body]) -> tuple[Body, dict[str, Any]]:
    """The body, and what every command says of who asks."""
    requests.query(request)
    asked = await requests.body(request, kind)
    return asked, {"now": time.time(), "by": requests.actor(request), "reason": asked.reason}


def _is_as(spec: Task, changes: dict[str, Any]) -> bool:
    """Whether it is what these changes make of it; what makes no task of it was never done."""
    try:
        return msgspec.convert(msgspec.to_builtins(spec) | changes, Task) == spec
    except msgspec.ValidationError:
        return False


def _of(recorded: Sequence[Recorded], kind: type[Any]) -> list[Any]:
    return [one.event for one in recorded if isinstance(one.event, kind)]
