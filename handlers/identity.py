"""Who speaks on the bus. An agent's role and name stand in the subjects that its own user of NATS may publish to, so
whoever reads a message knows who sent it, whatever the message says; and each user may do no more than its role needs.

    cairn.<tenant>.in.<role>.<agent>      reports        cairn.<tenant>.join.<role>.<agent>    "give me work"
    cairn.<tenant>.beat.<role>.<agent>    heartbeats     cairn.<tenant>.leave.<role>.<agent>   "goodbye"
    cairn.<tenant>.verdict.<agent>        answers to reports
    cairn.<tenant>.tell.<agent>           what it has to know at once

What agents of one role can do to each other is to take, refuse or delay what is offered to that role: they share its
consumer. They can neither speak for each other nor see what another was given.
"""

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, NamedTuple

from msgspec import Meta

from domain.plan import CAPABILITY_PATTERN, MOST_CAPABILITIES

NAME = r"[a-z0-9][a-z0-9_-]{0,127}"
ROLE = r"[a-z0-9][a-z0-9_-]{0,62}"
_SPOKEN = re.compile(rf"cairn\.[^.]+\.(?:in|join|beat|leave)\.({ROLE})\.({NAME})")

Capabilities = Annotated[
    tuple[Annotated[str, Meta(pattern=CAPABILITY_PATTERN)], ...], Meta(max_length=MOST_CAPABILITIES)
]
Permissions = dict[str, list[str]]
"""`publish` and `subscribe`: the subjects that NATS allows a user, and no others."""


class Speaker(NamedTuple):
    role: str
    agent: str


def speaker(subject: str) -> Speaker:
    """Who sent what came on this subject. ValueError if nobody can have."""
    found = _SPOKEN.fullmatch(subject)
    if found is None:
        raise ValueError(f"{subject[:100]!r} names no agent: it is cairn.<tenant>.in.<role>.<agent>")
    return Speaker(*found.groups())


def user(tenant: str, agent: str) -> str:
    """The name of an agent's user of NATS."""
    return f"{tenant}.{agent}"


def inbox(tenant: str, agent: str) -> str:
    """Under which an agent is answered, and given what it pulls."""
    return f"_INBOX.{tenant}.{agent}"


def consumers(tenant: str, role: str, capabilities: Sequence[str] = ()) -> dict[str, str]:
    """The consumers of dispatches that an agent may pull from, each with the end of the subjects it hears of.

    Agents that can do the same share them: one of what takes nothing special, and one for each set of capabilities that
    they have, as `coder.gpu+python`. No two tenants of a server have one of the same name.
    """
    known = sorted(set(capabilities))
    needs = ("+".join(some) for count in range(len(known) + 1) for some in combinations(known, count))
    return {
        f"{tenant}-{role}+{need}" if need else f"{tenant}-{role}": f"{role}.{need}" if need else role for need in needs
    }


def role_of(tenant: str, consumer: str) -> str | None:
    """Whose dispatches a consumer of this name hands out; None if it is no role's."""
    found = re.fullmatch(rf"{tenant}-({ROLE})(?:\+.*)?", consumer)
    return found[1] if found else None


def permissions(tenant: str, who: Speaker, capabilities: Sequence[str] = ()) -> Permissions:
    """What the user of an agent may do. A stream's name changes with its epoch, so any stream's will do: the name of a
    consumer holds the tenant."""
    said = [f"cairn.{tenant}.{verb}.{who.role}.{who.agent}" for verb in ("in", "join", "beat", "leave")]
    pulled = [
        subject
        for seat in consumers(tenant, who.role, capabilities)
        for subject in (f"$JS.API.CONSUMER.MSG.NEXT.*.{seat}", f"$JS.API.CONSUMER.INFO.*.{seat}", f"$JS.ACK.*.{seat}.>")
    ]
    heard = [f"cairn.{tenant}.{verb}.{who.agent}" for verb in ("verdict", "tell")]
    return {"publish": said + pulled, "subscribe": [*heard, f"{inbox(tenant, who.agent)}.>"]}
