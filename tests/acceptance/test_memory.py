"""The advisor's estimate against what training on this machine takes."""

import pytest

from benchmarks.memory import EMBEDDED, LIVE, measured, spec_of
from pytest_finetune import memory
from pytest_finetune.methods import METHODS


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_estimate(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What training adds to the engine's process on the CPU is estimated within 20 %."""
    monkeypatch.setenv(LIVE, "131072")
    spec, load = spec_of(EMBEDDED, method, (8, 64, 8))
    estimate = memory.estimate(memory.shape_of(EMBEDDED), method, load)
    assert estimate.added == pytest.approx(measured(spec).peak_bytes, rel=0.20)
