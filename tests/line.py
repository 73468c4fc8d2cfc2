"""A queue of claims to tell stories of: who claims what, who is granted it, who ends."""

from typing import Any, Self

from domain.claims import (
    Claim,
    ClaimFreed,
    ClaimGranted,
    ClaimQueued,
    FreeClaim,
    Limits,
    PlaceClaim,
)
from domain.events import Event
from domain.queue import Queue, decide, evolve

NOW = 1_000_000.0
ONE_CODER = Limits(role_slots={"coder": 1})


def workflow(name: str) -> Claim:
    return Claim(name, name)


def task(name: str, *resources: str, role: str = "coder", priority: int = 0) -> Claim:
    return Claim(f"w/{name}/1", "w", name, f"{name}/1", role, resources, priority)


class Line:
    """A queue under the same limits from one command to the next."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self.state, self.limits = Queue(), limits

    def do(self, command: type[Any], **fields: Any) -> list[Event]:
        events = decide(self.state, command(now=NOW, limits=self.limits, **fields))
        for event in events:
            assert evolve(self.state, event) is self.state
        return list(events)

    def place(self, *claims: Claim) -> Self:
        for claim in claims:
            assert self.do(PlaceClaim, claim=claim)[0] == ClaimQueued(claim=claim)
        return self

    def free(self, claim: Claim) -> list[str]:
        """Who was granted by it."""
        freed, *granted = self.do(FreeClaim, claim=claim.id)
        assert freed == ClaimFreed(claim=claim.id)
        return [event.claim for event in granted if isinstance(event, ClaimGranted)]

    @property
    def granted(self) -> list[str]:
        return [id for id, standing in self.state.claims.items() if standing.granted]
