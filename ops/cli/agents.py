"""`cairn agents`, `cairn agents drain`, `cairn agents admit`."""

import shlex
from datetime import UTC, datetime
from typing import Any, Literal

from ops.cli.acts import Because
from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit, json_line
from ops.cli.stop import USAGE, Stop
from ops.cli.text import between, clean

SHOWN = ("name", "role", "capabilities", "state", "holding", "heard")


def command(
    act: Literal["list", "drain", "admit"] = "list",
    name: str | None = None,
    /,
    *,
    role: str | None = None,
    capability: list[str] | None = None,
    because: Because = "",
    output: Output = "table",
    place: Place = HERE,
) -> None:
    """List the agents that have not left; `drain NAME`: it takes no more and finishes what it holds; `admit NAME --role
    ROLE`: print the NATS_URL under which an agent of that name may work from elsewhere.

    Parameters
    ----------
    act
        list, drain or admit.
    name
        The agent's.
    role
        With admit: what it does.
    capability
        With admit: what it has besides, up to four.
    because
        With drain: the reason; it is recorded.
    """
    if (act == "list") != (name is None):
        raise Stop(
            USAGE, f"{act} {'takes no name' if name else 'needs the name of an agent'}", fix="cairn agents --help"
        )
    if (act == "admit") != (role is not None):
        why = "admit needs the --role that the agent has" if act == "admit" else f"--role is not for {act}"
        raise Stop(USAGE, why, fix="cairn agents admit NAME --role ROLE")
    client = place.client()
    if name is None:
        emit(client.agents(), output, SHOWN, cells)
    elif role is None:
        client.drain(name, because)
        print(json_line({"agent": name}) if output != "table" else clean(f"{name} takes no more work"))
    else:
        told = client.admit(name, role, capability or ())
        print(json_line(told) if output != "table" else f"NATS_URL={shlex.quote(told['nats_url'])}")


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    heard, now = row["heard_at"], datetime.now(UTC)
    state = f"{row['status']}, drained" if row["drained"] else row["status"]
    return [
        row["name"], row["role"], ", ".join(row["capabilities"]), state, f"{row['holding']}/{row['capacity']}",
        f"{between(datetime.fromtimestamp(heard, UTC), now)} ago" if heard else "",
    ]  # fmt: skip
