"""Measuring: rows in, outputs and a score a row, the same way for every subject."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError
from pytest_finetune.metrics import Metric
from pytest_finetune.protocol import Engine, Turns
from pytest_finetune.records import (
    Adapter,
    Example,
    Generation,
    Measurement,
    Model,
    Prompt,
    from_plain,
    to_plain,
)
from pytest_finetune.store import Store

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes")
CODE = ("engine/generate.py", "engine/template.py", "engine/models.py", "engine/local.py")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the base model, or an adapter on it, asked with a prompt."""

    name: str
    prompt: Prompt
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Measurer:
    """Measures subjects over one base model; every output goes through the store.

    ``engine`` starts the engine when it is first needed: a run of hits never calls it.
    """

    store: Store
    engine: Callable[[], Engine]
    model: Model
    generation: Generation
    device: str

    def key(self, adapter: Adapter | None, *rest: object) -> str:
        """Return the digest of all that an answer of the engine depends on."""
        who = [self.model.digest, self.model.quantised, adapter.digest if adapter else ""]
        return digest.of([who, self.device, digest.versions(*LIBRARIES), digest.of_code(*CODE), to_plain(rest)])

    def outputs(self, adapter: Adapter | None, prompts: tuple[Turns, ...]) -> tuple[str, ...]:
        """Return the greedy answer to each prompt."""
        made = self.store.json(
            "outputs",
            self.key(adapter, prompts, self.generation),
            lambda: self.engine().generate(self.model, adapter, prompts, self.generation),
        )
        return from_plain(tuple[str, ...], made)

    def likelihoods(
        self, adapter: Adapter | None, prompts: tuple[Turns, ...], choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], ...]:
        """Return the log-likelihood in nats of each choice after each prompt."""
        made = self.store.json(
            "likelihoods",
            self.key(adapter, prompts, choices),
            lambda: self.engine().score(self.model, adapter, prompts, choices),
        )
        return from_plain(tuple[tuple[float, ...], ...], made)

    def measure(
        self,
        subject: Subject,
        on: str,
        examples: Sequence[Example],
        metric: Metric,
        labels: tuple[str, ...] = (),
    ) -> Measurement:
        """Return the subject's outputs and scores on ``examples``.

        Args:
            subject: who answers.
            on: the data set's name, for reports.
            examples: its rows.
            metric: what an answer is worth.
            labels: the choices, for the metric ``choice``.

        Raises:
            SuiteError: there are no rows; ``choice`` without labels; a score is not in [0, 1].
        """
        if not examples:
            raise SuiteError(f"{on}: there are no rows to measure on")
        prompts = tuple(subject.prompt.before(example) for example in examples)
        if metric.kind == "choice":
            if not labels:
                raise SuiteError("metric choice: the suite names no [answer] labels to choose from")
            nats = self.likelihoods(subject.adapter, prompts, labels)
            outputs = tuple(labels[row.index(max(row))] for row in nats)
        else:
            outputs = self.outputs(subject.adapter, prompts)
        return Measurement(
            subject=subject.name,
            on=on,
            metric=metric.name,
            ids=tuple(example.id for example in examples),
            outputs=outputs,
            scores=self._scores(metric, outputs, tuple(example.reference for example in examples)),
            clusters=tuple(example.cluster for example in examples),
        )

    def _scores(self, metric: Metric, outputs: tuple[str, ...], references: tuple[str, ...]) -> tuple[float, ...]:
        if metric.kind == "hub":
            key = digest.of([metric.module, metric.key, digest.versions("evaluate"), outputs, references])
            make = lambda: self.engine().evaluate(metric.module, metric.key, outputs, references)  # noqa: E731  # one use
            scores = tuple(self.store.json("scores", key, make))
        else:
            scores = tuple(float(metric.score(o, r)) for o, r in zip(outputs, references, strict=True))
        for score, output in zip(scores, outputs, strict=True):
            if not 0 <= score <= 1:
                raise SuiteError(f"metric {metric.name}: {score} for {output[:60]!r}; a score must be from 0 to 1")
        return scores
