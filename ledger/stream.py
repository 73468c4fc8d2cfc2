"""The JetStream stream that carries a tenant's events: one per epoch, position = sequence, nothing removed by hand.

`first_seq` is given when a stream is created and never again: an update with it empties a stream at the next restart.
No rollups, no per-message TTL, no schedules: each of them lets a publisher take sequences or messages away.
"""

import base64
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from ledger.announce import subjects_of, understand
from ledger.errors import ForeignStream
from ledger.ports import Bus
from ledger.recorded import Recorded

WINDOW_SECONDS = 7 * 24 * 3600
WINDOW_BYTES = 2 * 1024**3
LEAST_WINDOW_BYTES = 64 * 1024**2
NO_STREAM, NO_MESSAGE, NO_ROOM = 10059, 10037, 10047
SCHEMA = "cloudevents-1.0"


class State(Struct, frozen=True):
    """What a stream holds: its first and last sequence, how many messages, whether it takes atomic batches.

    Of an empty one `first` is `last + 1`."""

    first: int
    last: int
    messages: int
    atomic: bool


class Refusal(Exception):
    """JetStream said no; `code` is its err_code."""

    def __init__(self, verb: str, error: dict[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        super().__init__(f"JetStream refuses {verb}: {error.get('description')} (err_code {self.code})")


def stream_name(tenant: str, epoch: int) -> str:
    return f"{tenant.upper()}_EVENTS_{epoch}"


def stream_config(tenant: str, epoch: int, origin: UUID, replicas: int) -> dict[str, Any]:
    """What a stream is created with, and has to have for ever."""
    return {
        "name": stream_name(tenant, epoch),
        "description": f"Events of the tenant {tenant}: sequence = position in Postgres, which is the truth.",
        "subjects": [subjects_of(tenant)],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "old",
        "max_age": WINDOW_SECONDS * 1_000_000_000,
        "max_bytes": WINDOW_BYTES,
        "deny_delete": True,
        "deny_purge": True,
        "allow_rollup_hdrs": False,
        "allow_direct": True,
        "allow_atomic": True,
        "metadata": {"owner": "cairn", "tenant": tenant, "epoch": str(epoch), "origin": str(origin), "schema": SCHEMA},
    }


async def streams_of(bus: Bus, tenant: str) -> dict[str, int]:
    """The streams that take this tenant's subjects, with their epochs. ForeignStream if one is not ours."""
    answer = _accepted("STREAM.NAMES", await bus.api("STREAM.NAMES", {"subject": subjects_of(tenant)}))
    prefix = stream_name(tenant, 0)[:-1]
    epochs = {}
    for name in answer.get("streams") or ():
        number = name.removeprefix(prefix)
        if not name.startswith(prefix) or not number.isdigit():
            raise ForeignStream(f"JetStream stream {name} takes {subjects_of(tenant)}: give it other subjects.")
        epochs[name] = int(number)
    return epochs


async def look(bus: Bus, config: dict[str, Any]) -> State | None:
    """What the stream holds; None if there is none. ForeignStream if it is another ledger's, or was altered."""
    name = config["name"]
    verb = f"STREAM.INFO.{name}"
    answer = await bus.api(verb)
    if answer.get("error", {}).get("err_code") == NO_STREAM:
        return None
    held, state = _accepted(verb, answer)["config"], answer["state"]
    theirs = held.get("metadata", {}).get("origin")
    if theirs != config["metadata"]["origin"]:
        raise ForeignStream(
            f"JetStream stream {name} carries another ledger (origin {theirs}, ours is {config['metadata']['origin']})."
            f" Use another tenant or another NATS; or, if that ledger is given up: nats stream rm {name}"
        )
    for key in ("subjects", "deny_delete", "deny_purge"):
        if held.get(key) != config[key]:
            raise ForeignStream(f"JetStream stream {name} was altered: {key} is {held.get(key)}, not {config[key]}.")
    first = state["first_seq"] if state["messages"] else state["last_seq"] + 1
    return State(first, state["last_seq"], state["messages"], bool(held.get("allow_atomic")))


async def create(bus: Bus, config: dict[str, Any], first: int) -> None:
    """Creates the stream so that its first message has sequence `first`. Refusal if subjects overlap with another.

    JetStream sets `max_bytes` aside: on a small disk the window is halved until it fits.
    """
    verb = f"STREAM.CREATE.{config['name']}"
    body = {**config, "first_seq": first} if first > 1 else dict(config)
    answer = await bus.api(verb, body)
    while answer.get("error", {}).get("err_code") == NO_ROOM and body["max_bytes"] > LEAST_WINDOW_BYTES:
        body["max_bytes"] //= 2
        answer = await bus.api(verb, body)
    _accepted(verb, answer)


async def delete(bus: Bus, name: str) -> None:
    """Gives a stream up; one that is gone already is fine."""
    verb = f"STREAM.DELETE.{name}"
    answer = await bus.api(verb)
    if answer.get("error", {}).get("err_code") != NO_STREAM:
        _accepted(verb, answer)


async def message(bus: Bus, name: str, sequence: int) -> Recorded | bytes | None:
    """The event at a sequence; the bytes if they are none; None if there is no message (or no stream) any more."""
    verb = f"STREAM.MSG.GET.{name}"
    answer = await bus.api(verb, {"seq": sequence})
    if answer.get("error", {}).get("err_code") in (NO_MESSAGE, NO_STREAM):
        return None
    body = base64.b64decode(_accepted(verb, answer)["message"].get("data", ""))
    try:
        return understand(body)
    except msgspec.DecodeError:
        return body


def _accepted(verb: str, answer: dict[str, Any]) -> dict[str, Any]:
    if error := answer.get("error"):
        raise Refusal(verb, error)
    return answer
