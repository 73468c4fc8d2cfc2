"""Which partition of `events` takes what a writer is about to append.

A partition holds a range of positions and sees to it that ids and versions are unique in itself. It is made ahead of
need: whoever writes past the middle of the newest makes the next one, and whoever comes second finds it there.
"""

from ledger.postgres import Connection
from ledger.rows import one
from ledger.sql import SQL


class Partitions:
    """What one writer knows of them. `first` and `last` are the positions of the one it last asked for."""

    def __init__(self) -> None:
        self.first, self.last = 1, 0
        self._followed = False

    def ready(self, position: int) -> bool:
        """Whether `holding` would have nothing to ask for: what it would answer is `first`."""
        return position <= self.last and (self._followed or position <= self._middle)

    async def holding(self, connection: Connection, position: int) -> int:
        """The first position of the partition that holds this one; it exists, and so do all before it.

        Outside of any transaction, so that what was made stays; positions never decrease from call to call.
        """
        if position > self.last:
            self.first, self.last = await _partition_for(connection, position)
            self._followed = False
        if not self._followed and position > self._middle:
            await _partition_for(connection, self.last + 1)
            self._followed = True
        return self.first

    @property
    def _middle(self) -> int:
        return (self.first + self.last) // 2


async def _partition_for(connection: Connection, position: int) -> tuple[int, int]:
    first, last = await one(await connection.execute(SQL["partition_for"], {"position": position}, binary=True))
    return first, last
