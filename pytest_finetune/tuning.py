"""Tuning: one training run through the store, the same way for what ships and for what judges rows."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_finetune import digest
from pytest_finetune.engines import CODE as ANSWERING
from pytest_finetune.measure import LIBRARIES
from pytest_finetune.protocol import Engine
from pytest_finetune.records import Adapter, Conversation, TrainingCurve, TrainSpec, from_plain, to_plain
from pytest_finetune.store import Store

CURVE = "curve.json"
SHIPPED = digest.SHIPPED
CODE = (
    *(f"engine/{name}.py" for name in (*ANSWERING["local"], "adapters", "checkpoints", "ranks", "train")),
    "methods.py",
)


def inputs(spec: TrainSpec, device: str) -> dict[str, object]:
    """Return by name what a training run depends on; the rows by their digests."""
    return {
        "base model": [spec.model.digest, spec.model.quantised],
        **{f"[training] {name}": value for name, value in to_plain(spec.training).items()},
        "train rows": [_name(row) for row in spec.train],
        "dev rows": [_name(row) for row in spec.dev],
        "[generation] max_new_tokens": spec.generation.max_new_tokens,  # of the answers on dev
        "dev rows answered": spec.answered,
        "device": device,
        **digest.versions(*LIBRARIES, "accelerate"),
        "engine code": digest.of_code(*CODE),
    }


def _name(row: Conversation) -> str:
    return digest.of([[[turn.role, turn.content] for turn in row.messages], row.completion, row.weight])


def tuned(
    spec: TrainSpec,
    store: Store,
    engine: Callable[[], Engine],
    device: str,
    rebuild: bool = False,
    told: Callable[[Mapping[str, object], bool], None] = lambda inputs, made: None,
) -> Adapter:
    """Return what this training makes, from the store where it has it.

    Args:
        spec: everything the run depends on; its trackers change nothing.
        store: where adapters are kept.
        engine: starts the engine when it is needed.
        device: what the engine runs on.
        rebuild: train again, whatever the store holds.
        told: told what the run depends on, and whether it trained.
    """
    depends, made = inputs(spec, device), False

    key = digest.of(depends)

    def make(folder: Path) -> None:
        nonlocal made
        made = True
        with store.unfinished(key) as kept:
            if rebuild:
                shutil.rmtree(kept, ignore_errors=True)
            curve = engine().train(spec, str(folder), str(kept))
        with store.writing():
            (folder / CURVE).write_text(json.dumps(to_plain(curve)))

    folder = store.folder("adapter", key, make, rebuild=rebuild)
    told(depends, made)
    curve = from_plain(TrainingCurve, json.loads((folder / CURVE).read_text()))
    return Adapter(str(folder), digest.of_files(folder, SHIPPED), spec.training.method, curve)
