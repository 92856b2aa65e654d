"""Spans for OpenTelemetry: only where its extra is installed, and the environment says where to send them."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

Headers = Sequence[tuple[bytes, bytes]]
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span:
    """One request's span, or none; ended once."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def end(self, status: int, **attributes: str | int) -> None:
        """End it, and note what came of the request."""
        if self._span is not None:
            self._span.set_attributes({"http.response.status_code": status, **attributes})
            self._span.end()


def start(name: str, headers: Headers) -> Span:
    """Start a span under the caller's, whose ``traceparent`` is among the headers."""
    tracer = _tracer()
    if tracer is None:
        return Span()
    from opentelemetry.propagate import extract

    carrier = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in headers}
    return Span(tracer.start_span(name, context=extract(carrier)))


@cache
def _tracer() -> Any:
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("pytest-finetune")
