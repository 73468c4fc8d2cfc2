"""Spans of OpenTelemetry around what a server does, if it was found at its start (`look`) that an SDK takes them.

They follow the work across processes by the `traceparent` (W3C Trace Context) of its events: an event carries that of
the span in which it was decided.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NoOpTracerProvider, ProxyTracerProvider, Span, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()
_NOWHERE = (ProxyTracerProvider, NoOpTracerProvider)
_tracer = trace.get_tracer("cairn")
_on = False


def look() -> None:
    """Finds out whether an SDK is there. Not at every command: to ask OpenTelemetry takes as long as to decide some."""
    global _on
    _on = not isinstance(trace.get_tracer_provider(), _NOWHERE)


def on() -> bool:
    """Whether there is somebody to take spans."""
    return _on


def begin(
    name: str,
    parent: str | SpanContext | None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[SpanContext] = (),
    about: Mapping[str, object] = MappingProxyType({}),
) -> Span:
    """A span that somebody has to `end`. `parent` as a traceparent or of this process; None: it begins a trace."""
    return _tracer.start_span(name, _context(parent), kind, attributes(about), [Link(one) for one in links])


def attributes(about: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """`cairn.<name>` for what has no dot in its name; what is None is left out."""
    return {
        name if "." in name else f"cairn.{name}": value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in about.items()
        if value is not None
    }


def traceparent(span: Span) -> str:
    """What makes others' spans children of this one."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier["traceparent"]


def context_of(given: str) -> SpanContext:
    """The span that a traceparent names; one that is malformed names none, which is not `is_valid`."""
    return trace.get_current_span(_W3C.extract({"traceparent": given}, Context())).get_span_context()


def current() -> SpanContext | None:
    """The span that this code runs in."""
    found = trace.get_current_span().get_span_context()
    return found if found.is_valid else None


def _context(parent: str | SpanContext | None) -> Context:
    if isinstance(parent, str):
        return _W3C.extract({"traceparent": parent}, Context())
    if parent is None:
        return Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
