"""A view built a second time, from the ledger, beside the one that is read: to compare the two, or to put it in place.

*Building.* In a schema of its own, by the same statements and the same fold, up to where the live view stands; archived
events are read too. Readers and the live view notice nothing. *Comparing.* The live view's cursor is held for the moment
that the shadow takes to fold the last few events; then both stand at one position, and one snapshot shows both.
*Putting in place.* The same, and in the transaction that holds the cursor the live tables are dropped and the shadow's
moved to where they were: whoever reads sees the one or the other. What was heard, and is no fold (unlogged tables), stays.
The cursor says that its tables are others, so that every process that keeps rows of them in memory forgets these.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import NamedTuple, cast

from psycopg import sql

from ledger.errors import BrokenChain
from ledger.history import END
from ledger.names import schema_of, views_of
from ledger.postgres import Connection, connect
from ledger.recorded import Recorded
from ledger.writer import LOST
from projections.batches import history
from projections.behind import Behind
from projections.project import View
from projections.standing import SQL, Halted, Standing, standing
from projections.tables import columns, keys, moved

BATCH_EVENTS = 20_000
"""What changes often is written once a batch."""
CLOSE_EVENTS = 1_000
"""So far behind the live view the shadow may be when its cursor is held."""
DECODED_EVENTS = 200
"""At a time, so that what was written meanwhile is followed by the next."""
SHOWN_ROWS = 1_000
"""Of each table."""

Read = Callable[[int, int], Awaitable[list[Recorded]]]
"""Reads at most so many events after a position."""


class Difference(NamedTuple):
    """A column of a row that is not the same; all as Postgres writes it, None where there is no such row, or no value."""

    table: str
    key: str
    column: str
    live: str | None
    shadow: str | None


class Busy(Exception):
    """Somebody else builds a view of this tenant a second time just now."""


class Shadow:
    """`position` is how far it is folded."""

    def __init__(self, view: View, building: Connection, live: Connection, schemas: tuple[str, str]) -> None:
        self.view, self.position = view, 0
        self._building, self._live = building, live
        self._shadow_schema, self._live_schema = schemas

    async def build(self, read: Read, head: int) -> int:
        """Folds all that the live view holds, or up to `head` where there is none of this version; how many events.

        Halted if an event cannot be folded.
        """
        begun = self.position
        while (target := await self._target(head)) > self.position:
            close = target - self.position <= CLOSE_EVENTS
            await self._fold(read, target)
            if close:
                break
        return self.position - begun

    async def compare(self, read: Read) -> list[Difference]:
        """What differs, at most SHOWN_ROWS rows of each table. Empty also where there is nothing to compare with."""
        async with AsyncExitStack() as stack:
            async with self._live.transaction():
                found = await self._held()
                if found is None or found.version != self.view.version or found.position < self.position:
                    return []
                await self._fold(read, found.position)
                await stack.enter_async_context(self._building.transaction())
                await self._building.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                tables = await keys(self._building, self._shadow_schema)  # takes the snapshot
            return [one for table, key in tables.items() for one in await self._different(table, key)]

    async def replace(self, read: Read) -> None:
        """Puts the shadow in the place of the live tables, where they stand; further on, if they go no further."""
        async with self._live.transaction():
            found = await self._held()
            goes_on = found is not None and found.version == self.view.version and found.halted is None
            await self._fold(read, found.position if found and goes_on else END)
            await self._live.execute(self.view.sql["drop"])
            await moved(self._live, self._shadow_schema, self._live_schema)
            named = {"name": self.view.name, "version": self.view.version}
            await self._live.execute(SQL["rewind"], named)
            await self._live.execute(SQL["put"], named | {"position": self.position})

    async def _target(self, head: int) -> int:
        found = await standing(self._live, self.view.name)
        return found.position if found is not None and found.version == self.view.version else head

    async def _held(self) -> Standing | None:
        """Where the live view stands, and will until the transaction ends."""
        row = await (await self._live.execute(SQL["hold"], {"name": self.view.name})).fetchone()
        return Standing(*row) if row else None

    async def _fold(self, read: Read, target: int) -> None:
        """In large batches, one of which is folded while the one before is written; or, where one of them cannot be
        folded, event by event from its first on, to say which it is."""
        try:
            await self._fold_batches(read, target)
        except LOST:
            raise
        except Exception:  # noqa: BLE001 - what it was is found out
            self.view.forget()
            await self._fold_each(read, target)

    async def _fold_batches(self, read: Read, target: int) -> None:
        async with (
            Behind.writing(self._building, self._written) as behind,
            aclosing(self._batches(partial(_decoded, read), target)) as batches,
        ):
            async for batch in batches:
                async with behind.batch(batch[-1].position) as connection:
                    await self.view.apply(cast(Connection, connection), batch)

    async def _fold_each(self, read: Read, target: int) -> None:
        async with aclosing(self._batches(read, target)) as batches:
            async for batch in batches:
                for recorded in batch:
                    try:
                        async with self._building.transaction():
                            await self.view.apply(self._building, [recorded])
                    except LOST:
                        raise
                    except Exception as error:
                        raise Halted.at(self.view.name, recorded, error) from error
                    self.position = recorded.position

    def _written(self, position: int) -> None:
        self.position = position

    async def _batches(self, read: Read, target: int) -> AsyncGenerator[list[Recorded], None]:
        """All after what is written, up to `target`."""
        position = self.position
        if position >= target:
            return
        async with aclosing(history(read, position, BATCH_EVENTS)) as found:
            async for batch in found:
                if batch[-1].position != position + len(batch):
                    raise BrokenChain(position + 1, "it, or one of those that follow, is missing")
                if wanted := batch[: target - position]:
                    yield wanted
                position = batch[-1].position
                if position >= target:
                    return
        if target != END:
            raise BrokenChain(position + 1, f"it is missing, and the view {self.view.name} stands at {target}")

    async def _different(self, table: str, key: list[str]) -> list[Difference]:
        names = await columns(self._building, self._shadow_schema, table)

        def texts(of: str, wanted: list[str]) -> sql.Composable:
            parts = [sql.SQL("{}::text").format(sql.Identifier(of, name)) for name in wanted]
            return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(parts))

        query = sql.SQL(
            "SELECT {}, {}, {}, {} FROM {} AS live FULL JOIN {} AS shadow USING ({})"
            " WHERE live::text IS DISTINCT FROM shadow::text ORDER BY 1, 2 LIMIT {}"
        ).format(
            texts("live", key), texts("shadow", key), texts("live", names), texts("shadow", names),
            sql.Identifier(self._live_schema, table), sql.Identifier(self._shadow_schema, table),
            sql.SQL(", ").join(map(sql.Identifier, key)), SHOWN_ROWS,
        )  # fmt: skip
        found = []
        for live_key, shadow_key, live, shadow in await (await self._building.execute(query)).fetchall():
            named = "/".join(live_key if live_key[0] is not None else shadow_key)
            found += [
                Difference(table, named, name, was, becomes)
                for name, was, becomes in zip(names, live, shadow, strict=True)
                if was != becomes
            ]
        return found


@asynccontextmanager
async def shadowed(dsn: str, tenant: str, view: View) -> AsyncIterator[Shadow]:
    """An empty shadow of a view, gone at the end unless it was put in place.

    Busy if there is one already. psycopg.errors.InsufficientPrivilege if the user may make no schema.
    """
    live_schema = views_of(tenant)
    shadow_schema = live_schema.replace("cairnviews_", "cairnshadow_", 1)
    name = sql.Identifier(shadow_schema)
    async with (
        await Connection.connect(dsn, autocommit=True) as owner,
        await connect(dsn, tenant, views=True) as building,
        await connect(dsn, tenant, views=True) as live,
    ):
        lock = await owner.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"shadow {shadow_schema}",))
        if await lock.fetchone() != (True,):
            raise Busy(f"a view of tenant {tenant} is being rebuilt already")
        await owner.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
        await owner.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        try:
            role = await (await building.execute("SELECT current_user")).fetchone()
            assert role is not None
            to_role = sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(name, sql.Identifier(role[0]))
            await owner.execute(to_role)
            for connection in (building, live):
                await connection.execute(SQL["patient"])
            path = sql.SQL("SET search_path TO {}, {}, {}, pg_temp")
            await building.execute(path.format(name, sql.Identifier(live_schema), sql.Identifier(schema_of(tenant))))
            await building.execute(view.sql["create"])
            view.forget()
            async with live.transaction():
                for statement in ("lock", "create", "widen"):
                    await live.execute(SQL[statement])
            yield Shadow(view, building, live, (shadow_schema, live_schema))
        finally:
            await building.close()
            await live.close()
            await owner.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))


async def _decoded(read: Read, after: int, limit: int) -> list[Recorded]:
    """Reads events, and decodes them here, ahead of the fold: while Postgres writes."""
    found = await read(after, limit)
    for number, recorded in enumerate(found, 1):
        _ = recorded.event
        if number % DECODED_EVENTS == 0:
            await asyncio.sleep(0)
    return found
