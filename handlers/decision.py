"""What is told of a round of decisions: a span for each command, from its decision until its events are recorded, and
a line in the log at debug. Where nobody looks there is neither, and `Round` is not made.

A command's span belongs to the trace that whoever asked has named, else to that of what happened last in its stream; a
workflow that nobody gave a trace begins one. What its events carry is the command's span, so all that follows from them
is connected.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry.trace import Span, SpanContext, StatusCode

from domain.commands import Command
from domain.errors import Refused
from handlers.kinds import WORKFLOW, Kind
from ledger import trace
from ledger.recorded import Recorded

if TYPE_CHECKING:
    from handlers.execute import Order

log = structlog.stdlib.get_logger(__name__)
_level = logging.getLogger(__name__)


class Round:
    """The commands that are decided together, in their order: `begin` each, then `end` them all."""

    def __init__(self, kind: Kind[Any], key: str) -> None:
        self._kind, self._key = kind, key
        self._traced, self._told = trace.on(), _level.isEnabledFor(logging.DEBUG)
        self._spans: list[Span | None] = []

    def begin(self, order: "Order", caller: SpanContext | None, last: str | None) -> str | None:
        """The trace that the command's events carry. It was asked for in the span `caller`; `last` is the trace of what
        happened last in the stream."""
        named = order.traceparent
        if not self._traced or (self._kind is not WORKFLOW and named is None):
            self._spans.append(None)
            return named
        parent: str | SpanContext | None = named or last
        if caller and (parent is None or (named and trace.context_of(named).trace_id == caller.trace_id)):
            parent = caller
        links = [caller] if caller and parent is not caller else []
        about = {**self._about(order.command), "actor": order.actor}
        span = trace.begin(f"decide {about['command']}", parent, links=links, about=about)
        self._spans.append(span)
        return trace.traceparent(span)

    def end(self, answers: Sequence[tuple["Order", int | Refused]], recorded: Sequence[Recorded] | None) -> None:
        """`answers`: to each command how many events it led to, or why it was refused. `recorded` are those events; None:
        they could not be recorded, and the commands are decided again."""
        at = 0
        for span, (order, outcome) in zip(self._spans, answers, strict=False):
            events = recorded[at : at + outcome] if recorded and isinstance(outcome, int) else ()
            at += len(events)
            found = _found(order.command, events)
            refused = str(outcome) if isinstance(outcome, Refused) else None
            if self._told:
                about = {**self._about(order.command), **found, "refused": refused}
                log.debug(
                    "decided.again" if recorded is None else "decided",
                    causation_id=str(order.id), actor=order.actor, decided=[event.type for event in events],
                    **{name: value for name, value in about.items() if value is not None},
                )  # fmt: skip
            if span is not None:
                span.set_attributes(trace.attributes({**found, "events": len(events)}))
                if refused:
                    span.set_status(StatusCode.ERROR, refused)
        for span in self._spans:
            if span is not None:
                span.end()

    def _about(self, command: Command) -> dict[str, object]:
        named = {"workflow": self._key} if self._kind is WORKFLOW else {"stream": self._kind.prefix + self._key}
        more = {name: getattr(command, name, None) for name in ("task", "run")}
        return {"command": type(command).__name__, **named, **more}


def watched() -> bool:
    """Whether anybody looks."""
    return trace.on() or _level.isEnabledFor(logging.DEBUG)


def _found(command: Command, events: Sequence[Recorded]) -> dict[str, object]:
    """Where a command's events stand, and the attempt of its task that they are about, if they say so."""
    if not events:
        return {}
    task = getattr(command, "task", None)
    own = (event.event for event in events if task and getattr(event.event, "task", None) == task)
    attempt = next((event.attempt for event in own if hasattr(event, "attempt")), None)
    return {"position": events[-1].position, "version": events[-1].version, "attempt": attempt}
