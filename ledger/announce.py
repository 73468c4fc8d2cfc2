"""Events on NATS: CloudEvents 1.0 in structured JSON, under a subject that says what happened to what.

The attributes are the envelope; `data` is the state, byte for byte. A state of more than `CARRIED_BYTES` is announced by
reference: `dataref` then says where it is, `digest` proves it, and whoever wants it asks Postgres for that position. An
offer to agents, who cannot ask there, carries as much as a message takes.
"""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ledger.codec import STATE_BYTES
from ledger.recorded import Recorded

CONTENT_TYPE = "application/cloudevents+json"
ENVELOPE_BYTES = 16_384
"""More than envelope, subject and headers of one message ever take."""

CARRIED_BYTES = 65_536

Announcement = tuple[str, bytes, dict[str, str] | None]
"""Subject, body and headers of a message."""


class CloudEvent(Struct, omit_defaults=True):
    """The envelope. `sequence` is the position, `partitionkey` the stream; without `data` it stands at `dataref`."""

    specversion: str
    id: UUID
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: str
    sequence: str
    partitionkey: str
    streamversion: int
    actor: str
    digest: str
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    dataref: str | None = None
    data: Raw | UnsetType = UNSET


class _Routing(Struct):
    """What of a state decides where it is sent."""

    task: str | None = None
    role: str | None = None
    capabilities: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CloudEvent).decode
_routing = msgspec.json.Decoder(_Routing).decode


def announce(recorded: Recorded, tenant: str, epoch: int, max_payload: int | None) -> Announcement:
    """The message for an event. Its id is `<epoch>-<position>`; it has at most `max_payload` bytes, or, if that is None,
    the whole event in any case."""
    kind, _, key = recorded.stream.partition("-")
    routing = _routing(recorded.state)
    about = f"{kind}/{key}" if routing.task is None else f"{kind}/{key}/task/{routing.task}"
    role = _role(recorded, routing)
    carried = CARRIED_BYTES if role is None else STATE_BYTES
    fits = max_payload is None or len(recorded.state) <= min(carried, max_payload - ENVELOPE_BYTES)
    body = _encode(
        CloudEvent(
            specversion="1.0",
            id=recorded.id,
            source=f"/cairn/{tenant}",
            type=f"cairn.{recorded.type}.v1",
            subject=about,
            time=recorded.recorded_at,
            datacontenttype="application/json",
            sequence=f"{recorded.position:020d}",
            partitionkey=recorded.stream,
            streamversion=recorded.version,
            actor=recorded.actor,
            digest=recorded.digest.hex(),
            correlationid=recorded.correlation_id,
            causationid=recorded.causation_id,
            traceparent=recorded.traceparent,
            dataref=None if fits else f"/cairn/{tenant}/events/{recorded.position}",
            data=Raw(recorded.state) if fits else UNSET,
        )
    )
    headers = {"Content-Type": CONTENT_TYPE, "Nats-Msg-Id": f"{epoch}-{recorded.position}"}
    if recorded.traceparent is not None:
        headers["traceparent"] = recorded.traceparent
    return subject_of(tenant, recorded.stream, recorded.type, role), body, headers


def subject_for(recorded: Recorded, tenant: str) -> str:
    """The subject under which an event is announced."""
    return subject_of(tenant, recorded.stream, recorded.type, _role(recorded, _routing(recorded.state)))


def _role(recorded: Recorded, routing: _Routing) -> str | None:
    """The role to whose agents an event is an offer, and after a dot the capabilities that it takes."""
    if recorded.type != "task.dispatched" or not routing.capabilities:
        return routing.role if recorded.type == "task.dispatched" else None
    return f"{routing.role}.{'+'.join(routing.capabilities)}"


def subject_of(tenant: str, stream: str, tag: str, role: str | None = None) -> str:
    """`cairn.<tenant>.evt.<kind>.<id>.<tag>`, and the role behind it for what is offered to the agents of a role."""
    kind, _, key = stream.partition("-")
    subject = f"cairn.{tenant}.evt.{kind}.{key}.{tag}"
    return subject if role is None else f"{subject}.{role}"


def subjects_of(tenant: str) -> str:
    """The pattern of all of a tenant's events."""
    return f"cairn.{tenant}.evt.>"


def understand(body: bytes) -> Recorded:
    """The event that a message announces, equal to the one recorded; its digest tells whether it is to be believed.

    `state` is empty where the event was announced by reference. msgspec.DecodeError if this is no announcement.
    """
    try:
        cloud = _decode(body)
        position, digest = int(cloud.sequence), bytes.fromhex(cloud.digest)
    except (ValueError, RecursionError) as error:  # anyone may publish anything under our subjects
        raise msgspec.DecodeError(str(error)) from error
    return Recorded(
        position,
        cloud.partitionkey,
        cloud.streamversion,
        cloud.type.removeprefix("cairn.").removesuffix(".v1"),
        cloud.id,
        cloud.time,
        cloud.correlationid,
        cloud.causationid,
        cloud.actor,
        cloud.traceparent,
        b"" if cloud.data is UNSET else bytes(cloud.data),
        digest,
    )
