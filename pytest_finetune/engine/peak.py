"""How much memory training adds to the engine process, at its peak."""

import contextlib
import ctypes
import sys
from pathlib import Path

import torch
import transformers

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Peak:
    """Bytes over those held when this was made: on a GPU those of torch's allocator, else resident memory.

    Args:
        device: where training runs. Make this before the model is loaded.
    """

    def __init__(self, device: torch.device) -> None:
        _ = transformers.AutoModelForCausalLM  # imported when first named; its code is not training's memory
        self.device = device
        if device.type == "cpu":
            _give_back_freed()
            self._before_bytes = _status_bytes("VmRSS")

    def restart(self) -> None:
        """Forget the peak so far (loading maps the weights' file besides the weights)."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _give_back_freed()
            # Where the kernel refuses this, the peak of loading counts too.
            with contextlib.suppress(OSError):
                CLEAR.write_text("5")

    @property
    def bytes(self) -> int:
        """The peak since the last restart."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return max(0, _status_bytes("VmHWM") - self._before_bytes)


def _status_bytes(field: str) -> int:
    """Return a field of the process's status; where there is no /proc, its largest size ever."""
    if not STATUS.exists():
        import resource  # Unix only

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _give_back_freed() -> None:
    """Let glibc return freed pages, which training would otherwise take again unseen."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
