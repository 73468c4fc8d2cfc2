"""The cursor and the rows stay together, whatever happens to the process, the connection or the view."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from random import Random

import msgspec
import pytest
from histories import history
from stage import WAIT_SECONDS, Sliced, opened, projected, record, tables

from domain.events import ReportRefused, WorkflowStarted
from ledger.cancel import end
from ledger.ledger import Ledger
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.board import Board, workflows
from projections.project import Projection
from projections.recovery import Recovery
from projections.standing import Halted, Outdated, standings

HISTORY = history(Random(7), 4, 150)
OF_BOARD = ("board_workflows", "board_tasks", "board_attempts", "board_asks")


class Dying(Board):
    """A board whose connection is ended by Postgres when its rows are written and the transaction is not yet over."""

    deaths = 0

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        await super().apply(connection, batch)
        if self.deaths < 3 and batch[0].position > 10 * self.deaths:
            self.deaths += 1
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


class Newer(Board):
    version = Board.version + 1


async def test_a_connection_that_dies_in_the_middle_of_a_batch_takes_cursor_and_rows_with_it(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, HISTORY))[-1]
        dying, seen = Projection(connections, Dying()), []

        async def stands(position: int) -> None:
            async with connections.connection() as connection:
                found = await (await connection.execute("SELECT position FROM projections")).fetchone()
                last = await (await connection.execute("SELECT max(last) FROM board_workflows")).fetchone()
            assert found == (position,)
            assert last == (position,)
            seen.append(position)

        await projected(dying, Sliced(ledger, [6], stands), head)
        assert isinstance(dying.view, Dying)
        assert dying.view.deaths == 3
        assert len(seen) == len(set(seen)), "a batch was applied twice"
        after_deaths = await tables(connections, OF_BOARD)
        await dying.rebuild()
        await projected(Projection(connections, Board()), ledger, head)
        assert await tables(connections, OF_BOARD) == after_deaths


async def test_two_processes_that_project_one_view_do_no_harm(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, HISTORY))[-1]
        both = [Projection(connections, Board()) for _ in range(2)]
        await asyncio.gather(
            projected(both[0], Sliced(ledger, [3, 1, 5]), head), projected(both[1], Sliced(ledger, [2, 4]), head)
        )
        of_both = await tables(connections, OF_BOARD)
        await both[0].rebuild()
        await projected(Projection(connections, Board()), ledger, head)
        assert await tables(connections, OF_BOARD) == of_both


class Late(Sliced):
    """Has batches only when `gate` is open; `asked` tells after which positions it was followed."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger, [3])
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        self.gate = asyncio.Event()

    async def follow(self, after: int) -> AsyncIterator[list[Recorded]]:
        await self.asked.put(after)
        await self.gate.wait()
        async for batch in super().follow(after):
            yield batch


async def test_a_process_that_comes_late_with_its_batch_gives_it_up(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, HISTORY))[-1]
        late = Late(ledger)
        running = asyncio.create_task(Projection(connections, Board()).run(late))
        assert await late.asked.get() == 0
        await projected(Projection(connections, Board()), ledger, head)
        before = await tables(connections, (*OF_BOARD, "projections"))
        late.gate.set()
        assert await asyncio.wait_for(late.asked.get(), WAIT_SECONDS) == head
        assert await tables(connections, (*OF_BOARD, "projections")) == before
        running.cancel()
        await asyncio.wait([running])


async def test_nobody_reads_what_a_crash_of_postgres_took_back_before_it_is_there_again(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, HISTORY))[-1]
        board = Projection(connections, Board())
        await projected(board, ledger, head)
        await Projection(connections, Board()).rebuild()  # without a word to the other
        assert board.position == head
        with pytest.raises(TimeoutError):
            async with board.reading(head, timeout_seconds=0.2):
                pass
        running = asyncio.create_task(board.run(ledger))
        async with board.reading(head, WAIT_SECONDS) as connection:
            assert await workflows(connection, 10)
        running.cancel()
        await asyncio.wait([running])


async def poisoned(ledger: Ledger) -> tuple[int, int]:
    """Records HISTORY and then an event of a workflow that was never started; the positions of both ends."""
    refused = ReportRefused(task="t", run="t/1", token=1, agent="ann", kind="started", why="")
    before = (await record(ledger, HISTORY))[-1]
    return before, (await record(ledger, [("ghost", [refused])]))[0]


