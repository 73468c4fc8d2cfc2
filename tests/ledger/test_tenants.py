"""Tenants side by side on one Postgres and one NATS: nothing of one is found with what belongs to the other."""

import asyncio
import time
from uuid import uuid4

import psycopg
import pytest
from appends import SECONDS, append, assert_both_logs_equal, fill, followed, in_stream
from users import login

from cairn.bus import Bus
from ledger.announce import subjects_of
from ledger.ledger import Ledger
from ledger.names import schema_of, views_of
from ledger.postgres import Connection
from ledger.stream import delete, stream_name, streams_of
from ledger.tenants import Tenant, create, tenants
from ops.backup.take import heads


@pytest.mark.parametrize("name", ["", "Main", "a-b", "1a", "a.b", "a*", "a>", 'a"; DROP SCHEMA x', "a" * 42, "ä"])
async def test_a_name_that_is_none_is_refused_with_the_rule(postgres_url: str, name: str) -> None:
    with pytest.raises(ValueError, match="a letter, then at most 40 of a-z, 0-9 and _"):
        await create(postgres_url, name)


@pytest.mark.parametrize(("one", "other"), [("a", "a_views"), ("views_a", "a"), ("a", "views_a"), ("a", "a_events_1")])
def test_no_two_tenants_share_a_name_of_anything(one: str, other: str) -> None:
    def names(tenant: str) -> set[str]:
        streams = (stream_name(tenant, 1), f"{tenant.upper()}_INBOX", f"{tenant.upper()}_DEAD")
        return {schema_of(tenant), views_of(tenant), subjects_of(tenant), *streams}

    assert not names(one) & names(other)


async def test_making_a_tenant_twice_is_making_it_once(postgres_url: str, tenant: str) -> None:
    made = await asyncio.gather(*(create(postgres_url, tenant) for _ in range(4)))
    assert sorted(bool(applied) for applied in made) == [False, False, False, True]


async def test_the_list_says_where_each_stands(postgres_url: str, tenant: str) -> None:
    names = [f"{tenant}_{each}" for each in "abc"]
    for name in names:
        await create(postgres_url, name)
    async with Ledger.open(postgres_url, tenant=names[1]) as ledger:
        await fill(ledger, "workflow-a", 3)
        await ledger._raise_epoch(1, 5)
    found = {each.name: each for each in await tenants(postgres_url)}
    assert [found[name][:4] for name in names] == [(names[0], 0, 1, 0), (names[1], 3, 5, 3), (names[2], 0, 1, 0)]
    assert found[names[1]].size_bytes > found[names[0]].size_bytes > 0
    assert list(found) == sorted(found)


async def test_the_list_of_a_member_has_only_what_it_may_read(postgres_url: str, tenant: str) -> None:
    for name in (tenant, f"{tenant}_other"):
        await create(postgres_url, name)
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as superuser:
        await superuser.execute(f"CREATE ROLE only_{tenant} LOGIN IN ROLE cairn_{tenant}")
    found = await tenants(login(postgres_url, f"only_{tenant}"))
    assert found == [Tenant(tenant, 0, 1, 0, found[0].size_bytes)]


async def test_a_ledger_put_aside_under_another_name_hides_no_other(
    postgres_url: str, tenant: str, admin: Connection
) -> None:
    """As before a restore, which wants the schema gone; neither from the list, nor from a backup."""
    for name in (tenant, f"{tenant}_other"):
        await create(postgres_url, name)
    await admin.execute(f'ALTER SCHEMA cairn_{tenant} RENAME TO "cairn_{tenant}_other-2026"')
    assert [each.name for each in await tenants(postgres_url) if each.name.startswith(tenant)] == [f"{tenant}_other"]
    assert [each.name for each in await heads(admin, f"{tenant}_other")] == [f"{tenant}_other"]
    assert f"{tenant}_other" in [each.name for each in await heads(admin, None)]


