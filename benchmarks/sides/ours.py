"""Our side of a race: the engine's own methods, in this process.

    python -m benchmarks.sides.ours JOB.json

A job names a ``task`` of `TASKS`; its result overwrites it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.sides.ruler import Ruler, answer
from pytest_finetune import digest
from pytest_finetune.engine.local import LocalEngine
from pytest_finetune.protocol import Turns
from pytest_finetune.records import (
    Adapter,
    Conversation,
    Generation,
    Message,
    Model,
    Training,
    TrainSpec,
)
from pytest_finetune.suite import MODEL_FILES


def turns(raw: list[dict[str, str]]) -> Turns:
    """Return messages as records."""
    return tuple(Message(turn["role"], turn["content"]) for turn in raw)


def model_of(job: dict[str, Any], quantised: bool = False) -> Model:
    """Return the job's base model."""
    folder = Path(job["model"])
    return Model(folder.name, digest.of_files(folder, MODEL_FILES), str(folder), quantised=quantised)


def conversations(rows: list[dict[str, Any]]) -> tuple[Conversation, ...]:
    """Return rows of the race as what training teaches."""
    return tuple(Conversation(turns(row["prompt"]), row["completion"]) for row in rows)


def spec_of(job: dict[str, Any], rows: list[dict[str, Any]], epochs: int) -> TrainSpec:
    """Return the job's training run over ``rows``; the dev split is one row, since there must be one."""
    training = Training(
        method=job["method"],
        rank=job["rank"],
        alpha=job["alpha"],
        epochs=epochs,
        learning_rate=job["learning_rate"],
        batch_size=job["batch_size"],
        warmup_share=0.0,
        evaluations_per_epoch=1,
        checkpoint="last",
        seed=job["seed"],
    )
    return TrainSpec(
        model_of(job, job["method"] == "qlora"), training, conversations(rows), conversations(job["rows"][:1])
    )


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train on one batch, to import and load; then on the rows, measured: loading and tokenising count."""
    engine = LocalEngine("cpu")
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        engine.train(spec_of(job, job["rows"][: job["batch_size"]], 1), first)
        with Ruler() as ruler:
            curve = engine.train(spec_of(job, job["rows"], job["epochs"]), second)
    return {**ruler.taken, "losses": [loss for _, loss in curve.train_loss_nats]}


def ship(job: dict[str, Any]) -> dict[str, Any]:
    """Train, and leave the adapter in the job's folder."""
    LocalEngine("cpu").train(spec_of(job, job["rows"], job["epochs"]), job["folder"])
    return {}


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """Answer or choose, measured after a first call that loads the model."""
    engine, model = LocalEngine("cpu"), model_of(job)
    adapter = None
    if job["adapter"]:
        folder = Path(job["adapter"])
        adapter = Adapter(job["adapter"], digest.of_files(folder, ("*",)), "lora")
    generation = Generation(max_new_tokens=job["max_new_tokens"])
    prompts, warm = (tuple(map(turns, job[name])) for name in ("prompts", "warm"))

    def ask(asked: tuple[Turns, ...]) -> Any:
        if job["choices"]:
            return engine.score(model, adapter, asked, tuple(job["choices"]))
        return engine.generate(model, adapter, asked, generation).texts

    ask(warm)
    with Ruler() as ruler:
        found = ask(prompts)
    return {**ruler.taken, "found": found}


TASKS = {"train": train, "ship": ship, "evaluate": evaluate}

if __name__ == "__main__":
    answer(TASKS)
