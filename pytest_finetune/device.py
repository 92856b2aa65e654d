"""Which device a run uses and what memory it has, found out without torch."""

import contextlib
import ctypes
import importlib.metadata
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pytest_finetune.errors import SuiteError

CGROUP = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}


def choose(wanted: str, option: str = "--finetune-device") -> str:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, given by ``option``.

    Raises:
        SuiteError: a GPU is asked for and there is none, or the name is none of these.
    """
    kind, _, index = wanted.partition(":")
    if wanted == "auto":
        return "cuda" if gpu_count() and not _torch_is_cpu_only() else "cpu"
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise SuiteError(f"{option}={wanted}: write auto, cpu, cuda or cuda:N")
    if kind == "cuda" and gpu_count() <= int(index or 0):
        raise SuiteError(f"{option}={wanted}: this machine has {gpu_count()} GPUs. Use auto or cpu.")
    if kind == "cuda" and _torch_is_cpu_only():
        raise SuiteError(f"{option}={wanted}: the installed torch is a CPU build. Install a CUDA build, or use cpu.")
    return wanted


def memory_bytes(device: str) -> int:
    """Return the memory of a GPU, or what a CPU's programs can still take; 0 where it cannot be known.

    Raises:
        SuiteError: a GPU is asked for and there is none.
    """
    kind, _, index = choose(device).partition(":")
    return _gpu_bytes(int(index or 0)) if kind == "cuda" else _free_bytes(Path("/"))


def _gpu_bytes(index: int) -> int:
    driver, handle, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0), ctypes.c_size_t(0)
    driver.cuInit(0)
    known = driver.cuDeviceGet(ctypes.byref(handle), index) == 0
    known = known and driver.cuDeviceTotalMem_v2(ctypes.byref(size), handle) == 0
    return size.value if known else 0


def _free_bytes(root: Path) -> int:
    """Available memory, or what control groups leave of it; ``root`` holds /proc and /sys."""
    meminfo = root / "proc/meminfo"
    if not meminfo.exists():  # no Linux
        names = getattr(os, "sysconf_names", {})
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else 0
    available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    free = [int(available[1]) * 1024] if available else []
    return min(free + list(_group_bytes(root)), default=0)


def _group_bytes(root: Path) -> Iterator[int]:
    """What each control group of this process leaves, version 2 and 1, from its own up to the root."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        version = {"": 2, "memory": 1}.get(controllers)
        if not version:
            continue
        top = root / ("sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory")
        limit, used = CGROUP[version]
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
                # Pages of files that nobody uses are given back under pressure.
                idle = re.search(r"^(?:total_)?inactive_file (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
                taken = int((folder / used).read_text()) - int(idle[1] if idle else 0)
                yield max(0, int((folder / limit).read_text()) - taken)


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
