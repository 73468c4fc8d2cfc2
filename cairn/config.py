"""Where the system is: from the environment, or from the file that a running `cairn up` leaves in its data directory.

The public package reads these few variables itself, as it depends on nothing of the server's.
"""

import json
import os
from pathlib import Path

import msgspec
import platformdirs

COLLECTOR_SECONDS = 3.0
"""A program that ends waits twice as long at most for a collector that does not answer."""


class Connection(msgspec.Struct, frozen=True):
    """`url` is the gateway's, `token` what it asks for, `state_dir` where agents keep outboxes and worktrees.

    `nats_url` is where agents are told to go; empty, they ask the gateway for a user of their own.
    """

    nats_url: str
    url: str
    token: str
    tenant: str
    state_dir: Path


def default_data_dir() -> Path:
    """The user's data directory; for root a place outside its home, which is closed to the user of the Postgres."""
    return Path("/var/lib/cairn") if os.geteuid() == 0 else platformdirs.user_data_path("cairn", appauthor=False)


def search_path() -> str:
    """Where programs are looked for."""
    return os.environ.get("PATH", os.defpath)


class Traces(msgspec.Struct, frozen=True):
    """Under which name a program sends traces, and how long the sending may take; None: as the SDK is told."""

    service: str
    timeout_seconds: float | None


def traces_wanted(service: str) -> Traces | None:
    """How this program sends traces, as `service` if OTEL_SERVICE_NAME is not set; None: it sends none.

    Whoever says where to (OTEL_EXPORTER_OTLP_ENDPOINT or its like for traces) or how (OTEL_TRACES_EXPORTER) wants them.
    ValueError for a way that we do not have.
    """
    env = os.environ
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    somewhere = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or exporter == "none" or not (exporter or somewhere):
        return None
    protocol = (
        env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    )
    if exporter not in ("", "otlp") or protocol != "http/protobuf":
        raise ValueError(
            f"OTEL_TRACES_EXPORTER {exporter or 'otlp'} by {protocol}: only otlp by http/protobuf, or none"
        )
    timed = env.get("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") or env.get("OTEL_EXPORTER_OTLP_TIMEOUT")
    return Traces(env.get("OTEL_SERVICE_NAME") or service, None if timed else COLLECTOR_SECONDS)


def connection(folder: Path | None = None) -> Connection:
    """Raises ConnectionError with the command that mends it when nothing is up.

    CAIRN_URL, CAIRN_TOKEN and CAIRN_TENANT take precedence over what the running system wrote down.
    """
    env = os.environ
    folder = folder or Path(env.get("CAIRN_DATA_DIR") or default_data_dir())
    try:
        found = json.loads((folder / "up.json").read_bytes())
    except FileNotFoundError:
        found = {}
    values = {
        "nats_url": env.get("NATS_URL") or "",
        "url": env.get("CAIRN_URL") or found.get("url", ""),
        "token": env.get("CAIRN_TOKEN") or found.get("token", ""),
        "tenant": env.get("CAIRN_TENANT") or found.get("tenant", "main"),
    }
    if not values["url"] and not values["nats_url"]:
        raise ConnectionError(
            f"nothing is up in {folder}: start it with `cairn up`, or set CAIRN_URL (agents: NATS_URL)"
        )
    return Connection(**values, state_dir=folder / "agents")
