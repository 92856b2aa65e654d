"""Mishaps: what a library's exception means, where it is the machinery's fault and nobody's input."""

import torch

from pytest_finetune.errors import EngineError, one_line

SHORT = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "std::bad_alloc")
LOST = (
    "CUDA error",
    "CUDA driver error",
    "HIP error",
    "cuDNN error",
    "CUBLAS_STATUS_",
    "NCCL error",
    "CUDA-capable device",
    "No CUDA GPUs are available",
    "unspecified launch failure",
)


def is_short(error: BaseException) -> bool:
    """Whether memory was short, of a GPU or of this machine."""
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in SHORT)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def is_lost(error: BaseException) -> bool:
    """Whether the GPU failed, or is gone: from then on every call to it does."""
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in LOST)
    return not is_short(error) and (said or isinstance(error, torch.AcceleratorError))


def check(error: BaseException) -> None:
    """Raise what is no fault of what was given, before it is blamed.

    Raises:
        EngineError: memory was short, or the GPU is gone.
    """
    if is_short(error) or is_lost(error):
        raise named(error) from error


def named(error: BaseException) -> EngineError:
    """Return an exception of a library's as a fault of the machinery."""
    said = f"{type(error).__name__}: {one_line(error)}"
    if is_lost(error):
        return EngineError(f"the GPU was lost, or failed. See what nvidia-smi and dmesg say, and run again. {said}")
    if is_short(error):
        return EngineError(f"out of memory; take a smaller model, batch_size or max_tokens. {said}")
    return EngineError(said)
