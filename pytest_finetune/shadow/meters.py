"""Meters: what Prometheus reads from the proxy."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pytest_finetune.errors import FinetuneError
from pytest_finetune.shadow.spool import Spool

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Meters:
    """The proxy's numbers; those of the candidate stand in the spool, which another process may write."""

    def __init__(self, spool: Path, candidate: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "finetune_shadow_requests", "Requests relayed", ["served", "status"], registry=self.registry
        )
        self.fallbacks = Counter(
            "finetune_shadow_fallbacks",
            "Requests that the candidate failed, and the primary answered",
            registry=self.registry,
        )
        self.cut = Counter("finetune_shadow_cut", "Answers that ended early", ["by"], registry=self.registry)
        self.first = Histogram(
            "finetune_shadow_first_byte_seconds",
            "From sending a request on to the first byte of its answer",
            ["served"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.whole = Histogram(
            "finetune_shadow_answer_seconds",
            "From sending a request on to the end of its answer",
            ["served"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_OfSpool(spool, candidate))

    def page(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self.registry)


class _OfSpool(Collector):
    def __init__(self, path: Path, candidate: str) -> None:
        self._path, self._candidate = path, candidate

    def describe(self) -> list[Metric]:
        """Return nothing: the spool may not be there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what the spool counts now."""
        try:
            spool = Spool(self._path)
            counts, backlog = spool.counts(), spool.backlog(self._candidate)
            replies, share = spool.totals(self._candidate), spool.share(self._candidate)
            spool.close()
        except FinetuneError:  # scraped before the first exchange, or on a full disk
            return
        became = CounterMetricFamily("finetune_shadow_exchanges", "Exchanges by what became of them", labels=["became"])
        for name, value in counts.items():
            if name != "relayed":
                became.add_metric([name], value)
        yield became
        answered = CounterMetricFamily(
            "finetune_shadow_candidate_replies", "Replies of the candidate", labels=["candidate", "error"]
        )
        for error, value in replies.items():
            answered.add_metric([self._candidate, error], value)
        yield answered
        yield GaugeMetricFamily("finetune_shadow_waiting", "Exchanges that wait for the candidate", value=backlog)
        yield GaugeMetricFamily("finetune_shadow_canary_share", "Conversations that are the candidate's", value=share)
