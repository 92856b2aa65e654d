"""Unfinished work: folders of checkpoints, each written by one process and taken over when that is gone.

No lock says whose a folder is, since those of network disks may do nothing: its name does, and who takes it over
renames it, which only one can.
"""

import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = "unfinished"
HOST = re.sub(r"\W", "", platform.node()) or "here"  # a container is a machine of its own
BEAT_SECONDS = 60.0
GONE_SECONDS = 900.0  # since the last sign of life; clocks of two machines must differ by less


@contextmanager
def held(root: Path, key: str) -> Iterator[Path]:
    """Yield a folder for what is made under ``key``, which may hold how far one that is gone has come.

    Args:
        root: of all such folders.
        key: names what is made.
    """
    token = os.urandom(4).hex()
    own = root / f"{key}-{HOST}-{os.getpid()}-{token}"
    for left in sorted(filter(is_left, root.glob(f"{key}-*")), key=touched, reverse=True):
        with suppress(FileNotFoundError):  # another process took it
            left.rename(own)
            break
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(own, ended), daemon=True)
    beat.start()
    try:
        yield own
    finally:
        ended.set()
        beat.join()
        with suppress(OSError):  # it is gone when the work has ended
            own.rename(root / f"{key}-{token}")  # whoever comes next need not wait for this process to end


def is_left(folder: Path) -> bool:
    """Whether nobody works on a folder: who did left it, has ended, or gave no sign of life for long."""
    owner = folder.name.split("-")[1:-1]
    if len(owner) != 2:
        return True
    host, pid = owner
    if host == HOST and not is_alive(int(pid)):
        return True
    return time.time() - touched(folder) > GONE_SECONDS  # processes are numbered anew, and we see only this machine's


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


def touched(folder: Path) -> float:
    """Return when a folder last changed, or its owner said that it lives."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # taken, or done, this very moment
        return time.time()


def _beat(folder: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):  # not made yet, or on a disk that stalls
            os.utime(folder)
