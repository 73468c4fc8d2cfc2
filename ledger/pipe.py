"""Statements on a connection of their own, straight to libpq: for the one statement that every append waits for.

The driver's way costs 0.3 to 0.7 ms of this process's time a statement, most of it around the waiting; a group of 64
appends costs as much in all. Here a statement is handed over with its parameters as finished bytes, a callback of the
event loop takes the answer, and more can be sent before that; the server takes them in order, each as a transaction of
its own. While a Pipe uses a connection nothing else may.
"""

import asyncio
import os
import re
import select
from collections import deque
from collections.abc import Mapping
from functools import cache, partial
from time import monotonic

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from ledger import timed
from ledger.arrays import Column
from ledger.postgres import Connection

BINARY = 1
_PARAMETER = re.compile(r"%\((\w+)\)s")


@cache
def _numbered(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with $1, $2, ... and the names these stand for."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda name: f"${names.index(name[1]) + 1}", sql).encode(), names


class Pipe:
    """Takes over `connection`, which has to be idle and in autocommit, until `close`."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._libpq = connection, connection.pgconn
        self._prepared: dict[str, bytes] = {}
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._rows = 0
        self._failure: PGresult | None = None
        self._loop = asyncio.get_running_loop()
        # Of our own: libpq closes its one whenever it likes, and the number may be another connection's by then.
        self._socket = os.dup(self._libpq.socket)
        self._line = select.poll()
        self._line.register(self._socket, select.POLLRDHUP)
        self._libpq.nonblocking = 1
        self._libpq.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._hear)

    @property
    def backend_pid(self) -> int:
        return self._libpq.backend_pid

    def send(self, sql: str, parameters: Mapping[str, Column]) -> "asyncio.Future[int]":
        """Ends in how many rows the statement inserted or changed, once that is committed, or in a psycopg.Error.

        `parameters` are by the names the statement has them under; values in binary, of `ledger.arrays`.
        """
        text, names = _numbered(sql)
        values = [parameters[name] for name in names]
        answer: asyncio.Future[int] = self._loop.create_future()
        if self._socket < 0:
            answer.set_exception(psycopg.OperationalError("the connection is closed"))
            return answer
        try:
            if sql not in self._prepared:
                name = b"cairn_%d" % len(self._prepared)
                self._libpq.send_prepare(name, text, [value.oid for value in values])
                self._prepared[sql] = name
            self._libpq.send_query_prepared(self._prepared[sql], values, [BINARY] * len(values), BINARY)
            self._libpq.pipeline_sync()
            self._waiting.append(answer)
            if timed.wanted():
                answer.add_done_callback(partial(_told, sql, monotonic()))
            if self._libpq.flush() and self._socket >= 0:
                self._loop.add_writer(self._socket, self._flush)
        except psycopg.OperationalError as error:
            self._break(error)
            if not answer.done():
                answer.set_exception(error)
        return answer

    async def close(self) -> None:
        """Whatever was not answered has failed."""
        self._break(psycopg.OperationalError("the connection was closed"))
        await self._connection.close()

    def _flush(self) -> None:
        try:
            if not self._libpq.flush():
                self._loop.remove_writer(self._socket)
        except psycopg.OperationalError as error:
            self._break(error)

    def _hear(self) -> None:
        if self._socket < 0:
            return None
        try:
            self._libpq.consume_input()
        except psycopg.OperationalError as error:
            return self._break(error)
        ended = False
        while not self._libpq.is_busy():
            result = self._libpq.get_result()
            if result is None and ended:
                break
            ended = result is None  # one after each statement; a second one: there is nothing more
            if result is None:
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                self._answer()
            elif result.status == ExecStatus.FATAL_ERROR:
                self._failure = result
            else:
                self._rows = result.command_tuples or 0
        # Of a line that broke while something was unread, uvloop tells once, and what comes first is not yet its end.
        if self._line.poll(0):
            self._loop.call_soon(self._hear)
        return None

    def _answer(self) -> None:
        answer, failure, self._failure = self._waiting.popleft(), self._failure, None
        if answer.done():
            return
        if failure is None:
            answer.set_result(self._rows)
        else:
            answer.set_exception(error_from_result(failure))

    def _break(self, error: psycopg.OperationalError) -> None:
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            os.close(self._socket)
            self._socket = -1
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)


def _told(sql: str, began: float, answer: "asyncio.Future[int]") -> None:
    if not answer.cancelled():
        failed = answer.exception()
        timed.told(sql, began, 0 if failed else answer.result(), failed)
