"""What an engine does for the stages: plain records in, plain records out, no tensor crosses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_finetune.engines import Capabilities
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

Turns = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long call has come."""

    stage: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None]


class Engine(Protocol):
    """The only way to a model. Implemented by ``engine.local.LocalEngine`` and, for tests, a fake.

    Every method raises ``EngineError`` for a fault of the machinery and ``SuiteError`` for
    something the user gave (a model folder, an adapter, a prompt that is too long).
    """

    def capabilities(self, model: Model) -> Capabilities:
        """Return what this engine cannot do with ``model``, found out by asking with a known answer."""

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        """Return the greedy answer to each prompt, in order; ``adapter`` None asks the base model."""

    def lengths(self, model: Model, prompts: tuple[Turns, ...]) -> Lengths:
        """Return each prompt's length in tokens, as the base model reads it, and the model's context."""

    def score(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], ...]:
        """Return the log-likelihood in nats of each choice after each prompt."""

    def train(self, spec: TrainSpec, folder: str, kept: str = "") -> TrainingCurve:
        """Train and write what ships into ``folder``, which must exist.

        Checkpoints lie in ``kept``, where a run that was stopped goes on; without it nothing outlives the call.
        """

    def probe(self, model: Model, adapter: Adapter, prompts: tuple[Turns, ...]) -> float:
        """Return the largest change of a logit that the adapter makes on ``prompts``.

        Raises:
            EngineError: the adapter holds NaN or infinity, or changes nothing.
        """

    def evaluate(
        self, metric: str, key: str, predictions: tuple[str, ...], references: tuple[str, ...]
    ) -> tuple[float, ...]:
        """Return a Hugging Face ``evaluate`` module's score of each pair."""

    def redraw(
        self,
        metric: str,
        key: str,
        predictions: tuple[str, ...],
        references: tuple[str, ...],
        clusters: tuple[str, ...],
    ) -> tuple[float, ...]:
        """Return an ``evaluate`` module's value of all pairs together, and then of each resample of them."""

    def harness(self, model: Model, adapter: Adapter | None, task: HarnessTask) -> tuple[Document, ...]:
        """Return what a model makes of each document of an lm-eval task, and lm-eval's scores of it."""

    def close(self) -> None:
        """Release what the engine holds; idempotent."""
