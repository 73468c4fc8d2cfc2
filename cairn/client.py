"""The client for asynchronous code, on aiohttp. The same methods as `cairn.sync.SyncClient`, awaited.
It is long because every call of the interface is a method here.

async with Client() as client:
    run = await client.submit(Path("plan.json"))
    async for event in client.events(run.position, workflow=run.workflow, follow=True):
        ...
"""

import asyncio
import io
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, Self, Unpack

import aiohttp
import msgspec

from cairn import calls
from cairn.calls import Call, Json, PlanLike, Submitted, Wanted
from cairn.config import Connection

_CUT = (aiohttp.ClientError, OSError)


class _Answer(NamedTuple):
    status: int
    body: bytes
    link: str | None


class Client:
    """`connection` says which system (default: the one that runs here), `actor` who asks, as the events will name it.

    Use it in one event loop, and close it there: `async with Client() as client`, or `close`. Every method raises
    CairnError (`cairn.calls`) and makes its call again, four times in all, when it cannot be made.
    """

    def __init__(self, connection: Connection | None = None, *, actor: str | None = None) -> None:
        where = calls.where(connection)
        self._url = where.url.rstrip("/")
        self._headers = calls.standing(where, actor)
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def submit(
        self,
        plan: PlanLike,
        *,
        id: str | None = None,
        repository: str | None = None,
        base: str | None = None,
        key: str | None = None,
    ) -> Submitted:
        """Starts a plan: as `id`, or the plan's own id with a number behind it if that is taken.

        `key` makes a repeat of this call, from anywhere and at any time, give the first answer. `base` is the commit of
        `repository` that work starts from. Invalid: `problems` names every place of the plan that is wrong.
        """
        return msgspec.convert(await self._ask(calls.submit(plan, id, repository, base, key)), Submitted)

    async def validate(self, plan: PlanLike) -> list[dict[str, str]]:
        """What is wrong with a plan, each `{"pointer", "detail", "hint"?}`, pointers into the plan; empty if nothing."""
        found: list[dict[str, str]] = (await self._ask(calls.validate(plan)))["errors"]
        return found

    async def pause(self, id: str, reason: str = "") -> Json:
        """Nothing new is dispatched: what is out goes on, what becomes ready waits. As all acts: `{"workflow", "position"}`;
        NotFound; Conflict with the sentence that says why. The same again, while it is so, changes nothing."""
        return await self._ask(calls.act(id, "pause", reason))

    async def resume(self, id: str, reason: str = "") -> Json:
        """Dispatches what has become ready meanwhile, the most urgent first."""
        return await self._ask(calls.act(id, "resume", reason))

    async def cancel(self, id: str, reason: str = "", *, task: str | None = None) -> Json:
        """Cancels what is still open of the workflow, or one task of it: what depends on that is skipped."""
        return await self._ask(calls.act(id, "cancel", reason, task))

    async def retry(self, id: str, task: str, reason: str = "") -> Json:
        """The next attempt begins now, whatever is left of the backoff."""
        return await self._ask(calls.act(id, "retry", reason, task))

    async def skip(self, id: str, task: str, reason: str = "") -> Json:
        """The task is not done; what depends on it goes on without its result."""
        return await self._ask(calls.act(id, "skip", reason, task))

    async def edit(self, id: str, task: str, changes: Json, reason: str = "") -> Json:
        """Changes fields of a task that is not under way, written as in a plan. Invalid: `problems` says where."""
        return await self._ask(calls.act(id, "edit", reason, task, changes=changes))

    async def add(self, id: str, tasks: Sequence[Json], reason: str = "") -> Json:
        """Adds tasks, written as in a plan; they may depend on what is there. Invalid: `problems` says where."""
        return await self._ask(calls.act(id, "tasks", reason, tasks=tasks))

    async def split(
        self, id: str, task: str, parts: Sequence[Json], reason: str = "", *, replace: bool = False
    ) -> Json:
        """The task waits for its parts, then is carried out; or, `replace`d by them, completes with them."""
        return await self._ask(calls.act(id, "split", reason, task, parts=parts, replace=replace))

    async def prioritise(self, id: str, task: str, priority: int, reason: str = "") -> Json:
        """Of tasks that are ready, those with a higher priority go first."""
        return await self._ask(calls.act(id, "prioritise", reason, task, priority=priority))

    async def asks(
        self,
        *,
        workflow: str | None = None,
        state: str = "open",
        limit: int = 50,
        after: int = 0,
        at_least: int | None = None,
    ) -> list[Json]:
        """What people are asked, in the order it was opened, at most `limit` (1,000), `after` the `opened` of the last.

        `state` is open, answered, expired, voided or any. A row's `content` is what `shown` is the sha256 of.
        """
        found: list[Json] = (await self._ask(calls.asks(workflow, state, limit, after, at_least)))["asks"]
        return found

    async def answer(
        self,
        id: str,
        ask: str,
        *,
        choice: str,
        shown: str,
        because: str = "",
        instructions: str = "",
        role: str | None = None,
        edit: Json | None = None,
    ) -> Json:
        """Answers an ask on what was shown (its sha256), nothing else: `{"workflow", "position"}`. NotFound, Conflict.

        `choice` is one of its options, or any words if it has none. `instructions` are told to the next agent; `role`
        goes with the choice reassign, `edit` with edit: `{"description", "inputs", "tests": [{"cmd"}]}`, any of them.
        """
        return await self._ask(calls.answer(id, ask, choice, shown, because, instructions, role, edit))

    async def raise_budget(self, id: str, scope: str = "workflow", *, because: str = "", **amount: float) -> Json:
        """Adds `tokens`, `usd`, `seconds` or `attempts` to a budget: of `workflow`, `role/<role>` or `task/<id>`. NotFound;
        Conflict if it does not limit that."""
        return await self._ask(calls.raise_budget(id, scope, because, amount))

    async def pause_dispatch(self, role: str | None = None, reason: str = "") -> Json:
        """Nothing is handed out to agents of the role, or to any, before `resume_dispatch`: what `queue` gives, and the
        `position` (None: it was paused)."""
        return await self._ask(calls.pause_dispatch(role, reason))

    async def resume_dispatch(self, role: str | None = None, rate: float | None = None, reason: str = "") -> Json:
        """Hands out work again, `rate` dispatches a minute until nothing waits; answers as `pause_dispatch` does."""
        return await self._ask(calls.resume_dispatch(role, rate, reason))

    async def queue(self) -> Json:
        """`{"paused": [], "rates": [], "granted": int, "waiting": int, "claims": []}`: granted claims, then those that
        wait, in turn."""
        return await self._ask(calls.QUEUE)

    async def admit(self, agent: str, role: str, capabilities: Sequence[str] = ()) -> Json:
        """Lets an agent of this name and role speak on NATS, and nobody else under its name: `{"nats_url", "user",
        "permissions"}`. Where NATS is your own the URL is the system's. Conflict when the name has another role."""
        return await self._ask(calls.admit(agent, role, capabilities))

    async def agents(self) -> list[Json]:
        """All agents that have not left: `{"name", "role", "capacity", "capabilities", "version", "status", "drained",
        "holding", "heard_at", "changed_at"}`; they are `here` or `lost`, times in seconds since the epoch."""
        found: list[Json] = (await self._ask(calls.agents()))["agents"]
        return found

    async def spend(
        self, by: Sequence[str] = ("workflow",), *, at_least: int | None = None, **only: str | None
    ) -> list[Json]:
        """What was spent, added up by any of workflow, role, model, day: tokens by kind, `cost_reported_usd`,
        `cost_computed_usd`, `cost_unknown` attempts, seconds, and what accepted tasks cost. `only` narrows it down:
        `workflow`, `role`, `model`, and the days `since` and `until` as 2026-11-22. At most 1,000 rows."""
        found: list[Json] = (await self._ask(calls.sums("spend", by, at_least, only)))["spend"]
        return found

    async def quality(
        self, by: Sequence[str] = ("role",), *, at_least: int | None = None, **only: str | None
    ) -> list[Json]:
        """How good the work was, added up by any of workflow, role, day: pass rates, findings, coverage, retries; `only`
        as for `spend`, but for the model. At most 1,000 rows."""
        found: list[Json] = (await self._ask(calls.sums("quality", by, at_least, only)))["quality"]
        return found

    async def drain(self, agent: str, reason: str = "") -> Json:
        """It takes no more work until it leaves, and finishes what it holds: `{"agent"}`. NotFound, Conflict."""
        return await self._ask(calls.drain(agent, reason))

    async def workflows(self, limit: int = 50, *, status: str | None = None, at_least: int | None = None) -> list[Json]:
        """At most `limit` (1,000) workflows, the newest first, as the board's rows of at least that position."""
        found: list[Json] = (await self._ask(calls.workflows(limit, status, at_least)))["workflows"]
        return found

    async def workflow(self, id: str, at_least: int | None = None) -> Json:
        """One workflow whole, as of at least that position: `{"workflow": {}, "tasks": [], "attempts": [], "asks": []}`."""
        return await self._ask(calls.workflow(id, at_least))

    async def tasks(self, id: str, *, after: str | None = None, limit: int = 50, at_least: int | None = None) -> Json:
        """A page of a workflow's tasks, in the plan's order, each followed by its branches: `{"workflow": {}, "tasks": [],
        "attempts": [], "next": task | null}`; the next page is that `after` the task `next`. At most `limit` (1,000)."""
        return await self._ask(calls.tasks(id, after, limit, at_least))

    async def timeline(self, id: str, at_least: int | None = None) -> Json:
        """What a Gantt chart is drawn from, as of at least that position: `{"workflow": {}, "tasks": []}`, each task with
        its `intervals`, `attempts` and `asks`; times `from` and `to` in seconds since the epoch. NotFound."""
        page = await self._ask(calls.timeline(id, 0, at_least))
        tasks: list[Json] = page["tasks"]
        while page["next"] is not None:
            page = await self._ask(calls.timeline(id, page["next"], at_least))
            tasks += page["tasks"]
        return {"workflow": page["workflow"], "tasks": tasks}

    async def search(
        self, words: str, *, limit: int = 20, after: str | None = None, at_least: int | None = None
    ) -> Json:
        """A page of at most `limit` (100) of what holds these words: `{"hits": [], "next"}`, the `next` page coming `after`
        it. `words` may be `"a phrase"`, `prefix*`, `field:value`, each with a `-` before it. Invalid says what is wrong."""
        return await self._ask(calls.search(words, limit, after, at_least))

    async def events(
        self, after: int = 0, *, follow: bool = False, newest_first: bool = False, **wanted: Unpack[Wanted]
    ) -> AsyncGenerator[Json, None]:
        """The CloudEvents that are wanted (`cairn.calls.Wanted`) after a position, each once and in order; with `follow`
        all to come as well, over cut connections too. With `newest_first` those before the position, if it is not 0,
        the last one first. Unreachable when it stays cut for a minute.
        """
        if follow:
            async with aclosing(self._follow(after, wanted)) as events:
                async for event in events:
                    yield event
        call: Call | None = None if follow else calls.events(after, wanted, newest_first)
        while call:
            page = await self._send(call)
            if page.status != 200:
                raise calls.error_of(page.status, page.body)
            for event in calls.events_of(page.body):
                yield event
            call = calls.next_page(page.link)

    async def event(self, position: int) -> Json:
        """One event with what led to it: `{"event": {}, "causes": []}`, its cause first, then the cause of that. NotFound."""
        return await self._ask(calls.event(position))

    async def wait(self, id: str, timeout: float | None = None) -> Json:
        """The workflow, as `workflow` gives it, once it has ended. TimeoutError after so many seconds."""
        async with asyncio.timeout(timeout):
            detail = await self.workflow(id)
            while not calls.has_ended(detail):
                async with aclosing(
                    self._follow(detail["workflow"]["last"], {"workflow": id, "type": "workflow.*"})
                ) as events:
                    async for event in events:
                        if calls.ends(event):
                            detail = await self.workflow(id, calls.position_of(event))
                            break
            return detail

    async def version(self) -> Json:
        """`{"name", "version", "tenant", "api"}`."""
        return await self._ask(calls.VERSION)

    async def ready(self) -> Json:
        """`{"ready": bool, "orphans": int | null, "checks": {part: {"ok", "detail", "behind"?}}}`, as of now."""
        answer = await self._once(calls.READY)
        return calls.decoded(200 if answer.body.startswith(b'{"ready"') else answer.status, answer.body)

    async def _ask(self, call: Call) -> Json:
        answer = await self._send(call)
        return calls.decoded(answer.status, answer.body)

    async def _send(self, call: Call) -> _Answer:
        for pause in calls.AGAIN_SECONDS:
            try:
                answer = await self._once(call)
            except calls.Unreachable as error:
                if isinstance(error.__cause__, TimeoutError):
                    raise
            else:
                if answer.status not in calls.TRY_AGAIN:
                    return answer
            await asyncio.sleep(pause)
        return await self._once(call)

    async def _once(self, call: Call) -> _Answer:
        limit = aiohttp.ClientTimeout(total=calls.ANSWER_SECONDS, sock_connect=calls.CONNECT_SECONDS)
        try:
            async with self._request(call, limit) as response:
                return _Answer(response.status, await response.read(), response.headers.get("Link"))
        except _CUT as error:
            raise calls.unreachable(self._url, error) from error

    async def _follow(self, after: int, wanted: Wanted) -> AsyncGenerator[Json, None]:
        loop = asyncio.get_running_loop()
        worked, since = False, loop.time()
        while True:
            try:
                async with aclosing(self._lines(calls.stream(after, wanted))) as lines:
                    async for line in lines:
                        worked, since = True, loop.time()
                        if line:
                            event: Json = msgspec.json.decode(line)
                            after = calls.position_of(event)
                            yield event
                            since = loop.time()
            except calls.Unreachable:
                if loop.time() - since > (calls.FOLLOW_SECONDS if worked else sum(calls.AGAIN_SECONDS)):
                    raise
            await asyncio.sleep(calls.FOLLOW_AGAIN_SECONDS)

    async def _lines(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Whole lines only; the last one of a stream that was cut is not."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=calls.CONNECT_SECONDS, sock_read=calls.SILENCE_SECONDS)
        pieces: list[bytes] = []
        try:
            async with self._request(call, limit) as response:
                if response.status != 200:
                    raise calls.error_of(response.status, await response.read())
                async for chunk in response.content.iter_any():  # its own lines are limited in length
                    *ended, rest = chunk.split(b"\n")
                    for line in ended:
                        yield b"".join((*pieces, line))
                        pieces = []
                    pieces.append(rest)
        except _CUT as error:
            raise calls.unreachable(self._url, error) from error

    def _request(self, call: Call, limit: aiohttp.ClientTimeout) -> aiohttp.client._RequestContextManager:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(headers=self._headers)
        body = io.BytesIO(call.body) if call.body else None
        return self._opened.request(call.method, self._url + call.path, data=body, headers=call.headers, timeout=limit)
