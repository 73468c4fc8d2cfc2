"""The only place where events become bytes, and bytes events.

*State* is the event as JSON, its tag under `type`. The *digest* of an event is
`sha256(previous digest || canonical envelope || state)`, 32 zero bytes standing before the first; the canonical
envelope is the JSON array (UTF-8, no white space) of position, stream, version, type, id, recorded_at (RFC 3339, `Z`,
six digits of microseconds or, if they are 0, none), correlation id, causation id, actor, traceparent. Anyone can
compute it again without this program.
"""

from hashlib import sha1, sha256
from operator import itemgetter
from typing import Any, cast, get_args
from uuid import UUID

import msgspec

from domain.claims import QueueEvent
from domain.events import AgentEvent, Event, LedgerEvent, WorkflowEvent
from ledger.errors import BrokenChain, NotRecordable, UnknownEvent
from ledger.foreign import PREFIX, Foreign
from ledger.upcast import UPCASTS, Upcasts, upcast

STATE_BYTES = 16 * 1024 * 1024
"""No single event is larger; it would not fit through the programs that have to read it."""
PATH_LEVELS = 8
"""How far into an event that is too large the largest field is looked for."""

_TYPES: tuple[type[Event], ...] = get_args(WorkflowEvent | QueueEvent | AgentEvent | LedgerEvent)
_TAGS = {event: cast(str, event.__struct_config__.tag) for event in _TYPES}
EVENTS = {tag: event for event, tag in _TAGS.items()}
"""Every kind of event that can be recorded, by its tag."""
_DECODERS = {tag: msgspec.json.Decoder(event) for event, tag in _TAGS.items()}
_FOREIGN = msgspec.json.Decoder(Foreign)
_ENCODE = msgspec.json.Encoder().encode
_KEPT_BITS = ~((0xF000 << 64) | (0xC000 << 48))
_VERSION_5 = (5 << 76) | (0x8000 << 48)


def tag_of(event: Event) -> str:
    """The name this event is stored under. NotRecordable if it is neither one of `domain.events` nor foreign."""
    tag = _TAGS.get(type(event))
    if tag is None:
        if isinstance(event, Foreign):
            return event.type
        raise NotRecordable(f"{type(event).__name__} is not an event: add it to a union in domain/events.py.")
    return tag


def encode(event: Event) -> bytes:
    """The bytes to store. NotRecordable, naming the largest field, if they are more than `STATE_BYTES`."""
    try:
        state = _ENCODE(event)
    except UnicodeEncodeError as error:  # half of a surrogate pair, as in the name of a file that is no UTF-8
        raise NotRecordable(f"{tag_of(event)} holds text that is no Unicode: {error}") from error
    if len(state) > STATE_BYTES:
        path, size = _largest(msgspec.json.decode(state))
        raise NotRecordable(
            f"{tag_of(event)} has {len(state)} bytes, at most {STATE_BYTES} are recorded: {path} has {size} of them."
            " Keep it elsewhere and record where."
        )
    return state


def decode(position: int, tag: str, state: bytes, upcasts: Upcasts = UPCASTS) -> Event:
    """The event in `state`, as it is called today; `position` is for the message.

    UnknownEvent for a tag or a field that this program does not have: it must not decide on a part of what happened.
    BrokenChain for bytes that never were an event.
    """
    decoder = _DECODERS.get(tag)
    try:
        if decoder is not None:
            return decoder.decode(state)
        if tag.startswith(PREFIX):
            return _FOREIGN.decode(state)
        if tag not in upcasts:
            raise UnknownEvent(position, tag)
        today = upcast(msgspec.json.decode(state), upcasts)
        if today["type"] not in EVENTS:
            raise UnknownEvent(position, today["type"])
        return msgspec.convert(today, EVENTS[today["type"]])
    except msgspec.ValidationError as error:
        raise UnknownEvent(position, tag, str(error)) from error
    except ValueError as error:  # nothing of ours has ever written that
        raise BrokenChain(position, f"its state cannot be read: {error}") from error


def chain(previous: bytes, envelope: tuple[object, ...], state: bytes) -> bytes:
    """The digest of an event that comes after `previous`."""
    return sha256(previous + _ENCODE(envelope) + state).digest()


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of a command's `index`-th event: `uuid5(command_id, str(index))`, without the detour that costs."""
    number = int.from_bytes(sha1(command_id.bytes + b"%d" % index).digest()[:16], "big")
    return UUID(int=number & _KEPT_BITS | _VERSION_5)


def _largest(value: Any) -> tuple[str, int]:
    """The JSON path of what most of a value is made of, and its bytes: the largest field, and in it the innermost part
    that is more than half."""
    path, size = "$", len(_ENCODE(value))
    for _ in range(PATH_LEVELS):
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        sizes = ((len(_ENCODE(part)), key, part) for key, part in inner)
        largest, key, part = max(sizes, key=itemgetter(0), default=(0, "", None))
        if not largest or (2 * largest <= size and path != "$"):
            break
        path = f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}"
        value, size = part, largest
    return path, size
