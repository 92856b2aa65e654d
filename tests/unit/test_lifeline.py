"""What a process ends with."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

# Python's lock is held by an expression that takes centuries.
STUCK = """
import re, sys
from pytest_finetune.lifeline import end_with
end_with(0)
print("ready", flush=True)
re.match("(a+)+$", "a" * 60 + "b")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends them")
def test_all_that_share_a_pipe_end_with_it() -> None:
    """Each process that was handed the same pipe ends when it is closed, as ranks do with their engine."""
    read, write = os.pipe()
    with ExitStack() as stack:
        ranks = []
        for _ in range(2):
            ranks.append(subprocess.Popen([sys.executable, "-c", STUCK], stdin=read, stdout=-1))
            stack.enter_context(ranks[-1])
            stack.callback(ranks[-1].kill)
        assert [rank.stdout and rank.stdout.readline() for rank in ranks] == [b"ready\n"] * 2
        assert [rank.poll() for rank in ranks] == [None] * 2
        os.close(write)
        assert [rank.wait(20) for rank in ranks] == [-signal.SIGKILL] * 2
    os.close(read)
