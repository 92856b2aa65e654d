"""Foresight: what the selected tests are sure to ask, put down so that one call of the engine answers it all."""

from collections.abc import Collection, Sequence
from contextlib import suppress

from pytest_finetune.cases import FIXTURE
from pytest_finetune.errors import FinetuneError
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.measure import Subject, in_looks
from pytest_finetune.metrics import Metric
from pytest_finetune.mix import NO_PROMPT
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import Example


class Foresight:
    """Foresees for one suite: each call puts down what has become sure since the last, and starts no stage.

    Args:
        pipeline: the suite's.
        tests: the names of the fixtures that each selected test asks for.
    """

    def __init__(self, pipeline: Pipeline, tests: Sequence[Collection[str]]) -> None:
        self._pipeline, self._tests = pipeline, [set(names) for names in tests]
        self._told: set[tuple[str, str]] = set()

    def __call__(self) -> None:
        """Put down the first looks of whoever is known by now, and the cases of the adapter."""
        pipeline, done = self._pipeline, vars(self._pipeline)  # a cached property is in it once it has run
        if "curated" not in done or any(finding.refuses for finding in pipeline.curated.findings):
            return
        with suppress(FinetuneError):  # a mistake in one suite is told by its own tests
            # A prompt that reaches the target ends a suite before anything general is asked.
            if self._any("gate", "base_model", "general") and (pipeline.spec.gate.target is None or "adapter" in done):
                self._general(Subject("base model", NO_PROMPT))
            if "baseline" in done and self._any("gate", "baseline", "heldout"):
                self._heldout(ModelHandle(pipeline, "baseline", pipeline.rival))
            if "adapter" in done:
                adapter = AdapterHandle(pipeline)
                if self._any("gate", "adapter", "heldout"):
                    self._heldout(adapter)
                if self._any("gate", "adapter", "general"):
                    self._general(adapter.subject(general=True))
                if self._any(FIXTURE):
                    self._expect(adapter.subject(), "cases", pipeline.data.heldout, Metric("cases", "text"))

    def _any(self, *fixtures: str) -> bool:
        return any(names.issuperset(fixtures) for names in self._tests)

    def _heldout(self, who: ModelHandle) -> None:
        rows, metric = self._pipeline.data.heldout, self._pipeline.metric(self._pipeline.spec.gate.metric)
        self._first(who.subject(), "held-out", rows, metric, self._pipeline.looks([len(rows)], metric.whole))

    def _general(self, subject: Subject) -> None:
        sizes = [len(rows) for rows in self._pipeline.general.values()]
        asked = [(g.name, self._pipeline.metric(g.metric)) for g in self._pipeline.spec.general if g.data]
        looks = self._pipeline.looks(sizes, any(metric.whole for _, metric in asked))
        for name, metric in asked:
            self._first(subject, name, self._pipeline.curated.general.get(name, ()), metric, looks)

    def _first(self, subject: Subject, on: str, rows: tuple[Example, ...], metric: Metric, looks: int) -> None:
        early = self._pipeline.workplace.early_stop
        self._expect(subject, on, in_looks(rows, looks)[0] if early else rows, metric)

    def _expect(self, subject: Subject, on: str, rows: Sequence[Example], metric: Metric) -> None:
        if (subject.name, on) not in self._told:
            self._told.add((subject.name, on))
            self._pipeline.expect(subject, rows, metric)
