"""The disk, also one of the network: names that appear whole or not at all, without locks or links."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST}  # a rename met a folder of that name that holds something


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a crash cannot leave a name without its bytes."""
    with opened(path) as handle:
        os.fsync(handle)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield a handle of a file or folder, which stays its own whatever becomes of the name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def renamed(folder: Path, name: Path) -> bool:
    """Give a folder a name and return True, if nothing has it: of many that want it at once, one gets it.

    Args:
        folder: it must hold something: an empty one with that name would be taken over.
        name: on the same disk.
    """
    try:
        folder.rename(name)
    except OSError as error:
        if error.errno not in OCCUPIED:
            raise
        return False
    sync(name.parent)
    return True


def size(folder: Path) -> int:
    """Return the bytes of all files in a folder; what goes meanwhile has none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def lacks(folder: Path, need: int) -> str:
    """Return what to say where a disk has no room for so many bytes; empty where it has."""
    free = shutil.disk_usage(folder).free
    return "" if need < free else f"the disk is full: {need:,} bytes are needed, and {free:,} are free"


def replace(path: Path, text: str) -> None:
    """Write a file in the place of the one there, of which readers see the old or the new, whoever writes as well."""
    handle, half = tempfile.mkstemp(".half", dir=path.parent)
    os.close(handle)
    try:
        Path(half).write_text(text, encoding="utf-8")
        sync(Path(half))
        Path(half).chmod(0o644)  # as others of a shared store may read it
        Path(half).replace(path)
    finally:
        Path(half).unlink(missing_ok=True)
    sync(path.parent)


def copy(folder: Path, name: Path) -> None:
    """Copy a folder, but for what others just write to it; the copy can be written, also where the folder cannot."""
    halves = shutil.ignore_patterns("*.half", "half-*")
    shutil.copytree(folder, name, copy_function=shutil.copyfile, ignore=halves)
    for place, _, _ in os.walk(name):
        Path(place).chmod(0o755)


def linked(source: str, target: str) -> None:
    """Link a file where both are on one disk: entries of a store never change, and adapters are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
