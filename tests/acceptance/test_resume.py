"""A run that is stopped amid training goes on where it was, and ships the very same adapter."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_finetune import digest
from pytest_finetune.engine import checkpoints
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.errors import EngineError
from pytest_finetune.protocol import Progress
from pytest_finetune.records import Conversation, Message, Model, Training, TrainSpec
from pytest_finetune.tuning import SHIPPED

EMBEDDED = digest.PACKAGE / "embedded"


class Stopped(Exception):
    """What is raised at a step of training."""


def spec(**settings: object) -> TrainSpec:
    """Return a small training run with dropout, of several epochs."""
    rows = tuple(Conversation((Message("user", f"say {i}"),), f"{'ox'[i % 2]} {i % 7}") for i in range(40))
    training = replace(Training(dropout=0.1, epochs=3, batch_size=4, seed=3), **settings)  # type: ignore[arg-type]
    return TrainSpec(Model("embedded", "", str(EMBEDDED)), training, rows, rows[:8], answered=2)


def stop_at(step: int) -> Callable[[Progress], None]:
    """Return what stops training once it is past a step."""

    def report(progress: Progress) -> None:
        if progress.stage == "train" and progress.done >= step:
            raise Stopped

    return report


@pytest.mark.fault(1)
@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"patience": 9}, {"checkpoint": "last", "method": "soft_prompt"}], ids=str)
def test_stopped_training_goes_on(settings: dict[str, object], tmp_path: Path) -> None:
    """What is stopped amid an epoch and goes on in another process ships the bytes of a run that was never stopped."""
    kept, shipped = tmp_path / "kept", []
    for name in ("stopped", "whole"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "stopped":
            engine = EngineProcess("cpu", stop_at(13))
            with pytest.raises(Stopped):
                engine.train(spec(**settings), str(folder), str(kept))
            assert list(kept.glob("checkpoint-*/run.json"))
            kept = kept.rename(tmp_path / "taken over")
        engine = EngineProcess("cpu", lambda progress: None)
        curve = engine.train(spec(**settings), str(folder), str(kept) if name == "stopped" else "")
        engine.close()
        shipped.append((digest.of_files(folder, SHIPPED), curve.steps, curve.dev_loss_nats, curve.dev_answers))
    assert shipped[0] == shipped[1]
    assert not kept.exists()


@pytest.mark.slow
def test_what_was_trained_and_not_shipped_ships_its_best(tmp_path: Path) -> None:
    """A run that is lost after its last step is taken over, under another name, and ships the best step's bytes."""
    kept, shipped = tmp_path / "kept", []
    (tmp_path / "file").touch()
    worsens = spec(learning_rate=0.03, patience=99)
    worsens = replace(worsens, dev=tuple(replace(row, completion="no such thing") for row in worsens.dev))
    engine = EngineProcess("cpu", lambda progress: None)
    with pytest.raises(EngineError):
        engine.train(worsens, str(tmp_path / "file"), str(kept))
    kept = kept.rename(tmp_path / "taken over")
    for name, work in (("taken", str(kept)), ("whole", "")):
        folder = tmp_path / name
        folder.mkdir()
        curve = engine.train(worsens, str(folder), work)
        shipped.append((digest.of_files(folder, SHIPPED), curve.shipped_step))
    engine.close()
    assert shipped[0] == shipped[1]
    assert curve.shipped_step < curve.steps


def empty(folder: Path, last: Path) -> None:
    """Have a checkpoint of which nothing but its name was written."""
    (folder / "checkpoint-20").mkdir()


def without_a_note(folder: Path, last: Path) -> None:
    """Have one whose files were written, and whose note was not."""
    (last / checkpoints.NOTE).unlink()


def flipped(folder: Path, last: Path) -> None:
    """Have one with another bit in its weights."""
    weights = last / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-5] ^= 1
    weights.write_bytes(raw)


@pytest.mark.fault(3)
@pytest.mark.slow
def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    """What is no whole checkpoint is not gone on from: the one before it is, and the same bytes ship."""
    shipped, left = [], tmp_path / "left"
    engine = EngineProcess("cpu", stop_at(15))
    with pytest.raises(Stopped):
        engine.train(spec(patience=9), str(tmp_path), str(left))
    steps = sorted(int(path.name.partition("-")[2]) for path in left.glob("checkpoint-*"))
    assert len(steps) == 2
    engine = EngineProcess("cpu", lambda progress: None)
    for damage, goes_on_from in ((None, steps[1]), (empty, steps[1]), (without_a_note, steps[0]), (flipped, steps[0])):
        kept = Path(shutil.copytree(left, tmp_path / f"kept {damage}"))
        if damage:
            damage(kept, kept / f"checkpoint-{steps[1]}")
        found = checkpoints.latest(Path(shutil.copytree(kept, tmp_path / f"looked at {damage}")))
        assert found
        assert found.name == f"checkpoint-{goes_on_from}"
        folder = tmp_path / f"shipped {damage}"
        folder.mkdir()
        engine.train(spec(patience=9), str(folder), str(kept))
        shipped.append(digest.of_files(folder, SHIPPED))
    engine.close()
    assert len(set(shipped)) == 1


def test_a_checkpoint_without_its_best_is_none(tmp_path: Path) -> None:
    """A checkpoint whose best one so far is damaged could not ship it: training begins anew."""
    for step, best in ((4, 4), (8, 4)):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / checkpoints.STATE).write_text(f'{{"best_global_step": {best}}}')
        checkpoints.write_note(checkpoint, {"step": step})
    found = checkpoints.latest(tmp_path)
    assert found
    assert found.name == "checkpoint-8"
    (tmp_path / "checkpoint-4" / checkpoints.STATE).write_text('{"best_global_step": 3}')
    assert checkpoints.latest(tmp_path) is None
    assert not list(tmp_path.iterdir())
