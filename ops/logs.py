"""The log of a long-running command: stderr, as lines for people on a terminal, elsewhere one JSON object a line.

There is one way and one form for all of it: our own lines, those of the libraries we use, warnings of Python. What a
line is about is bound where it begins (a request, a batch, a run) and stands on every line until it ends; secrets are
masked last (`ops/masks.py`). The embedded servers write files of their own.
"""

import logging
import sys
from collections import Counter
from importlib.metadata import version
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from cairn.trace import configure as send_traces
from ledger import trace
from ops.masks import hide, masked
from ops.settings import OURS, Settings, levels_of, secrets

# Tracebacks without local variables: they can hold tokens.
PLAIN = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
LINES: Counter[str] = Counter()
"""How many lines this process has written, by their level."""


def begin(settings: Settings, service: str) -> None:
    """Log and traces of a process that calls itself `service` there; nothing that it was told in secret is written."""
    hide(secrets(settings.database_url, settings.nats_url))
    configure(settings.log_level, tenant=settings.tenant)
    send_traces(service, version("cairn"))
    trace.look()


def configure(levels: str, **standing: str) -> None:
    """`levels` as the setting `log_level`; `standing` is on every line that does not say otherwise, as the tenant."""
    terminal = sys.stderr.isatty()

    def complete(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        component = event.pop("logger", None)
        first = {name: event.pop(name) for name in ("timestamp", "level")}
        return {**first, "component": component, "event": event.pop("event"), **standing, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
        structlog.processors.StackInfoRenderer(),
        _in_trace,
        complete,
    ]
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.ExceptionRenderer() if terminal else structlog.processors.ExceptionRenderer(PLAIN),
        _mask,
        _count,
        _console() if terminal else structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )  # fmt: skip
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    logging.getLogger().handlers[:] = [handler]
    logging.raiseExceptions = False  # where stderr is closed there is nobody to tell
    logging.captureWarnings(True)
    _set_levels(levels)


def _set_levels(text: str) -> None:
    default, named = levels_of(text)
    everyone = logging.getLogger()
    # What libraries say below a warning is about themselves; who wants it names them.
    everyone.setLevel(max(_number(default), logging.WARNING))
    for component in OURS:
        logging.getLogger(component).setLevel(_number(default))
    for component, level in named.items():
        logging.getLogger(component).setLevel(_number(level))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(pad_event_to=28, exception_formatter=structlog.dev.plain_traceback)


def _in_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if trace.on() and (span := trace.current()) is not None:
        event.setdefault("trace_id", f"{span.trace_id:032x}")
        event.setdefault("span_id", f"{span.span_id:016x}")
    return event


def _mask(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    found: dict[str, Any] = masked(event)
    return found


def _count(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    LINES[event["level"]] += 1
    return event
