"""Appends judged one after another under the head's lock: each is accepted or refused alone."""

from typing import NamedTuple

from ledger.errors import AlreadyRecorded, NotRecordable, WrongVersion
from ledger.group import NO_CLAIMS, Group, Pending, compose, following, parameters, survey
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.rows import Head, answer_from, select
from ledger.sql import SQL


class Verdict(NamedTuple):
    """`accepted` are committed, as `group`, after `head`; if `lacking`, nothing is, for want of a partition.

    `archived` are repeats whose answers are in the archive; `others` have theirs here.
    """

    head: Head
    accepted: list[Pending]
    group: Group
    lacking: bool
    archived: list[Pending]
    others: list[tuple[Pending, list[Recorded] | Exception]]


async def judge(connection: Connection, appends: list[Pending], room: int) -> Verdict:
    """One transaction; there are partitions up to position `room`."""
    others: list[tuple[Pending, list[Recorded] | Exception]] = []
    archived: list[Pending] = []
    async with connection.transaction():
        head, versions, found = await survey(connection, appends)
        accepted: list[Pending] = []
        for pending in appends:
            actual = versions[pending.stream]
            repeated = [id_ for id_ in pending.commands if id_ in found]
            if repeated and repeated[0] == pending.rows[0].id:
                if first := found[repeated[0]]:
                    others.append((pending, await _found(connection, pending, first)))
                else:
                    archived.append(pending)
            elif actual != pending.expected:
                others.append((pending, WrongVersion(pending.stream, pending.expected, actual)))
            elif repeated:
                why = f"event {repeated[0]} is recorded already, the ones before it are not"
                others.append((pending, NotRecordable(f"stream {pending.stream}: {why}")))
            else:
                versions[pending.stream] += len(pending.rows)
                accepted.append(pending)
        group = compose(accepted, head)
        lacking = bool(accepted) and group.after.position > room
        if accepted and not lacking:
            with following(head):
                written = await connection.execute(SQL["append"], parameters(group, NO_CLAIMS), prepare=True)
            if not written.rowcount:
                raise RuntimeError(f"The ledger's head left position {head.position} while it was locked.")
    return Verdict(head, accepted, group, lacking, archived, others)


async def _found(connection: Connection, pending: Pending, first: Recorded) -> list[Recorded] | AlreadyRecorded:
    """What became of an append whose first event is there: recorded just as it was sent, or a repeat of its command.

    Its events may have several causes, and a repeat may have been sent too: so versions and ids decide.
    """
    if pending.attempted:
        after, many = pending.expected, len(pending.rows)
        there = await select(connection, "read_stream", stream=pending.stream, after=after, to=after + many, limit=many)
        if [recorded.id for recorded in there] == [row.id for row in pending.rows]:
            return there
    return AlreadyRecorded(await answer_from(connection, first))
