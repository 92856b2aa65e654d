"""An engine without torch: its answers are a function of what it is asked."""

import json
from collections.abc import Callable
from pathlib import Path

from pytest_finetune.engines import Capabilities
from pytest_finetune.metrics import text
from pytest_finetune.protocol import Turns
from pytest_finetune.records import (
    Adapter,
    Answers,
    Document,
    Generation,
    HarnessTask,
    Lengths,
    Message,
    Model,
    TrainingCurve,
    TrainSpec,
)
from pytest_finetune.stats import bootstrap

DOCUMENTS = 200  # of a task of lm-eval
Answer = Callable[[Turns, Adapter | None], str]


class FakeEngine:
    """Implements ``protocol.Engine``; ``calls`` counts what it was asked to do, ``requests`` its prompts and pairs."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.lacks: dict[str, str] = {}

    def _count(self, name: str, requests: int = 0) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        self.requests[name] = self.requests.get(name, 0) + requests

    def capabilities(self, model: Model) -> Capabilities:
        return Capabilities(self.lacks)

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        self._count("generate", len(prompts))
        lengths = tuple(map(_length, prompts))
        texts = tuple(self.answer(prompt, adapter) for prompt in prompts)
        return Answers(texts, lengths, tuple(len(text.split()) for text in texts), 0.001 * max(lengths))

    def lengths(self, model: Model, prompts: tuple[Turns, ...]) -> Lengths:
        self._count("lengths", len(prompts))
        return Lengths(tuple(map(_length, prompts)), 100)

    def score(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], ...]:
        self._count("score", len(prompts))
        return tuple(tuple(0.0 if self.answer(p, adapter) == c else -9.0 for c in choices) for p in prompts)

    def train(self, spec: TrainSpec, folder: str, kept: str = "") -> TrainingCurve:
        self._count("train")
        Path(folder, "adapter_config.json").write_text(
            json.dumps({"rows": len(spec.train), "rank": spec.training.rank})
        )
        losses = ((1, 2.0), (2, 1.0))
        return TrainingCurve(2, 0.1, spec.training.rank, 1000, losses, ((2, 1.5),), 2, 2, 2)

    def probe(self, model: Model, adapter: Adapter, prompts: tuple[Turns, ...]) -> float:
        self._count("probe")
        return 1.0

    def evaluate(
        self, metric: str, key: str, predictions: tuple[str, ...], references: tuple[str, ...]
    ) -> tuple[float, ...]:
        self._count("evaluate", len(predictions))
        return tuple(float(p == r) for p, r in zip(predictions, references, strict=True))

    def redraw(
        self,
        metric: str,
        key: str,
        predictions: tuple[str, ...],
        references: tuple[str, ...],
        clusters: tuple[str, ...],
    ) -> tuple[float, ...]:
        self._count("redraw")
        return tuple(bootstrap.redraw(text.macro_f1, predictions, references, clusters))

    def harness(self, model: Model, adapter: Adapter | None, task: HarnessTask) -> tuple[Document, ...]:
        self._count("harness", task.limit or DOCUMENTS)
        made = []
        for i in range(task.limit or DOCUMENTS):
            said = self.answer((Message("user", f"document {i}"),), adapter)
            scores = {"nats,none": -1.5, "acc,none": float(said == "right"), "f1,none": None}
            made.append(Document(f"{task.name} {i}", f"document {i}", "right", {"none": said}, scores))
        return tuple(made)

    def close(self) -> None:
        self._count("close")


def _length(prompt: Turns) -> int:
    return sum(len(message.content.split()) for message in prompt)