async def test_an_event_that_cannot_be_folded_halts_its_view_right_before_it_and_no_other(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        before, bad = await poisoned(ledger)
        board, other = Projection(connections, Board()), Projection(connections, Recovery())
        elsewhere = Projection(connections, Board())
        running = [asyncio.create_task(one.run(ledger)) for one in (board, other)]
        for reader in (board, elsewhere):
            with pytest.raises(Halted, match=rf"board halted at position {bad}: .*ghost was never started") as halted:
                await reader.reached(bad, WAIT_SECONDS)
            assert (halted.value.view, halted.value.position) == ("board", bad)
            await reader.reached(before)
        await other.reached(bad, WAIT_SECONDS)
        async with connections.connection() as connection:
            stand = {one.name: one for one in await standings(connection)}
        assert (stand["board"].position, stand["recovery"].position) == (before, bad)
        assert "LookupError: workflow ghost was never started (a report.refused of " in str(stand["board"].halted)
        assert stand["recovery"].halted is None
        assert not any(task.done() for task in running)
        await end(running)


class Mended(Board):
    """Does not mind what was never started."""

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        await super().apply(connection, [one for one in batch if one.stream != "workflow-ghost"])


async def mended_to(projection: Projection, position: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            with contextlib.suppress(Halted):
                return await projection.reached(position, WAIT_SECONDS)
            await asyncio.sleep(0.05)


async def test_a_halted_view_goes_on_when_another_program_can_fold_the_event_and_where_it_is_rebuilt(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as (ledger, connections):
        _, bad = await poisoned(ledger)
        halted = Projection(connections, Board())
        running = asyncio.create_task(halted.run(ledger))
        with pytest.raises(Halted):
            await halted.reached(bad, WAIT_SECONDS)
        mended = asyncio.create_task(Projection(connections, Mended()).run(ledger))
        await mended_to(halted, bad)
        await end([mended])
        _, [started, *_] = history(Random(8), 1, 1)[0]
        assert isinstance(started, WorkflowStarted)
        [further] = await record(ledger, [("later", [msgspec.structs.replace(started, workflow="later")])])
        await halted.reached(further, WAIT_SECONDS)

        await halted.rebuild()
        with pytest.raises(Halted, match=f"position {bad}"):
            await halted.reached(further, WAIT_SECONDS)
        halted.view = Mended()
        await Projection(connections, Board()).rebuild()
        await mended_to(halted, further)
        await end([running])


class Lazy(Recovery):
    pace_seconds = 60.0
    transactions = 0

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        self.transactions += 1
        await super().apply(connection, batch)


async def test_a_lazy_view_lets_events_gather_and_who_asks_for_a_position_does_not_wait_for_that(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as (ledger, connections):
        lazy, urgent = Lazy(), Projection(connections, Board())
        projection = Projection(connections, lazy)
        running = [asyncio.create_task(one.run(ledger)) for one in (projection, urgent)]
        head = 0
        versions: dict[str, int] = {}
        for decision in HISTORY[:40]:
            [head] = await record(ledger, [decision], versions)
            await urgent.reached(head, WAIT_SECONDS)
        assert lazy.transactions <= 2
        await projection.reached(head, WAIT_SECONDS)
        assert lazy.transactions <= 3
        await end(running)


async def test_a_view_of_a_higher_version_is_replayed_and_its_older_program_stops(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, HISTORY))[-1]
        old = Projection(connections, Board())
        running = asyncio.create_task(old.run(ledger))
        await old.reached(head, WAIT_SECONDS)
        first = await tables(connections, OF_BOARD)
        await projected(Projection(connections, Newer()), ledger, head)
        assert await tables(connections, OF_BOARD) == first
        newer, ours = Newer.version, Board.version
        with pytest.raises(Outdated, match=f"its tables are of version {newer}, this program has version {ours}"):
            await asyncio.wait_for(running, WAIT_SECONDS)
        with pytest.raises(Outdated, match=f"version {newer}"):
            await Projection(connections, Board()).install()


async def test_a_running_view_that_is_rebuilt_elsewhere_is_replayed_though_nothing_new_happens(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, HISTORY))[-1]
        board, elsewhere = Projection(connections, Board()), Projection(connections, Board())
        async with asyncio.TaskGroup() as group:
            running = group.create_task(board.run(ledger))
            for rebuilt_by in (elsewhere, board):
                await elsewhere.reached(head, WAIT_SECONDS)
                live = await tables(connections, OF_BOARD)
                await rebuilt_by.rebuild()
                elsewhere = Projection(connections, Board())
                await elsewhere.reached(head, WAIT_SECONDS)
                assert await tables(connections, OF_BOARD) == live
            running.cancel()


async def test_who_asks_for_a_position_sees_it(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        here, elsewhere = Projection(connections, Board()), Projection(connections, Board())
        with pytest.raises(TimeoutError):
            await elsewhere.reached(1, timeout_seconds=0.1)
        await here.install()
        running = asyncio.create_task(here.run(ledger))
        for name, events in HISTORY[:1]:
            [position] = await record(ledger, [(name, events)])
            await asyncio.gather(here.reached(position), elsewhere.reached(position))
            rows = await tables(connections, ("board_workflows",))
            assert len(rows["board_workflows"]) == 1
        running.cancel()
        await asyncio.wait([running])
