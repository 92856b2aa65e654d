"""A process that goes when its parent does, however that went: a killed machine's cell is run elsewhere."""

import ctypes
import os
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
