"""What tests hold: the subjects, the rows, and the gate that compares them."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_finetune import digest, gate
from pytest_finetune.errors import SuiteError
from pytest_finetune.measure import Subject
from pytest_finetune.metrics import Score
from pytest_finetune.mix import NO_PROMPT
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import (
    Adapter,
    Claim,
    Example,
    LostExample,
    Measurement,
    Message,
    Prompt,
    Verdict,
)
from pytest_finetune.report.terminal import claim_text

LOST_SHOWN = 3


class ClaimNotProven(AssertionError):
    """The gate's FAIL or INCONCLUSIVE, with the verdict it comes from."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        lines = [f"{c.outcome}: {claim_text(c)}" for c in verdict.claims if c.outcome != "PASS"]
        super().__init__("\n".join(lines))


class Inconclusive(UserWarning):
    """The data cannot settle a claim, and the suite says to warn only."""


@dataclass(frozen=True)
class Rows(Sequence[Example]):
    """Rows of one data set, as a sequence of examples."""

    name: str
    examples: tuple[Example, ...]
    metric: str
    is_general: bool = False

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        return self.examples[index]


@dataclass(frozen=True)
class General(Mapping[str, Rows]):
    """The general suites by name."""

    suites: dict[str, Rows]

    def __getitem__(self, name: str) -> Rows:
        return self.suites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.suites)

    def __len__(self) -> int:
        return len(self.suites)


class ModelHandle:
    """A model that tests can ask: the base model, the baseline, or the adapter.

    Suite rows are asked with the subject's own prompt, general rows without any.
    """

    def __init__(self, pipeline: Pipeline, name: str, prompt: Prompt, adapter: Adapter | None = None) -> None:
        self._pipeline = pipeline
        self._adapter = adapter
        self.name = name
        self.prompt = prompt

    def __repr__(self) -> str:
        return f"<{self.name} of {self._pipeline.spec.name}>"

    def subject(self, general: bool = False) -> Subject:
        """Return the record of who is measured."""
        if general:
            return Subject(self.name, NO_PROMPT, self._adapter)
        return Subject(self.name, self.prompt, self._adapter, self._pipeline.retriever)

    def generate(self, rows: Sequence[Example] | Sequence[str]) -> list[str]:
        """Return the greedy answer to each row (an example, or the text of a user's message)."""
        subject = self.subject(isinstance(rows, Rows) and rows.is_general)
        turns = subject.turns([_as_example(row) for row in rows])
        return list(self._pipeline.measurer.answers(self._adapter, turns).texts)

    def score(self, row: Example | str, choices: Sequence[str]) -> dict[str, float]:
        """Return the log-likelihood in nats of each choice as the answer to ``row``."""
        prompts = self.subject().turns([_as_example(row)])
        nats = self._pipeline.measurer.likelihoods(self._adapter, prompts, tuple(choices))
        return dict(zip(choices, nats[0], strict=True))

    def load(self) -> tuple[Any, Any]:
        """Return the real transformers (or peft) model and its tokenizer, in this process, on the CPU."""
        from pytest_finetune.engine.models import Models, choose_device  # imports torch, as the caller asked

        loaded = Models(choose_device("cpu")).get(self._pipeline.model, self._adapter)
        return loaded.model, loaded.tokenizer


