"""The memory arithmetic against torch's allocator on a real GPU."""

from pathlib import Path

import pytest

from benchmarks.memory import measured, random_llama, spec_of
from pytest_finetune import memory
from pytest_finetune.methods import METHODS


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 59 M random weights: large enough that workspaces do not decide."""
    return random_llama(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("point", [(4, 200, 64), (16, 400, 8)])
def test_estimate(method: str, point: tuple[int, int, int], llama: Path) -> None:
    """What training adds on the GPU is estimated within 10 %."""
    spec, load = spec_of(llama, method, point, "cuda")
    estimate = memory.estimate(memory.shape_of(llama), method, load)
    assert estimate.added == pytest.approx(measured(spec, "cuda").peak_bytes, rel=0.10)


def test_memory_of_the_gpu() -> None:
    """The driver's figure is the one that torch reports."""
    import torch

    from pytest_finetune import device

    assert device.memory_bytes("cuda") == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.03)