async def test_neither_ledger_finds_what_the_other_holds(postgres_url: str, tenant: str) -> None:
    """The same streams in both, different events."""
    async with Ledger.open(postgres_url, tenant=tenant) as one, Ledger.open(postgres_url, tenant=f"{tenant}_b") as two:
        mine, theirs = await asyncio.gather(fill(one, "workflow-a", 3), fill(two, "workflow-a", 5))
        command = uuid4()
        (only,) = await two.append(append("workflow-b", 0, command=command))
        assert await one.read(0) == mine and await two.read(0) == [*theirs, only]
        assert await one.read_stream("workflow-a") == mine and await two.read_stream("workflow-a") == theirs
        assert await one.read_stream("workflow-b") == [] == await one.find_command(command)
        assert await one.find([event.id for event in theirs]) == []
        (again,) = await one.append(append("workflow-b", 0, command=command))
        assert (again.position, again.id) == (4, only.id), "a command is known to the ledger that it was given to"
        assert (await one.verify()).events == 4 and (await two.verify()).events == 6
        async with one._pool.connection() as connection:
            for table in ("events", "ledger_head", "cursors", "migrations"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await connection.execute(f"SELECT * FROM cairn_{tenant}_b.{table}")


async def test_neither_hears_on_the_bus_what_the_other_says(postgres_url: str, tenant: str, bus: Bus) -> None:
    other = f"{tenant}_b"
    async with (
        Ledger.open(postgres_url, tenant=tenant, bus=bus) as one,
        Ledger.open(postgres_url, tenant=other, bus=bus) as two,
    ):
        try:
            hearing = asyncio.create_task(followed(one, 20))
            await asyncio.gather(fill(one, "workflow-a", 20), fill(two, "workflow-a", 30))
            assert await hearing == await one.read(0)
            await assert_both_logs_equal(one, bus)
            await assert_both_logs_equal(two, bus)
            assert set(await streams_of(bus, tenant)) == {stream_name(tenant, 1)}
            assert set(await streams_of(bus, other)) == {stream_name(other, 1)}
            held = await in_stream(bus, stream_name(tenant, 1))
            assert not {event.id for event in held} & {event.id for event in await two.read(0)}
            taking = {"name": f"{tenant.upper()}_TAKES", "subjects": [subjects_of(other)], "storage": "memory"}
            refused = await bus.api(f"STREAM.CREATE.{taking['name']}", taking)
            assert "subjects overlap" in refused["error"]["description"]
            consumer = {
                "stream_name": stream_name(tenant, 1),
                "config": {"name": "spy", "filter_subject": subjects_of(other), "ack_policy": "none"},
            }
            await bus.api(f"CONSUMER.CREATE.{stream_name(tenant, 1)}.spy", consumer)
            info = await bus.api(f"CONSUMER.INFO.{stream_name(tenant, 1)}.spy")
            assert info.get("num_pending", 0) == 0, "the stream of one tenant has nothing of the other"
            await two._raise_epoch(1, 2)
            async with asyncio.timeout(SECONDS):
                while set(await streams_of(bus, other)) != {stream_name(other, 2)}:
                    await asyncio.sleep(0.05)
            assert (await one.head()).epoch == 1 and set(await streams_of(bus, tenant)) == {stream_name(tenant, 1)}
        finally:
            for name in await streams_of(bus, other):
                await delete(bus, name)


async def test_a_tenant_that_is_held_up_holds_up_no_other(postgres_url: str, tenant: str) -> None:
    async with Ledger.open(postgres_url, tenant=tenant) as one, Ledger.open(postgres_url, tenant=f"{tenant}_b") as two:
        async with await psycopg.AsyncConnection.connect(postgres_url) as slow:
            await slow.execute(f"SELECT FROM cairn_{tenant}.ledger_head FOR UPDATE")
            waiting = asyncio.create_task(one.append(append("workflow-a", 0)))
            began = time.monotonic()
            await fill(two, "workflow-a", 5)
            assert not waiting.done() and time.monotonic() - began < SECONDS
            await slow.rollback()
        assert (await waiting)[0].position == 1
