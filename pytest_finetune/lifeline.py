"""A process that goes when its parent does, however that went: a killed machine's cell is run elsewhere."""

import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl's


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent dies (Linux; elsewhere it stays)."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # which died before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)


def end_with(pipe: int) -> None:
    """Have the kernel kill this process when a pipe's other end is closed, also by its holder's death (Linux).

    Not a thread that reads it: a library may hold Python's lock for ever, and a thread needs that to end anything.

    Args:
        pipe: the end for reading, into which nobody writes.
    """
    if sys.platform == "linux":
        import fcntl  # which Windows lacks

        # Opened anew: the kernel tells one process for each time it was opened, and others may have inherited it.
        pipe = os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY)
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC)
        if select.select([pipe], [], [], 0)[0]:  # it was closed before the kernel was asked
            os._exit(1)
