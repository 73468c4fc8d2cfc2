"""A view that is built a second time equals the live one, says where it does not, and takes its place in one moment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest
from histories import history
from stage import WAIT_SECONDS, opened, record, tables

from domain.events import ReportRefused
from ledger.audit import reader
from ledger.cancel import end
from ledger.errors import SegmentUnreadable
from ledger.ledger import Ledger
from ledger.names import views_of
from ledger.postgres import Connection, Pool, connect
from ledger.recorded import Recorded
from ledger.retire import closed, lock, retire
from projections.board import Board, workflows
from projections.project import Projection, View
from projections.recovery import Lease, Recovery, beat
from projections.shadow import Busy, Difference, shadowed
from projections.standing import Halted, standings

HISTORY = history(Random(11), 6, 220)
REFUSED = ReportRefused(task="t", run="t/1", token=1, agent="ann", kind="started", why="")
SCHEMAS = "SELECT count(*) FROM pg_namespace WHERE nspname = %s"


@contextlib.asynccontextmanager
async def running(ledger: Ledger, pool: Pool, *views: View) -> AsyncIterator[list[Projection]]:
    projections = [Projection(pool, view) for view in views]
    tasks = [asyncio.create_task(one.run(ledger)) for one in projections]
    yield projections
    await end(tasks)


async def rebuilt(url: str, ledger: Ledger, view: View, *, swap: bool = True) -> list[Difference]:
    async with shadowed(url, ledger.tenant, view) as shadow:
        await shadow.build(ledger.read, (await ledger.head()).position)
        found = await shadow.compare(ledger.read)
        if swap:
            await shadow.replace(ledger.read)
        return found


async def test_a_rebuilt_view_is_equal_and_in_place_while_the_live_one_goes_on_and_is_read(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, pool), running(ledger, pool, Board(), Recovery()) as (board, recovery):
        versions: dict[str, int] = {}
        half = len(HISTORY) // 2
        head = (await record(ledger, HISTORY[:half], versions))[-1]
        for one in (board, recovery):
            await one.reached(head, WAIT_SECONDS)
        started = len({name for name, _ in HISTORY[:half]})
        done = asyncio.Event()

        async def read() -> int:
            reads = 0
            while not done.is_set():
                async with pool.connection() as connection:
                    assert len(await workflows(connection)) >= started
                reads += 1
            return reads

        reading = asyncio.create_task(read())
        recording = asyncio.create_task(record(ledger, HISTORY[half:], versions))
        for view in (Board(), Recovery(), Board()):
            assert await rebuilt(postgres_url, ledger, view) == []
        head = (await recording)[-1]
        done.set()
        assert await reading
        for one in (board, recovery):
            await one.reached(head, WAIT_SECONDS)
        live = await tables(pool)
        for view in (Board(), Recovery()):
            assert await rebuilt(postgres_url, ledger, view) == []
        assert await tables(pool) == live
        async with pool.connection() as connection:
            row = await (await connection.execute("SELECT count(*) FROM orphans")).fetchone()
            assert row == (0,)


async def test_what_is_not_as_the_ledger_has_it_is_named_and_mended_and_no_process_keeps_it_in_memory(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as (ledger, pool), running(ledger, pool, Board()) as (board,):
        versions: dict[str, int] = {}
        await board.reached((await record(ledger, HISTORY[:1], versions))[-1], WAIT_SECONDS)
        async with pool.connection() as connection:
            await connection.execute("UPDATE board_workflows SET title = 'forged', branches = 7")
        board.view.forget()  # as a process that has read them so
        await board.reached((await record(ledger, HISTORY[1:2], versions))[-1], WAIT_SECONDS)
        async with pool.connection() as connection:
            await connection.execute("DELETE FROM board_tasks WHERE task = 't0'")
        found = await rebuilt(postgres_url, ledger, Board(), swap=False)
        named = {(one.table, one.key, one.column): (one.live, one.shadow) for one in found}
        workflow = HISTORY[0][0]
        assert named["board_workflows", workflow, "branches"] == ("7", "0")
        assert named["board_workflows", workflow, "title"][0] == "forged"
        assert named["board_tasks", f"{workflow}/t0", "task"] == (None, "t0")
        assert await rebuilt(postgres_url, ledger, Board()) == found
        head = (await record(ledger, HISTORY[2:], versions))[-1]
        await board.reached(head, WAIT_SECONDS)
        assert await rebuilt(postgres_url, ledger, Board(), swap=False) == []


async def test_what_was_heard_is_no_fold_and_outlives_a_rebuild(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, pool), running(ledger, pool, Board(), Recovery()) as views:
        head = (await record(ledger, HISTORY))[-1]
        for one in views:
            await one.reached(head, WAIT_SECONDS)
        async with pool.connection() as connection:
            await beat(connection, [Lease("w0", "t0/1", 1)], 5.0)
        assert await rebuilt(postgres_url, ledger, Recovery()) == []
        assert await tables(pool, ("presence",)) == {"presence": ["(w0,t0/1,1,5)"]}


class Mended(Board):
    """Does not mind what was never started."""

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        await super().apply(connection, [one for one in batch if one.stream != "workflow-ghost"])


async def test_what_cannot_be_folded_changes_nothing_and_a_program_that_can_puts_it_beyond(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, pool), running(ledger, pool, Board()) as (board,):
        before = (await record(ledger, HISTORY))[-1]
        [bad] = await record(ledger, [("ghost", [REFUSED])])
        with pytest.raises(Halted):
            await board.reached(bad, WAIT_SECONDS)
        live = await tables(pool, ("board_tasks", "board_workflows", "projections"))
        with pytest.raises(Halted, match=rf"halted at position {bad}: LookupError: workflow ghost was never started"):
            await rebuilt(postgres_url, ledger, Board())
        assert await tables(pool, ("board_tasks", "board_workflows", "projections")) == live
        assert await rebuilt(postgres_url, ledger, Mended()) == []
        async with pool.connection() as connection:
            [stand] = await standings(connection)
            assert (stand.position, stand.halted) == (bad, None)
            schema = views_of(ledger.tenant).replace("views", "shadow", 1)
            assert await (await connection.execute(SCHEMAS, [schema])).fetchone() == (0,)
        assert before == bad - 1


async def test_one_shadow_at_a_time(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, _), shadowed(postgres_url, ledger.tenant, Board()):
        with pytest.raises(Busy):
            async with shadowed(postgres_url, ledger.tenant, Recovery()):
                pass


async def test_a_view_that_was_never_made_is_built_up_to_the_head(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, pool):
        head = (await record(ledger, HISTORY))[-1]
        assert await rebuilt(postgres_url, ledger, Board()) == []
        async with running(ledger, pool, Board()) as (board,):
            await board.reached(head)
            live = await tables(pool, ("board_tasks",))
            assert await rebuilt(postgres_url, ledger, Board()) == []
            assert await tables(pool, ("board_tasks",)) == live


async def test_archived_events_are_read_too(postgres_url: str, tmp_path: Path) -> None:
    small = f"{postgres_url}&options=-c%20cairn.partition_events%3D20"
    async with opened(small) as (ledger, pool):
        head = (await record(ledger, HISTORY))[-1]
        async with running(ledger, pool, Board()) as (board,):
            await board.reached(head, WAIT_SECONDS)
        async with await connect(small, ledger.tenant) as connection:
            await lock(connection, ledger.tenant)
            gone = [await retire(connection, ledger.tenant, tmp_path, one) for one in await closed(connection, head)]
        assert gone
        async with reader(small, ledger.tenant) as without, shadowed(small, ledger.tenant, Board()) as shadow:
            with pytest.raises(SegmentUnreadable):
                await shadow.build(without.read, head)
        async with reader(small, ledger.tenant, tmp_path) as whole, shadowed(small, ledger.tenant, Board()) as shadow:
            assert await shadow.build(whole.read, head) == head
            assert await shadow.compare(whole.read) == []
