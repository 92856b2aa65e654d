"""Tests on a real GPU; skipped where there is none."""

import pytest

from pytest_finetune import device


@pytest.fixture(autouse=True)
def gpu() -> None:
    """Skip without a GPU that the installed torch can use."""
    if device.choose("auto") == "cpu":
        pytest.skip("needs a GPU and a CUDA build of torch")
