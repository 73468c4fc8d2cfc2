"""A collector of traces as OTLP over HTTP has it, in this process: real exporters send to it what they have."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Seen(NamedTuple):
    """A span; ids in hex, `parent` is "" for the first of a trace. `service` is who sent it."""

    service: str
    name: str
    kind: int
    trace: str
    span: str
    parent: str
    begun: int
    ended: int
    error: bool
    attributes: dict[str, Any]


class Collector:
    def __init__(self) -> None:
        self.url = ""
        self._spans: list[Seen] = []

    def spans(self) -> list[Seen]:
        """What has come until now, in the order in which it began."""
        return sorted(self._spans, key=lambda span: span.begun)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _plain(resource.resource.attributes)["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                times = (span.start_time_unix_nano, span.end_time_unix_nano)
                failed, told = span.status.code == span.status.STATUS_CODE_ERROR, _plain(span.attributes)
                self._spans.append(Seen(service, span.name, span.kind, *ids, *times, failed, told))


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield collector
        finally:
            server.shutdown()
            serving.join()


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
