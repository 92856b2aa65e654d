"""Measure the embedded model and write its card: `python -m recipes.embedded.card`.

Every number of `pytest_finetune/embedded/README.md` comes from here, through the shipped stages.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_finetune import digest, suite
from pytest_finetune.baseline import instructions
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.measure import Subject
from pytest_finetune.mix import NO_PROMPT
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.records import Adapter, to_plain
from pytest_finetune.store import Store
from pytest_finetune.suite import SuiteSpec

ROOT = Path(__file__).parents[2]
MEASURED = Path(__file__).with_name("measured.json")
CARD = digest.PACKAGE / "embedded" / "README.md"
HOT_LEARNING_RATE, HOT_EPOCHS = 4e-3, 6
TINY_ROWS, TINY_EPOCHS = 24, 40


@dataclass(frozen=True, slots=True)
class Tuned:
    """One fine-tune of the intent suite; scores are means from 0 to 1."""

    name: str
    held_out: float
    general: float


@dataclass(frozen=True, slots=True)
class Measured:
    """All the card says; ``skills`` and ``prompts`` are mean scores by name."""

    skills: dict[str, float]
    prompts: dict[str, float]
    tuned: tuple[Tuned, ...]
    tiny_dev_loss_nats: tuple[float, ...]


class Bench:
    """The intent suite on the embedded model, with settings that vary."""

    def __init__(self, engine: EngineProcess, folder: Path) -> None:
        self._workplace = Workplace(Store(folder), lambda name: engine)
        self.spec = suite.load(ROOT / "eval_suites" / "intent" / suite.FILE, ROOT)
        self.pipeline = Pipeline(self.spec, self._workplace)

    def skills(self, adapter: Adapter | None = None) -> dict[str, float]:
        """Return the mean score of each general suite, asked without a system prompt."""
        subject = Subject("model", NO_PROMPT, adapter)
        metric = {general.name: self.pipeline.metric(general.metric) for general in self.spec.general}
        general = self.pipeline.data.general
        return {name: self.pipeline.measure(subject, name, rows, metric[name]).mean for name, rows in general.items()}

    def prompts(self) -> dict[str, float]:
        """Return the held-out score of every instruction the suite's baseline tries, without examples."""
        return {prompt.name: self._held_out(Subject("baseline", prompt)) for prompt in instructions(self.spec)}

    def tune(self, name: str, **changes: float) -> Tuned:
        """Return a fine-tune with other training settings; ``replay`` is the share of general rows."""
        adapter = self.train(changes)
        held_out = self._held_out(Subject("adapter", self.pipeline.serve, adapter))
        general = self.skills(adapter)
        return Tuned(name, held_out, sum(general.values()) / len(general))

    def train(self, changes: Mapping[str, float], rows: int = 0) -> Adapter:
        """Train on the first ``rows`` rows (0: all) with some settings changed."""
        settings = dict(changes)
        share = settings.pop("replay", self.spec.replay_share)
        training = replace(self.spec.training, **settings)  # type: ignore[arg-type]  # numbers of the right kind
        spec: SuiteSpec = replace(self.spec, training=training, replay_share=share)
        pipeline = Pipeline(spec, self._workplace)
        data = self.pipeline.data
        vars(pipeline)["data"] = replace(data, train=data.train[: rows or None])
        return pipeline.trained(training)

    def _held_out(self, subject: Subject) -> float:
        metric = self.pipeline.metric(self.spec.gate.metric)
        return self.pipeline.measure(subject, "held-out", self.pipeline.data.heldout, metric).mean


@contextmanager
def bench() -> Iterator[Bench]:
    """Yield a bench over a fresh store and an engine of its own."""
    engine = EngineProcess("cpu", lambda progress: None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Bench(engine, Path(folder))
    finally:
        engine.close()


def measure(on: Bench) -> Measured:
    """Return everything the card says, in about five minutes on two cores."""
    hot = {"learning_rate": HOT_LEARNING_RATE, "epochs": HOT_EPOCHS}
    tuned = (
        on.tune("LoRA, as the suite says"),
        on.tune("hot and long, 25 % replay", replay=0.25, **hot),
        on.tune("hot and long, no replay", replay=0.0, **hot),
    )
    return Measured(on.skills(), on.prompts(), tuned, tiny_dev_losses(on))


def tiny_dev_losses(on: Bench) -> tuple[float, ...]:
    """Return the dev loss by epoch of a training on far too few rows, which nothing stops early."""
    tiny = {"replay": 0, "epochs": TINY_EPOCHS, "batch_size": 8, "evaluations_per_epoch": 1, "patience": TINY_EPOCHS}
    curve = on.train(tiny, rows=TINY_ROWS).curve
    assert curve
    return tuple(loss for _, loss in curve.dev_loss_nats)


def card(measured: Measured) -> str:
    """Return the model card."""
    base = sum(measured.skills.values()) / len(measured.skills)
    losses = measured.tiny_dev_loss_nats
    best = min(range(len(losses)), key=losses.__getitem__)
    lines = [
        "# The embedded base model",
        "",
        "A Llama of 1.5 million parameters (3 MB, bfloat16) for trying fine-tuning where there is no hub and no",
        "GPU. It was pretrained from nothing on generated instruction data by `recipes/embedded/` (23.9 M tokens,",
        "seed 0); it knows no facts and no English beyond that. Apache-2.0, like everything here.",
        "",
        "Every number below is written by `make card` (embedded model, eval_suites/intent, CPU, one seed).",
        "",
        f"General skills, {base:.1%} in the mean (500 held-out rows each, no system prompt, exact match):",
        "",
        "| skill | score |",
        "| --- | --- |",
        *(f"| {name} | {score:.1%} |" for name, score in measured.skills.items()),
        "",
        "Not among them, since the model has not learned it: arithmetic.",
        "",
        "Prompts of eval_suites/intent on its 600 held-out rows. The first names the task only, the second lists",
        "labels with their words in brackets, the third gives words and labels as pairs; both leave one word of",
        "each label out:",
        "",
        "| prompt | label accuracy |",
        "| --- | --- |",
        *(f"| {name} | {score:.1%} |" for name, score in measured.prompts.items()),
        "",
        f"LoRA of rank 8 on 720 rows (general skills of the base model: {base:.1%}; hot and long: learning rate",
        f"{HOT_LEARNING_RATE}, {HOT_EPOCHS} epochs):",
        "",
        "| training | held-out | general skills | drop |",
        "| --- | --- | --- | --- |",
        *(
            f"| {t.name} | {t.held_out:.1%} | {t.general:.1%} | {100 * (base - t.general):.1f} points |"
            for t in measured.tuned
        ),
        "",
        f"On {TINY_ROWS} rows the dev loss falls to {losses[best]:.3f} nats at epoch {best + 1} and is back at "
        f"{losses[-1]:.3f} at epoch {len(losses)}:",
        "overfitting.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    with bench() as on:
        numbers = measure(on)
    MEASURED.write_text(json.dumps(to_plain(numbers), indent=1) + "\n")
    CARD.write_text(card(numbers), encoding="utf-8")
    print(card(numbers))
