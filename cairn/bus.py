"""NATS behind one small door: the only module that imports the client, and every guard against its traps.

Every call ends in one of three ways: an answer (a refusal of the server is an answer, under the key `error`),
ConnectionError (nothing was sent, or nobody listens), or TimeoutError: nobody knows whether it happened, go and look.

Guards: nothing is buffered while disconnected, so that a publish that failed is never sent later; a connection loss
ends all waiting requests at once; a client whose read loop died while it still says "connected" is replaced; pulls are
renewed after every reconnect and never trusted for longer than they were asked for; closing never waits on a drain.

It is long because there is one such module on purpose: whoever looks for a guard looks here.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, cast
from uuid import uuid4

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

log = logging.getLogger(__name__)

Headers = dict[str, str]
Callback = Callable[["Message"], Awaitable[None]]

PING_SECONDS = 5
CONNECT_SECONDS = 10.0
RECONNECT_SECONDS: Any = 0.1  # the client's annotation says int
WATCH_SECONDS = 1.0
SHUT_SECONDS = 1.0
PENDING_BYTES = 8 * 1024 * 1024
"""What may wait to be written; beyond it a sender waits for the socket."""
SUBJECT_BYTES = 1024
"""A server ends the connection over a control line of more than 4096 bytes, so none is sent."""
FEW = 12
"""Messages up to which storing them one by one takes no longer than an atomic batch (measured: 0.3 ms each, 5 ms)."""
GONE = {10059, 10014}
"""JetStream's error codes for "stream not found" and "consumer not found"."""
NOT_NOW = {10008, 10049}
"""And for "temporarily unavailable" and for a store that cannot be made, as the deleted one of that name still goes."""


class Message:
    """One message as it arrived. `sequence` and `delivered` speak of the stream it was pulled from, else 0."""

    __slots__ = ("data", "headers", "reply", "subject")

    def __init__(self, subject: str, data: bytes, headers: Headers | None, reply: str) -> None:
        self.subject, self.data, self.headers, self.reply = subject, data, headers, reply

    @property
    def sequence(self) -> int:
        return self._token(5, 7)

    @property
    def delivered(self) -> int:
        return self._token(4, 6)

    @property
    def status(self) -> str | None:
        return self.headers.get("Status") if self.headers and not self.data else None

    def _token(self, short: int, long: int) -> int:
        if not self.reply.startswith("$JS.ACK."):
            return 0
        tokens = self.reply.split(".")
        return int(tokens[short if len(tokens) == 9 else long])  # in the long form domain and account stand before


class _Client(Client):
    """nats-py with shorter ways to send a message and to read its headers, which took half of a message's time."""

    async def send(self, subject: str, reply: str, data: bytes, headers: Headers | None) -> None:
        if not self.is_connected:
            raise ConnectionError("NATS is away")
        if [subject] != subject.split() or len(subject.encode()) > SUBJECT_BYTES:
            raise ValueError(f"{subject[:100]!r} is no subject")
        block = b""
        if headers:
            lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
                raise ValueError(f"a header of a message to {subject} has more than one line")
            block = f"NATS/1.0\r\n{lines}\r\n".encode()
        if len(block) + len(data) > self._max_payload:
            raise ValueError(
                f"{len(block) + len(data)} bytes for {subject}: this NATS takes {self._max_payload} in a message"
            )
        if headers:
            size = f"{len(block)} {len(block) + len(data)}\r\n"
            command = b"".join((f"HPUB {subject} {reply} {size}".encode(), block, data, b"\r\n"))
        else:
            command = b"".join((f"PUB {subject} {reply} {len(data)}\r\n".encode(), data, b"\r\n"))
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._pending_data_size > PENDING_BYTES:
            # Not by the client's `force_flush`: it takes no cancellation for one, so no time limit would hold.
            written = asyncio.get_running_loop().create_future()
            await cast("asyncio.Queue[asyncio.Future[Any]]", self._flush_queue).put(written)
            await written
        elif self._flush_queue is None or self._flush_queue.empty():
            await self._flush_pending()

    def forget(self) -> None:
        """Drops what waits to be written; its senders are told that nobody knows how much of it was."""
        self._pending.clear()
        self._pending_data_size = 0
        while self._flush_queue is not None and not self._flush_queue.empty():
            written = self._flush_queue.get_nowait()
            if not written.done():
                written.set_exception(TimeoutError("the connection to NATS broke while this was being sent"))
                written.exception()

    async def _connect_to_server(self, s: Any) -> None:
        if self._transport is not None:  # a server that took the connection and dropped it leaves ours open otherwise
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Headers | None) -> Any:
        if not (subject.isascii() and reply.isascii()):  # anyone may send what is no UTF-8; it would end the read loop
            subject, reply = (text.decode(errors="replace").encode() for text in (subject, reply))
        return super()._build_message(sid, subject, reply, data, headers)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> Headers:
        lines = (line.partition(":") for line in raw.decode(errors="replace").split("\r\n"))
        return {name.strip(): value.strip() for name, colon, value in lines if colon}


