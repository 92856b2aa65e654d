"""Which device a run uses, found out without torch."""

import ctypes
import importlib.metadata
from functools import cache

from pytest_finetune.errors import SuiteError


def choose(wanted: str) -> str:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        SuiteError: a GPU is asked for and there is none, or the name is none of these.
    """
    kind, _, index = wanted.partition(":")
    if wanted == "auto":
        return "cuda" if gpu_count() and not _torch_is_cpu_only() else "cpu"
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise SuiteError(f"--finetune-device={wanted}: write auto, cpu, cuda or cuda:N")
    if kind == "cuda" and gpu_count() <= int(index or 0):
        raise SuiteError(f"--finetune-device={wanted}: this machine has {gpu_count()} GPUs. Use auto or cpu.")
    if kind == "cuda" and _torch_is_cpu_only():
        raise SuiteError(
            f"--finetune-device={wanted}: the installed torch is a CPU build. Install a CUDA build, or use cpu."
        )
    return wanted


@cache
def gpu_count() -> int:
    """Return how many NVIDIA GPUs the driver shows."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _torch_is_cpu_only() -> bool:
    return importlib.metadata.version("torch").endswith("+cpu")
