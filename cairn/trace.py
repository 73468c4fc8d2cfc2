"""What an agent does, as spans of OpenTelemetry, in the trace that its work order names. Without an SDK there are none.

The SDK is the author's to set up, in the usual ways; a program that only calls `Agent.run`, and `cairn` itself, have it
set up by `configure` where the standard variables OTEL_* ask for it (`pip install 'cairn[otel]'`).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cairn.config import traces_wanted

if TYPE_CHECKING:
    from cairn.task import Task, Usage

log = logging.getLogger(__name__)

_W3C = TraceContextTextMapPropagator()
_NOWHERE = (ProxyTracerProvider, NoOpTracerProvider)
_tracer = trace.get_tracer("cairn")


def on() -> bool:
    """Whether an SDK is there that takes spans."""
    return not isinstance(trace.get_tracer_provider(), _NOWHERE)


def outgoing() -> dict[str, str]:
    """The header that names the span this code runs in; none if it runs in none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return {name: carrier[name] for name in ("traceparent",) if name in carrier}


def configure(service: str, version: str) -> None:
    """Has spans sent by OTLP over HTTP, if the environment asks for it and nobody has set up anything else.

    `service` is the name of this program, unless OTEL_SERVICE_NAME gives another; the other variables are the SDK's own.
    What is asked for and cannot be had is a warning: work does not depend on it.
    """
    try:
        wanted = traces_wanted(service)
    except ValueError as error:
        log.warning("no traces are sent: %s", error)
        return
    if wanted is None or on():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        log.warning("no traces are sent: %s is not installed: pip install 'cairn[otel]'", missing.name)
        return
    provider = TracerProvider(resource=Resource.create({"service.name": wanted.service, "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=wanted.timeout_seconds)))
    trace.set_tracer_provider(provider)


class Run:
    """The span of one run: begun when the work order is taken, current while the handler works, ended with the outcome.

    `traceparent` is what all that belongs to the run names: its reports, and what the handler does elsewhere.
    """

    def __init__(self, task: "Task", agent: str, given: str | None) -> None:
        self.traceparent = given
        self._span: Span = trace.INVALID_SPAN
        if not on():
            return
        parent = _W3C.extract({"traceparent": given} if given else {}, Context())
        verifies = task.purpose == "verify"
        own: dict[str, str | int] = {
            "workflow": task.workflow,
            "task": task.task,
            "run": task.run,
            "attempt": task.attempt,
        }
        attributes: dict[str, str | int] = {f"cairn.{name}": value for name, value in own.items()}
        attributes |= {"cairn.position": task.position, "cairn.role": task.role, "cairn.agent": agent}
        if not verifies:
            attributes |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": task.role}
            attributes |= {"gen_ai.agent.id": agent, "gen_ai.workflow.name": task.workflow}
        name = f"{'verify' if verifies else 'invoke_agent'} {task.role}"
        self._span = _tracer.start_span(name, parent, SpanKind.CONSUMER, attributes)
        with trace.use_span(self._span):
            self.traceparent = outgoing().get("traceparent", given)

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._span is trace.INVALID_SPAN:
            yield
            return
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    def end(self, outcome: str, usage: "Usage | None", failure: str = "") -> None:
        """`failure` is its class, if it is one; a second end changes nothing."""
        if not self._span.is_recording():
            return
        self._span.set_attributes({"cairn.outcome": outcome, **(_used(usage) if usage else {})})
        if failure:
            self._span.set_attribute("error.type", failure)
            self._span.set_status(StatusCode.ERROR, failure)
        self._span.end()


class ModelCall:
    """The span of one call of a model, current between `begin` and `end`."""

    def __init__(self, model: str | None) -> None:
        self._span: Span | None = None
        if on():
            attributes = {"gen_ai.operation.name": "chat", **({"gen_ai.request.model": model} if model else {})}
            self._span = _tracer.start_span(
                f"chat {model}" if model else "chat", kind=SpanKind.CLIENT, attributes=attributes
            )
            self._token = attach(trace.set_span_in_context(self._span))

    def end(self, usage: "Usage | None", error: BaseException | None) -> None:
        if self._span is None:
            return
        detach(self._token)
        if usage:
            self._span.set_attributes(_used(usage))
            if usage.model:
                self._span.update_name(f"chat {usage.model}")
        if error:
            self._span.set_attribute("error.type", type(error).__qualname__)
            self._span.set_status(StatusCode.ERROR, str(error))
        self._span.end()


def _used(usage: "Usage") -> dict[str, str | int | float]:
    """GenAI's names for it, and our own for what it cost; what is unknown is left out."""
    known = {
        "gen_ai.request.model": usage.model, "gen_ai.response.model": usage.model,
        "gen_ai.usage.input_tokens": usage.input_total, "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write, "cairn.cost.usd": usage.cost_usd,
    }  # fmt: skip
    return {name: value for name, value in known.items() if value is not None}
