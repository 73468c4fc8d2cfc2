"""Who sends traces, and that an agent does without what it takes to send them."""

import subprocess
import sys

import pytest

from cairn.config import COLLECTOR_SECONDS, Traces, traces_wanted

TO = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
PROGRAM = """
import logging, sys
logging.basicConfig(format="%(message)s")
for name in BLOCKED:
    sys.modules[name] = None
from cairn import trace
from cairn.task import Task, Usage
trace.configure("mine", "1")
task = Task("w", "a", "a/1", 1, "coder", 1, 30.0, 60.0)
run = trace.Run(task, "ann", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
with run.current():
    call = trace.ModelCall("large")
    call.end(Usage(model="large"), None)
run.end("completed", None)
print(trace.on(), run.traceparent, trace.outgoing())
"""


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, None),
        (TO, Traces("cairn", COLLECTOR_SECONDS)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"}, Traces("cairn", COLLECTOR_SECONDS)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Traces("cairn", COLLECTOR_SECONDS)),
        (TO | {"OTEL_SERVICE_NAME": "tower", "OTEL_EXPORTER_OTLP_TIMEOUT": "7"}, Traces("tower", None)),
        (TO | {"OTEL_SDK_DISABLED": "true"}, None),
        (TO | {"OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_SERVICE_NAME": "tower"}, None),
    ],
)
def test_the_standard_variables_say_whether_traces_are_sent(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], wanted: Traces | None
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert traces_wanted("cairn") == wanted


@pytest.mark.parametrize("more", [{"OTEL_TRACES_EXPORTER": "zipkin"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}])
def test_a_way_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch, more: dict[str, str]) -> None:
    for name, value in (TO | more).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{next(iter(more.values()))}.*only otlp by http/protobuf, or none"):
        traces_wanted("cairn")


@pytest.mark.parametrize(
    ("environ", "blocked", "says"),
    [
        ({}, ["opentelemetry.sdk", "opentelemetry.exporter"], ""),
        (TO, ["opentelemetry.sdk", "opentelemetry.exporter"], "pip install 'cairn[otel]'"),
        (TO | {"OTEL_TRACES_EXPORTER": "zipkin"}, [], "no traces are sent: OTEL_TRACES_EXPORTER zipkin"),
    ],
)
def test_without_an_sdk_an_agent_works_and_passes_on_the_trace_it_was_given(
    environ: dict[str, str], blocked: list[str], says: str
) -> None:
    program = PROGRAM.replace("BLOCKED", repr(blocked))
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 {}\n"
    assert (says in done.stderr) if says else not done.stderr
