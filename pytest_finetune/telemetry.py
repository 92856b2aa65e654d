"""Spans for OpenTelemetry: only where its extra is installed, and the environment says where to send them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

Headers = Sequence[tuple[bytes, bytes]]
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span:
    """One request's span, or none."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, served: str, status: int) -> None:
        """Note who answered, and how."""
        if self._span is not None:
            self._span.set_attribute("finetune.served", served)
            self._span.set_attribute("http.response.status_code", status)


@contextmanager
def span(name: str, headers: Headers) -> Iterator[Span]:
    """Open a span under the caller's, whose ``traceparent`` is among the headers."""
    tracer = _tracer()
    if tracer is None:
        yield Span()
        return
    from opentelemetry.propagate import extract

    carrier = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in headers}
    with tracer.start_as_current_span(name, context=extract(carrier)) as opened:
        yield Span(opened)


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
