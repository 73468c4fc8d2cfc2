"""What a request says, checked before anything is done: its body, query parameters and headers. Unacceptable if not."""

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, TypeVar
from uuid import UUID, uuid4, uuid5

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from domain.plan import ID_PATTERN, Budget, Edit
from gateway.problems import BadPlace, Unacceptable

BODY_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 60.0
PAGE_ITEMS = 1_000
LONGEST_ACTOR = 100
LONGEST_KEY = 200
LARGEST_NUMBER = 2**63 - 1

KEYS = UUID("5b0c2c0e-9d4e-5c54-8f0b-6a5d2f8f6e11")
"""The namespace of the command ids made of keys that are no UUIDs."""
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")

Body = TypeVar("Body", bound=Struct)
Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Words = Annotated[str, Meta(max_length=4_000, pattern=r"^[^\x00]*\Z")]


class Submission(Struct, forbid_unknown_fields=True):
    """`plan` is read by `domain.validate`; `base` is a full commit id of `repository`, which agents can reach."""

    plan: Raw
    id: Id | None = None
    repository: Annotated[str, Meta(min_length=1, max_length=4_096, pattern=r"^[^\x00-\x1f\x7f]+\Z")] | None = None
    base: Annotated[str, Meta(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})\Z")] | None = None

    def __post_init__(self) -> None:
        if self.base and not self.repository:
            raise ValueError("`base` is a commit of `repository`, which is missing")


class Raise(Struct, forbid_unknown_fields=True):
    """`scope` is `workflow`, `role/<role>` or `task/<id>`; `amount` is added to its limits."""

    amount: Budget
    scope: Annotated[str, Meta(max_length=200)] = "workflow"
    because: Words = ""

    def __post_init__(self) -> None:
        if self.amount == Budget():
            raise ValueError("`amount` names nothing to add: tokens, usd, seconds or attempts")


class Decision(Struct, forbid_unknown_fields=True):
    """`shown` is the sha256 that the ask carries: what was looked at is what is decided on. `choice` is one of the
    ask's options, or any words where it has none; `role` goes with `reassign`, `edit` with `edit`."""

    choice: Words
    shown: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    because: Words = ""
    instructions: Words = ""
    role: Words | None = None
    edit: Edit | None = None


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


def parameters(request: web.Request, *known: str) -> Mapping[str, str]:
    """The query, each parameter once and none but these."""
    for name in request.query:
        if name not in known:
            raise _bad(name, f"unknown parameter, known are: {', '.join(known) or 'none'}")
        if len(request.query.getall(name)) > 1:
            raise _bad(name, "given more than once")
    return request.query


def number(query: Mapping[str, str], name: str, default: int, most: int = LARGEST_NUMBER, least: int = 0) -> int:
    given = query.get(name)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 20 and least <= int(given) <= most):
        raise _bad(name, f"a whole number from {least} to {most}, not {given[:40]!a}")
    return int(given)


def flag(query: Mapping[str, str], name: str) -> bool:
    given = query.get(name, "0")
    if given not in ("", "0", "1", "true", "false"):
        raise _bad(name, f"1 or 0, not {given[:40]!a}")
    return given in ("", "1", "true")


def matching(query: Mapping[str, str], name: str, pattern: str, words: str) -> str | None:
    given = query.get(name)
    if given is not None and not re.fullmatch(pattern, given):
        raise _bad(name, f"{words}, not {given[:40]!a}")
    return given


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
    if key is None:
        return uuid4()
    if not key or len(key) > LONGEST_KEY or not key.isprintable():
        raise _bad("Idempotency-Key", f"1 to {LONGEST_KEY} printable characters, a UUID for example")
    try:
        return UUID(key)
    except ValueError:
        return uuid5(KEYS, key)


def key_reused() -> Unacceptable:
    why = "this Idempotency-Key was used for another command: every command needs its own"
    return Unacceptable(422, "idempotency_key_reused", why)


def _bad(name: str, detail: str) -> Unacceptable:
    return Unacceptable(422, "invalid_parameter", f"{name}: {detail}", [BadPlace(detail, parameter=name)])
