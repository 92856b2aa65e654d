"""Speed: about how long a run will take, from a model's size and this machine's arithmetic."""

import ctypes
import time
from functools import cache

# Operations a multiprocessor does in one clock, dense bfloat16 (float16 before 8.0), by compute capability:
# NVIDIA's white papers on Volta, Turing, Ampere, Ada, Hopper and Blackwell.
OPERATIONS_A_CLOCK = {7: 1024, 8: 2048, 9: 4096, 10: 8192, 12: 2048}
USED = (0.15, 0.6)  # of the peak, by small and by large models: a range, since nothing ran yet
MULTIPROCESSORS, CLOCK_KHZ, MAJOR = 16, 13, 75  # CUdevice_attribute


def seconds(operations: float, device: str) -> tuple[float, float]:
    """Return the range of seconds that so many floating-point operations take; zeros where that is unknown.

    Args:
        operations: multiplications and additions.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """
    peak = _cpu_operations_per_second() if device == "cpu" else _gpu_operations_per_second(device)
    return (operations / (USED[1] * peak), operations / (USED[0] * peak)) if peak else (0.0, 0.0)


def training_operations(parameters: int, tokens: float, every_weight: bool) -> float:
    """Return what training on so many tokens takes: 6 a weight and token, 4 where the weights are frozen.

    Source: Kaplan 2020 (arXiv 2001.08361), section 2.1; without gradients of the frozen weights a third goes.
    """
    return (6 if every_weight else 4) * parameters * tokens


def answering_operations(parameters: int, tokens: float) -> float:
    """Return what reading or writing so many tokens takes (the same source)."""
    return 2 * parameters * tokens


@cache
def _cpu_operations_per_second() -> float:
    """Measure one matrix product in float32, as the engine computes on a CPU; 0.05 s."""
    import numpy as np

    size, best = 768, 0.0
    matrix = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    for _ in range(3):
        started = time.perf_counter()
        _ = matrix @ matrix
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


@cache
def _gpu_operations_per_second(device: str) -> float:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0.0
    found = [ctypes.c_int(0) for _ in range(3)]
    for value, attribute in zip(found, (MULTIPROCESSORS, CLOCK_KHZ, MAJOR), strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, int(device.partition(":")[2] or 0)) != 0:
            return 0.0
    multiprocessors, clock_khz, major = (value.value for value in found)
    return float(multiprocessors * clock_khz * 1000 * OPERATIONS_A_CLOCK.get(major, 0))
