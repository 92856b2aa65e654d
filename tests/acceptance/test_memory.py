"""The advisor's estimate against what training on this machine takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.memory import EMBEDDED, LIVE, measured, spec_of
from pytest_finetune import digest, memory
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.methods import METHODS
from pytest_finetune.tuning import SHIPPED


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_estimate(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What training adds to the engine's process on the CPU is estimated within 20 %."""
    monkeypatch.setenv(LIVE, "131072")
    spec, load = spec_of(EMBEDDED, method, (8, 64, 8))
    estimate = memory.estimate(memory.shape_of(EMBEDDED), method, load)
    assert estimate.added == pytest.approx(measured(spec).peak_bytes, rel=0.20)


@pytest.mark.slow
def test_checkpointing(tmp_path: Path) -> None:
    """Activation checkpointing takes less memory, and trains to the same bytes."""
    spec, _ = spec_of(EMBEDDED, "lora", (16, 200, 8))
    made = {}
    for checkpointing in (False, True):
        folder = tmp_path / str(checkpointing)
        folder.mkdir()
        engine = EngineProcess("cpu", lambda progress: None)
        try:
            curve = engine.train(replace(spec, checkpointing=checkpointing), str(folder))
        finally:
            engine.close()
        made[checkpointing] = (curve.peak_bytes, curve.dev_loss_nats, digest.of_files(folder, SHIPPED))
    assert made[True][0] < 0.8 * made[False][0]
    assert made[True][1:] == made[False][1:]
