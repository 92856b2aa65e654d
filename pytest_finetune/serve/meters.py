"""What the server counts, in Prometheus' form."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pytest_finetune import telemetry

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Meters:
    """The server's numbers, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "finetune_serve_requests",
            "Requests answered; 499 is the status of those whose client went away",
            ["endpoint", "model", "status"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "finetune_serve_tokens", "Tokens read and made", ["model", "kind"], registry=self.registry
        )
        self.batch = Histogram("finetune_serve_batch_rows", "Rows in a pass", buckets=ROWS, registry=self.registry)
        self.first = Histogram(
            "finetune_serve_first_token_seconds",
            "From a request's arrival to its first token",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.whole = Histogram(
            "finetune_serve_answer_seconds",
            "From a request's arrival to the end of its answer",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def watch(self, waiting: Callable[[], float], running: Callable[[], float]) -> None:
        """Tell how many rows wait and run, whenever somebody looks."""
        for name, about, value in (
            ("waiting", "Rows that wait", waiting),
            ("running", "Rows that are being answered", running),
        ):
            Gauge(f"finetune_serve_{name}_rows", about, registry=self.registry).set_function(value)

    def page(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class Visit:
    """One request, from its arrival to its end.

    ``model`` is the full id of who is asked, once that is known: a name that a client made up is no label.
    """

    def __init__(self, meters: Meters, endpoint: str, headers: telemetry.Headers = ()) -> None:
        self.model = ""
        self._span = telemetry.start("serve.answer", headers)
        self._meters, self._endpoint, self._began = meters, endpoint, time.perf_counter()
        self._first = True

    def piece(self) -> None:
        """Count that a piece of the answer is there."""
        if self._first:
            self._first = False
            self._meters.first.labels(self._endpoint).observe(time.perf_counter() - self._began)

    def end(self, status: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Count the request."""
        about: dict[str, str | int] = {"gen_ai.request.model": self.model, "gen_ai.usage.input_tokens": prompt_tokens}
        self._span.end(status, **about, **{"gen_ai.usage.output_tokens": completion_tokens})
        self._meters.requests.labels(self._endpoint, self.model, str(status)).inc()
        if prompt_tokens:
            self._meters.tokens.labels(self.model, "prompt").inc(prompt_tokens)
            self._meters.tokens.labels(self.model, "completion").inc(completion_tokens)
        if status == 200:
            self._meters.whole.labels(self._endpoint).observe(time.perf_counter() - self._began)
