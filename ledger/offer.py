"""The way of an offer from the ledger to the agents, as a span: from here until JetStream holds the message.

The message names this span as its `traceparent`, so the run that it leads to is a child of it; the event in it names
the one in which it was decided. Offers alone: nobody works on what is merely announced.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind, StatusCode

from ledger import trace
from ledger.announce import Announcement
from ledger.recorded import Recorded

OFFER = "task.dispatched"


@contextmanager
def offering(events: Sequence[Recorded], batch: list[Announcement]) -> Iterator[None]:
    """Around the publication of `batch`, which announces the first of `events`, in their order."""
    spans: list[Span] = []
    if trace.on():
        for number, (recorded, (subject, body, headers)) in enumerate(zip(events, batch, strict=False)):
            if recorded.type == OFFER and recorded.traceparent is not None:
                spans.append(_span(recorded, recorded.traceparent, subject))
                batch[number] = subject, body, {**(headers or {}), "traceparent": trace.traceparent(spans[-1])}
    try:
        yield
    except BaseException as error:
        for span in spans:
            span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
        raise
    finally:
        for span in spans:
            span.end()


def _span(recorded: Recorded, parent: str, subject: str) -> Span:
    about = {
        "workflow": recorded.correlation_id, "task": getattr(recorded.event, "task", None),
        "run": getattr(recorded.event, "run", None), "attempt": getattr(recorded.event, "attempt", None),
        "position": recorded.position, "messaging.system": "nats", "messaging.operation.type": "send",
        "messaging.destination.name": subject, "messaging.message.id": str(recorded.id),
    }  # fmt: skip
    return trace.begin(f"send {OFFER}", parent, kind=SpanKind.PRODUCER, about=about)
