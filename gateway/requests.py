"""What a request says, checked before anything is done: its body, query parameters and headers. Unacceptable if not."""

import asyncio
import re
from functools import cache
from typing import Annotated, TypeVar
from uuid import UUID, uuid4, uuid5

import msgspec
from aiohttp import web
from msgspec import Meta, Struct
from msgspec.inspect import (
    BoolType,
    Field,
    IntType,
    LiteralType,
    Metadata,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    type_info,
)
from structlog.contextvars import bind_contextvars

from domain.plan import ID_PATTERN
from gateway.problems import BadPlace, Unacceptable

BODY_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 60.0
PAGE_ITEMS = 1_000
LONGEST_ACTOR = 100
LONGEST_KEY = 200
LARGEST_NUMBER = 2**63 - 1

KEYS = UUID("5b0c2c0e-9d4e-5c54-8f0b-6a5d2f8f6e11")
"""The namespace of the command ids made of keys that are no UUIDs."""
FLAGS = {"": "true", "1": "true", "true": "true", "0": "false", "false": "false"}
"""How a flag is given: by its name alone, or with one of these."""
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")

Body = TypeVar("Body", bound=Struct)
Query = TypeVar("Query", bound=Struct)
Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Workflow = Annotated[str, Meta(pattern=ID_PATTERN, description="the id of a workflow")]
Words = Annotated[str, Meta(max_length=4_000, pattern=r"^[^\x00]*\Z")]


class Nothing(Struct, forbid_unknown_fields=True):
    """A query without parameters."""


async def raw_body(request: web.Request) -> bytes:
    """The bytes of a JSON body: at most BODY_BYTES, after decompression too."""
    if request.can_read_body and request.content_type != "application/json":
        why = f"send JSON: Content-Type is {request.content_type!a}, not 'application/json'"
        raise Unacceptable(415, "unsupported_media_type", why)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise Unacceptable(408, "request_timeout", f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise Unacceptable(413, "content_too_large", f"a body has at most {BODY_BYTES} bytes") from None
    except web.RequestPayloadError as error:
        raise Unacceptable(400, "invalid_body", f"the body cannot be read: {error}") from None


async def body(request: web.Request, kind: type[Body]) -> Body:
    """The body as what it should be."""
    raw = await raw_body(request)
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.ValidationError as error:
        place = _place(str(error))
        raise Unacceptable(422, "invalid_body", f"the body is not as it should be: {place.detail}", [place]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unacceptable(400, "invalid_json", f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Unacceptable(400, "invalid_json", "the body is nested too deep") from None


def _place(message: str) -> BadPlace:
    """`... - at `$.id`` says where; an unknown field says so in the sentence."""
    detail, _, where = message.partition(" - at `$")
    if unknown := _UNKNOWN_FIELD.fullmatch(detail):
        where = f"{where}.{unknown[1]}"
    return BadPlace(detail, re.sub(r"[.\[]", "/", re.sub(r"[`\]]", "", where)))


def query(request: web.Request, kind: type[Query] = Nothing) -> Query:  # type: ignore[assignment]
    """The query as what it should be: each parameter once and none but the fields of `kind`."""
    known = {field.encode_name: field.type for field in _fields(kind)}
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            raise _bad(name, f"unknown parameter, known are: {', '.join(known) or 'none'}")
        if name in given:
            raise _bad(name, "given more than once")
        plain = _plain(known[name])
        given[name] = FLAGS.get(value, "?") if isinstance(plain, BoolType) else value
        if value.lower() == "null" and not isinstance(plain, StrType):  # would be taken for None
            raise _bad(name, f"{_wanted(known[name])}, not {value!a}")
    if missing := next((field for field in _fields(kind) if field.required and field.encode_name not in given), None):
        raise _bad(missing.encode_name, f"missing: {_wanted(missing.type)}")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        place = _place(str(error))
        name = str(place.pointer).lstrip("/")
        if not name:  # a rule about several; its sentence begins with the name of one
            raise _bad(place.detail.split("`")[1], place.detail) from None
        raise _bad(name, f"{_wanted(known[name])}, not {request.query[name][:40]!a}") from None


@cache
def _fields(kind: type[Struct]) -> tuple[Field, ...]:
    found = type_info(kind)
    assert isinstance(found, StructType)
    return found.fields


def _plain(kind: Type) -> Type:
    """Without its description and without None."""
    if isinstance(kind, Metadata):
        return _plain(kind.type)
    if isinstance(kind, UnionType):
        return _plain(next(one for one in kind.types if not isinstance(_plain(one), NoneType)))
    return kind


def _wanted(kind: Type) -> str:
    match _plain(kind):
        case IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case BoolType():
            return "1 or 0"
        case LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
    match kind:
        case UnionType(types=types):
            return next(_wanted(one) for one in types if not isinstance(one, NoneType))
        case Metadata(extra_json_schema={"description": str(words)}):
            return words
    return "another value"


def position(request: web.Request, header: str, default: int) -> int:
    """The position that a header names."""
    given = request.headers.get(header)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and int(given[:20]) <= LARGEST_NUMBER):
        raise _bad(header, f"a whole number from 0 to {LARGEST_NUMBER}, not {given[:40]!a}")
    return int(given)


def workflow_of(request: web.Request) -> str:
    """The workflow that the path names; what cannot be one's id is not found."""
    name = request.match_info["workflow"]
    if not re.search(ID_PATTERN, name):
        raise Unacceptable(404, "not_found", f"there is no workflow {name[:70]!a}")
    return name


def actor(request: web.Request) -> str:
    """Who asks, as the events will say."""
    given = request.headers.get("X-Cairn-Actor", "http").strip()
    if not given or len(given) > LONGEST_ACTOR or not given.isprintable():
        raise _bad("X-Cairn-Actor", f"1 to {LONGEST_ACTOR} printable characters")
    return given


def command_id(request: web.Request) -> UUID:
    """The id under which a repeat is recognised: the Idempotency-Key, or one that nobody has used."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and (not key or len(key) > LONGEST_KEY or not key.isprintable()):
        raise _bad("Idempotency-Key", f"1 to {LONGEST_KEY} printable characters, a UUID for example")
    id = uuid4() if key is None else _id_of(key)
    bind_contextvars(causation_id=str(id))
    return id


def _id_of(key: str) -> UUID:
    try:
        return UUID(key)
    except ValueError:
        return uuid5(KEYS, key)


def key_reused() -> Unacceptable:
    why = "this Idempotency-Key was used for another command: every command needs its own"
    return Unacceptable(422, "idempotency_key_reused", why)


def _bad(name: str, detail: str) -> Unacceptable:
    return Unacceptable(422, "invalid_parameter", f"{name}: {detail}", [BadPlace(detail, parameter=name)])
