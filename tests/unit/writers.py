"""Processes that write at once to one folder, on a disk whose locks do nothing, or on a small one."""

import subprocess
import sys
from pathlib import Path

BEGINNING = """
import os, sys
from pathlib import Path

import filelock

class Nothing:
    def __init__(self, *args, **kwargs): pass
    def acquire(self): pass
    def release(self): pass

if LOCKLESS:
    filelock.FileLock = Nothing
from pytest_finetune.store import Store

sys.stdin.readline()  # all begin at once
"""


def at_once(code: str, *arguments: str, processes: int = 8, lockless: bool = True) -> list[str]:
    """Run a program in several processes whose locks do nothing, all from the same moment on; return what each said."""
    command = [sys.executable, "-c", f"LOCKLESS = {lockless}\n{BEGINNING}{code}", *arguments]
    running = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(processes)]
    for process in running:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in running]
    assert not any(process.returncode for process in running), said
    return [out for out, _ in said]


NO_DISK = 77  # the exit code of a command whose disk cannot be mounted


def on_a_disk(size: str, folder: Path, *command: str) -> list[str]:
    """Return a command that runs another with a new disk of that size at ``folder``, which nobody else sees."""
    script = f'mount -t tmpfs -o size={size} none "$0" || exit {NO_DISK}; exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folder), *command]
