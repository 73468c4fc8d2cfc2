"""What the ledger asks of the bus: the interface belongs to its caller, the implementation is injected by `ops`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol


class Message(Protocol):
    """One message as it arrived; `sequence` is its place in the stream it was pulled from, 0 for core messages."""

    subject: str
    data: bytes
    headers: dict[str, str] | None
    reply: str
    sequence: int
    delivered: int


class Bus(Protocol):
    """NATS with its traps guarded. An answer that does not come raises TimeoutError (nobody knows what happened)
    or ConnectionError (the bus is away); a refusal comes back under the key `error` with its `err_code`."""

    max_payload: int

    async def publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None: ...

    async def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]: ...

    async def store(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]: ...

    async def store_batch(
        self, messages: Sequence[tuple[str, bytes, dict[str, str] | None]], *, expected_last: int | None = None
    ) -> dict[str, Any]: ...

    async def ensure_stream(self, config: dict[str, Any]) -> dict[str, Any]: ...

    async def ensure_consumer(self, stream: str, config: dict[str, Any]) -> dict[str, Any]: ...

    def pull(
        self, stream: str, consumer: str, *, batch: int = 256, wait_seconds: float = 2.0
    ) -> AsyncIterator[list[Message]]: ...

    async def ack(self, message: Message) -> None: ...

    async def nak(self, message: Message, delay_seconds: float) -> None: ...

    async def subscribe(
        self, subject: str, callback: Callable[[Message], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]: ...