class Bus:
    """A connection to NATS that outlives the server it speaks to. Open it with `async with Bus.connect(url)`."""

    def __init__(self, url: str, name: str, inbox: str) -> None:
        self._url, self._name = url, name
        self._nc = _Client()
        self._inbox = f"{inbox}.{uuid4().hex}"
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._subscriptions: dict[int, tuple[str, Callback]] = {}
        self._live: dict[int, Any] = {}
        self._bells: set[asyncio.Event] = set()
        self._opening = False
        self._tokens = count(1)
        self.generation = 0
        """Grows with every connection; what was asked of an older one may never be answered."""

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, *, name: str = "cairn", inbox: str = "_INBOX") -> AsyncIterator["Bus"]:
        """Connects within ten seconds or raises ConnectionError. Answers come to subjects under `inbox`."""
        bus = cls(url, name, inbox)
        await bus._open()
        watchdog = asyncio.create_task(bus._watch())
        try:
            yield bus
        finally:
            watchdog.cancel()
            await bus._shut()

    @property
    def connected(self) -> bool:
        return bool(self._nc.is_connected)

    @property
    def max_payload(self) -> int:
        """The server's limit for one message, in bytes."""
        return int(self._nc.max_payload)

    async def publish(self, subject: str, data: bytes, headers: Headers | None = None, *, reply: str = "") -> None:
        """ValueError for what can never be sent; ConnectionError, with nothing sent, while NATS is away."""
        await self._nc.send(subject, reply, data, headers)

    async def request(
        self, subject: str, data: bytes = b"", headers: Headers | None = None, *, timeout: float = 5.0
    ) -> Message:
        token = f"{self._inbox}.{next(self._tokens)}"
        future = self._waiting[token] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self.publish(subject, data, headers, reply=token)
                answer: Message = await future
        finally:
            self._waiting.pop(token, None)
        if answer.status == "503":
            raise ConnectionError(f"nobody answers on {subject}")
        return answer

    async def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call of JetStream's own API, for example `STREAM.INFO.MAIN_INBOX`."""
        answer = await self.request(f"$JS.API.{verb}", json.dumps(body).encode() if body is not None else b"")
        return _reply(answer)

    async def store(self, subject: str, data: bytes, headers: Headers | None = None) -> dict[str, Any]:
        """Publishes into the stream that takes `subject`; answers with its acknowledgement `{"stream", "seq", ...}`."""
        return _reply(await self.request(subject, data, headers))

    async def store_batch(
        self, messages: Sequence[tuple[str, bytes, Headers | None]], *, expected_last: int | None = None
    ) -> dict[str, Any]:
        """Stores at most 1,000 messages in their order, the first one right after sequence `expected_last`.

        Answers with the last acknowledgement, or with the first refusal: then all, or all from some point on, are not
        stored. Many go as one atomic batch, which costs the server some milliseconds to open; few go one by one
        without waiting for each other, each behind the sequence and, if it has one, the Nats-Msg-Id of the one before:
        behind the sequence alone, the second would follow on whatever stands where the first was refused.
        """
        if len(messages) > FEW:
            return await self._store_atomic(messages, expected_last)
        answers = await asyncio.gather(
            *(
                self.store(subject, data, {**(headers or {}), **_behind(expected_last, number, messages)})
                for number, (subject, data, headers) in enumerate(messages)
            ),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            if "error" in answer:
                return answer
        return cast("dict[str, Any]", answers[-1])

    async def _store_atomic(
        self, messages: Sequence[tuple[str, bytes, Headers | None]], expected_last: int | None
    ) -> dict[str, Any]:
        *most, (subject, data, headers) = messages
        batch, guard = uuid4().hex, _behind(expected_last, 0, messages)
        for number, (to, body, extra) in enumerate(most, 1):
            part = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            await self.publish(to, body, {**(extra or {}), **guard, **part})
            guard = {}
        last = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(len(messages)), "Nats-Batch-Commit": "1"}
        return _reply(await self.request(subject, data, {**(headers or {}), **last}))

    async def ensure_stream(self, config: dict[str, Any]) -> dict[str, Any]:
        """Creates the stream or finds it equal; a different one of the same name raises ValueError.

        ConnectionError when JetStream is not able to just now.
        """
        return _settled(await self.api(f"STREAM.CREATE.{config['name']}", config), config["name"])

    async def ensure_consumer(self, stream: str, config: dict[str, Any]) -> dict[str, Any]:
        """Creates or updates a consumer; LookupError when the stream is gone, ValueError when it cannot be so."""
        name = config.get("durable_name") or config["name"]
        body = {"stream_name": stream, "config": {**config, "name": name}}
        return _settled(await self.api(f"CONSUMER.CREATE.{stream}.{name}", body), f"{stream}/{name}")

    async def pull(
        self, stream: str, consumer: str, *, batch: int | Callable[[], int] = 256, wait_seconds: float = 2.0
    ) -> AsyncGenerator[list[Message], None]:
        """Lists of messages as they come, for ever; an empty one when `wait_seconds` passed without any.

        At most `batch` messages (asked anew each time if it is a function) are under way, so a slow reader bounds
        itself. Raises LookupError when the stream or
        the consumer is gone; everything else, a server that restarts too, is waited out.
        """
        arrived: list[Message] = []
        bell = asyncio.Event()

        async def hear(message: Message) -> None:
            arrived.append(message)
            bell.set()

        inbox = f"{self._inbox}.pull.{next(self._tokens)}"  # not one of the answers' subjects
        unsubscribe = await self.subscribe(inbox, hear)
        self._bells.add(bell)
        wanted, generation = 0, self.generation
        expires = int(wait_seconds * 1e9)
        try:
            while True:
                if generation != self.generation:
                    wanted, generation = 0, self.generation
                if wanted <= 0 and not arrived:
                    wanted = batch if isinstance(batch, int) else batch()
                    body = b'{"batch":%d,"expires":%d}' % (wanted, expires)
                    if not await self._ask(f"{stream}.{consumer}", body, inbox):
                        wanted = 0
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_seconds + 1):
                        await bell.wait()
                bell.clear()
                taken, messages = arrived[:], []
                arrived.clear()
                wanted = wanted if taken else 0
                for message in taken:
                    if (status := message.status) is None:
                        messages.append(message)
                        wanted -= 1
                        continue
                    wanted = 0
                    if status not in ("404", "408"):
                        await self._still_there(stream, consumer)
                        await asyncio.sleep(0.1)
                yield messages
        finally:
            self._bells.discard(bell)
            await unsubscribe()

    async def _ask(self, consumer: str, body: bytes, inbox: str) -> bool:
        try:
            await self.publish(f"$JS.API.CONSUMER.MSG.NEXT.{consumer}", body, reply=inbox)
        except ConnectionError:
            await asyncio.sleep(0.1)
            return False
        return True

    async def _still_there(self, stream: str, consumer: str) -> None:
        with suppress(ConnectionError, TimeoutError):
            error = (await self.api(f"CONSUMER.INFO.{stream}.{consumer}")).get("error", {})
            if error.get("err_code") in GONE:
                raise LookupError(f"consumer {consumer} of stream {stream} is gone: {error['description']}")

    async def ack(self, message: Message) -> None:
        await self._answer(message, b"+ACK")

    async def nak(self, message: Message, delay_seconds: float) -> None:
        """Asks for it again, no sooner than after the delay."""
        await self._answer(message, b'-NAK {"delay": %d}' % int(delay_seconds * 1e9))

    async def term(self, message: Message) -> None:
        """Never deliver it again."""
        await self._answer(message, b"+TERM")

    async def _answer(self, message: Message, verdict: bytes) -> None:
        with suppress(ConnectionError):  # an acknowledgement that is lost is a redelivery, which every reader bears
            await self.publish(message.reply, verdict)

    async def subscribe(self, subject: str, callback: Callback) -> Callable[[], Awaitable[None]]:
        """Calls back for every message, over reconnects too; call the answer to end it."""
        key = next(self._tokens)
        self._subscriptions[key] = (subject, callback)
        if not self._opening and not self._nc.is_closed:  # else it is attached with all others, once there is a client
            await self._attach(key)

        async def unsubscribe() -> None:
            self._subscriptions.pop(key, None)
            live = self._live.pop(key, None)
            with suppress(nats.errors.Error):
                if live is not None:
                    await live.unsubscribe()

        return unsubscribe

    async def _attach(self, key: int) -> None:
        subject, callback = self._subscriptions[key]

        async def deliver(msg: Msg) -> None:
            try:
                await callback(Message(msg.subject, msg.data, msg.headers, msg.reply))
            except Exception:
                log.exception("a message on %s could not be handled", subject)  # the client keeps it to itself
                raise

        self._live[key] = await self._nc.subscribe(subject, cb=deliver)

    async def _settle(self, message: Message) -> None:
        future = self._waiting.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    async def _open(self) -> None:
        nc = _Client()

        async def lost() -> None:
            nc.forget()  # what was not sent by now never is: whoever waits for it is told, and looks
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(TimeoutError("the connection to NATS broke before the answer came"))
                    future.exception()

        async def back() -> None:
            self.generation += 1
            for bell in self._bells:
                bell.set()

        async def noticed(_: Exception) -> None:
            """The client's own errors end in a refusal, a timeout or a reconnect, each seen where it matters."""

        self._nc, self._opening = nc, True
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._nc.connect(
                    self._url, name=self._name, inbox_prefix=self._inbox, pending_size=0, connect_timeout=2,
                    max_reconnect_attempts=-1, reconnect_time_wait=RECONNECT_SECONDS,
                    ping_interval=PING_SECONDS, max_outstanding_pings=2,
                    disconnected_cb=lost, reconnected_cb=back, error_cb=noticed,
                )  # fmt: skip
                self._subscriptions.setdefault(0, (f"{self._inbox}.*", self._settle))
                keys, self._opening = list(self._subscriptions), False
                for key in keys:
                    if key in self._subscriptions:
                        await self._attach(key)
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await self._shut()
            raise ConnectionError(f"no NATS at {_without_secret(self._url)}: {error!r}") from error
        finally:
            self._opening = False
        await back()

    async def _shut(self) -> None:
        this = asyncio.current_task()
        assert this is not None
        try:
            async with asyncio.timeout(SHUT_SECONDS):
                await self._nc.close()
        except (TimeoutError, nats.errors.Error, OSError):
            pass
        except asyncio.CancelledError:
            # All who wait for the end of a stream share one future: who else was cancelled has cancelled it for us too.
            if this.cancelling():
                raise
        self._abort()

    def _abort(self) -> None:
        """Ends a connection that is closing and waits for its peer to read what was written: a dead peer never does,
        and one that wakes up must not read it later."""
        writer = getattr(self._nc._transport, "_io_writer", None)
        # Only while something waits: on Python 3.11 a transport that has closed after its last byte breaks in `abort`.
        if writer is not None and writer.transport.is_closing() and writer.transport.get_write_buffer_size():
            writer.transport.abort()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._nc.is_connected:
                self._abort()
            reading = self._nc._reading_task
            if self._nc.is_closed or (self._nc.is_connected and reading is not None and reading.done()):
                await self._shut()
                with suppress(ConnectionError):
                    await self._open()


def _behind(expected_last: int | None, number: int, messages: Sequence[tuple[str, bytes, Headers | None]]) -> Headers:
    if expected_last is None:
        return {}
    guard = {"Nats-Expected-Last-Sequence": str(expected_last + number)}
    before = (messages[number - 1][2] or {}).get("Nats-Msg-Id") if number else None
    return guard if before is None else {**guard, "Nats-Expected-Last-Msg-Id": before}


def _reply(answer: Message) -> dict[str, Any]:
    try:
        body = json.loads(answer.data)
        if isinstance(body, dict) and isinstance(body.get("error", {}), dict):
            return body
    except (ValueError, RecursionError):
        pass  # whoever listens on a subject may answer what is sent there, and be faster than JetStream
    raise TimeoutError(f"JetStream's answer did not come first, but {answer.data[:100]!r}")


def _settled(answer: dict[str, Any], name: str) -> dict[str, Any]:
    if error := answer.get("error"):
        code = error.get("err_code")
        kind = LookupError if code in GONE else ConnectionError if code in NOT_NOW else ValueError
        raise kind(f"NATS refuses {name}: {error['description']} (err_code {code})")
    return answer


def _without_secret(url: str) -> str:
    return url.rpartition("@")[2]
