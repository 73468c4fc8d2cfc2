"""An event of an application that is not ours, as it stands in the same ledger.

Its type is `es.` and the name the application has for it, so that no view of ours takes it for one of its own. The
state is JSON like any other: `type`; `version`, the number the application counts it by; and what the application
stored, under `json` byte for byte where it is JSON, else (compressed, encrypted, nested too deep) under `base64`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from domain.events import Event
from ledger.errors import NotRecordable

PREFIX = "es."
NAME_BYTES = 512
NESTED_LEVELS = 100
"""Parsers give up somewhere near a thousand, each elsewhere: what is recorded as JSON has to be readable by all."""


class Foreign(Event, frozen=True, tag=False):
    """Either `json` or `base64` is set."""

    type: str
    version: int
    json: Raw | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET

    @classmethod
    def of(cls, name: str, version: int, payload: bytes) -> "Foreign":
        """NotRecordable for a name that cannot be part of a NATS subject: whatever is recorded is also announced."""
        if not _announceable(name):
            raise NotRecordable(
                f"event name {name!r}: printable, without spaces, '*' and empty parts between dots, at most"
                f" {NAME_BYTES} bytes"
            )
        if _json(payload):
            return cls(PREFIX + name, version, json=Raw(payload))
        return cls(PREFIX + name, version, base64=payload)

    @property
    def name(self) -> str:
        return self.type.removeprefix(PREFIX)

    @property
    def payload(self) -> bytes:
        """What the application stored, byte for byte."""
        return bytes(self.json) if isinstance(self.json, Raw) else self.base64 or b""


def _announceable(name: str) -> bool:
    parts = name.split(".")
    short = name.isprintable() and len(name.encode()) <= NAME_BYTES
    return short and not {" ", "*"} & {*name} and not {"", ">"} & {*parts}


def _json(payload: bytes) -> bool:
    """Whether every program that reads the ledger, Postgres too, would take these very bytes for JSON."""
    try:
        payload.decode()
        value = msgspec.json.decode(payload)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return payload == payload.strip() and _shallow(payload, value)


def _shallow(payload: bytes, value: Any) -> bool:
    if payload.count(b"[") + payload.count(b"{") <= NESTED_LEVELS:  # as with most: they need not be walked
        return True
    level = [value]
    for _ in range(NESTED_LEVELS):
        level = [part for one in level for part in _inside(one) if isinstance(part, dict | list)]
    return not level


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
