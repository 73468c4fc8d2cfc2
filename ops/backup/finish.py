"""The end of every restore: the past becomes the present.

The chain of digests is verified, up to where the backup was and beyond. The epoch is raised, so that relays replace what
JetStream still holds of the life that is given up; that is recorded in `ledger-<tenant>`. Each workflow under way is told,
which voids every lease and moves its tokens to where the given-up life has never been. Our branches are made to say what
the ledger says: Git was copied later than Postgres, and knows work that now was never accepted.

Everything here can be done again, and is, if it was interrupted: until the marker is gone `cairn up` refuses to start.
"""

import secrets
import time
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import msgspec
import psycopg
from psycopg import sql

from domain.commands import Restore
from domain.events import LedgerRestored
from handlers.execute import Executor, Order
from ledger.history import partitions
from ledger.ledger import Ledger
from ledger.postgres import connect
from ops.backup import wal
from ops.backup.manifest import BackupBroken, Tenant
from ops.backup.named import Named, settle
from ops.backup.take import heads
from ops.embedded import MARKER, Embedded
from ops.embedded.child import ServerFailed, Tell
from ops.settings import Settings

__all__ = ["MARKER", "Begun", "Brought", "finish"]

ACTOR = "cairn restore"
SKIPPED_TOKENS = range(2**16, 2**25)
"""A workflow has thousands of runs; drawn anew by each restore, as two lives may come from one backup."""


class Begun(msgspec.Struct, frozen=True):
    """The marker in a data directory that is being restored: what its backup said."""

    id: UUID
    taken_at: float | None = None
    data_dir: str = ""
    tenants: list[Tenant] = []


class Brought(msgspec.Struct, frozen=True):
    """A ledger that is back: all up to `position` is verified, and `workflows` go on."""

    tenant: str
    position: int
    digest: str
    epoch: int
    workflows: int


async def finish(settings: Settings, tell: Tell) -> list[Brought]:
    """Starts what was unpacked here (or by means of your own) and makes it the present.

    AlreadyRunning, ServerFailed; BackupBroken or BrokenChain if it is not what was recorded.
    """
    data_dir = settings.data_dir.resolve()
    marker = data_dir / MARKER
    begun = msgspec.json.decode(marker.read_bytes(), type=Begun) if marker.exists() else Begun(uuid4())
    if not settings.database_url and not (data_dir / "postgres").is_dir():
        raise ServerFailed(
            f"there is no ledger in {data_dir}: nothing was restored there, or not to its end"
            f"\n  fix: remove {data_dir}, then: cairn restore DIR --data-dir {data_dir}"
        )
    servers = Embedded(data_dir, database_url=settings.database_url, nats_url="nats://unused", tell=tell)
    try:
        await servers.start()
        url = servers.database_url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            if not settings.database_url:
                for name in (*wal.RECOVERY, "recovery_target_time"):
                    await connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
            names = [
                tenant.name for tenant in await heads(connection, settings.tenant if settings.database_url else None)
            ]
        if lost := {tenant.name for tenant in begun.tenants} - set(names):
            raise BackupBroken(f"the ledgers of {', '.join(sorted(lost))} are not in what was restored")
        named = {name: Named(data_dir, begun.data_dir) for name in names}
        brought = [await _bring_back(url, settings.archive, name, begun, named[name], tell) for name in names]
        for commit in await settle(data_dir, list(named.values())):
            tell(f"commit {commit} is named by an event and is missing: git fetch it into the repository in {data_dir}")
    finally:
        await servers.stop()
    marker.unlink(missing_ok=True)
    return brought


async def _bring_back(url: str, archive: Path, tenant: str, begun: Begun, named: Named, tell: Tell) -> Brought:
    async with Ledger.open(url, tenant=tenant, archive=archive) as ledger:
        await _demand_segments(url, archive, tenant)
        tell(f"verifying the ledger of {tenant}")
        verified = await ledger.verify()
        await _demand_reached(ledger, next((one for one in begun.tenants if one.name == tenant), None))
        position = 0
        while events := await ledger.read(position):
            for recorded in events:
                named.fold(recorded)
            position = events[-1].position
        before = await ledger.head()
        head = await ledger.begin_epoch()
        executor = Executor(ledger)
        restored = LedgerRestored(
            position=verified.position, previous_epoch=before.epoch, epoch=head.epoch, taken_at=begun.taken_at
        )
        await executor.note(f"ledger-{tenant}", uuid5(begun.id, f"ledger-{tenant}"), restored, ACTOR)
        for workflow, repository in named.running.items():
            skipped = secrets.choice(SKIPPED_TOKENS)
            command = Restore(now=time.time(), skipped=skipped, repository=repository)
            await executor.execute(workflow, Order(uuid5(begun.id, f"{tenant}/{workflow}"), command, ACTOR))
        return Brought(tenant, verified.position, verified.digest.hex(), head.epoch, len(named.running))


async def _demand_segments(url: str, archive: Path, tenant: str) -> None:
    async with await connect(url, tenant) as connection:
        for partition in await partitions(connection):
            if partition.segment and partition.archived_at and not (archive / partition.segment).is_file():
                raise BackupBroken(
                    f"{archive / partition.segment} is missing, which holds positions {partition.first} to {partition.last}"
                    "\n  fix: copy it there from where it still is, then: cairn restore --finish; or restore anew to before"
                    f" they left Postgres, with --wal and --until {partition.archived_at.isoformat()}"
                )


async def _demand_reached(ledger: Ledger, expected: Tenant | None) -> None:
    if expected is None or not expected.position:
        return
    found = await ledger.read(expected.position - 1, 1)
    if not found or found[0].digest.hex() != expected.digest:
        held = f"the digest {found[0].digest.hex()}" if found else "nothing"
        raise BackupBroken(
            f"the ledger of {expected.name} has {held} at position {expected.position},"
            f" its backup was taken with {expected.digest}"
        )