class AdapterHandle(ModelHandle):
    """The fine-tune; ``path`` is the folder that ships and ``digest`` names its bytes.

    What the method ``prompt`` ships is a prompt for the base model, and no weights.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        adapter = pipeline.adapter
        super().__init__(pipeline, "adapter", adapter.prompt or pipeline.serve, None if adapter.prompt else adapter)
        self.path = Path(adapter.path)
        self.digest = adapter.digest
        self.curve = adapter.curve


class Gate:
    """Decides claims. Each call proves its claims, or raises ``ClaimNotProven``.

    Limits that a call does not give are the suite's.

    Args:
        pipeline: the suite's.
        test: the test that asks, for the report.
        on_verdict: told every verdict.
    """

    def __init__(self, pipeline: Pipeline, test: str, on_verdict: Callable[[Verdict], None]) -> None:
        self._pipeline = pipeline
        self._limits = pipeline.spec.gate
        self._test = test
        self._on_verdict = on_verdict
        # One superiority claim, pooled retention, and a guard for each general suite.
        self._claims_in_verdict = 2 + len(pipeline.spec.general)

    def beats(
        self,
        adapter: ModelHandle,
        baseline: ModelHandle,
        *,
        on: Rows,
        metric: str | Score | None = None,
        margin: float | None = None,
    ) -> Verdict:
        """Prove that ``adapter`` scores higher than ``baseline`` by more than ``margin``.

        Raises:
            ClaimNotProven: the claim is refuted, or the rows do not settle it.
        """
        bound = self._limits.margin if margin is None else margin
        before, after = self._pair(adapter, baseline, on, metric or on.metric)
        claim = self._claim("superiority", f"{adapter.name} beats {baseline.name}", [(before, after)], bound)
        return self._decide((claim,), [(on, before, after)], adapter)

    def keeps(
        self,
        adapter: ModelHandle,
        base_model: ModelHandle,
        *,
        on: General,
        max_drop: float | None = None,
        guard: float | None = None,
        metric: str | Score | None = None,
    ) -> Verdict:
        """Prove that ``adapter`` lost less than ``max_drop`` of ``base_model``'s general skills in the
        mean, and less than ``guard`` of any single one.

        Raises:
            ClaimNotProven: a claim is refuted, or the rows do not settle it.
            SuiteError: the suite has no general suite.
        """
        if not on:
            raise SuiteError(f"{self._pipeline.spec.file}: no [[general]] suite; without one forgetting goes unseen")
        measured = [(rows, *self._pair(adapter, base_model, rows, metric or rows.metric)) for rows in on.values()]
        pairs = [(before, after) for _, before, after in measured]
        drop = self._limits.max_drop if max_drop is None else max_drop
        one = self._limits.guard if guard is None else guard
        claims = [self._claim("retention", "keeps general skills", pairs, -drop)]
        claims += [self._claim("guard", f"keeps {pair[0].on}", [pair], -one) for pair in pairs]
        return self._decide(tuple(claims), measured, adapter)

    def _claim(self, kind: gate.Kind, name: str, pairs: list[gate.Pair], bound: float) -> Claim:
        return gate.claim(kind, name, pairs, bound, self._limits.alpha, self._claims_in_verdict)

    def _pair(
        self, after: ModelHandle, before: ModelHandle, on: Rows, metric: str | Score
    ) -> tuple[Measurement, Measurement]:
        measure = self._pipeline.measure
        return (
            measure(before.subject(on.is_general), on.name, on.examples, metric),
            measure(after.subject(on.is_general), on.name, on.examples, metric),
        )

    def _decide(
        self,
        claims: tuple[Claim, ...],
        measured: Sequence[tuple[Rows, Measurement, Measurement]],
        adapter: ModelHandle,
    ) -> Verdict:
        outcome = gate.outcome(claims)
        digests = {"model": self._pipeline.model.digest}
        if isinstance(adapter, AdapterHandle):
            digests["adapter"] = adapter.digest
        digests["rows"] = digest.of([before.ids for _, before, _ in measured])
        verdict = Verdict(self._test, outcome, claims, _worst(measured), digests)
        self._pipeline.verdicts.append(verdict)
        self._on_verdict(verdict)
        if outcome == "INCONCLUSIVE" and self._limits.on_inconclusive == "warn":
            warnings.warn(Inconclusive(str(ClaimNotProven(verdict))), stacklevel=3)
        elif outcome != "PASS":
            raise ClaimNotProven(verdict)
        return verdict


def _as_example(row: Example | str) -> Example:
    return row if isinstance(row, Example) else Example("", (Message("user", row),), "", "", 0)


def _worst(measured: Sequence[tuple[Rows, Measurement, Measurement]]) -> tuple[LostExample, ...]:
    """Return the rows that lost most, the first of each data set before the second of any."""
    lost = [
        (rank, LostExample(f"{Path(e.file).name}:{e.line}", e.text, e.reference, old, new, drop))
        for rows, before, after in measured
        for rank, (drop, e, old, new) in enumerate(
            sorted(
                (
                    (x - y, e, old, new)
                    for x, y, e, old, new in zip(
                        before.scores, after.scores, rows.examples, before.outputs, after.outputs, strict=True
                    )
                    if x > y
                ),
                key=lambda row: -row[0],
            )[:LOST_SHOWN]
        )
    ]
    return tuple(example for _, example in sorted(lost, key=lambda pair: pair[0])[:LOST_SHOWN])
