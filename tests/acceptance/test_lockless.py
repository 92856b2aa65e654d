"""Runs that share a store on a disk whose locks do nothing: work is done twice, and nothing worse comes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_finetune.ledger import Ledger
from pytest_finetune.store import Store

NO_LOCKS = """
import filelock


class Nothing:
    def __init__(self, *args, **kwargs): pass
    def acquire(self): pass
    def release(self): pass


filelock.FileLock = Nothing
"""


@pytest.mark.fault(12)
@pytest.mark.slow
def test_runs_at_once_without_locks(pytester: pytest.Pytester, project: Path) -> None:
    """Two whole runs at once pass with one adapter, which is one attempt, and leave nothing half made."""
    (pytester.path / "no_locks.py").write_text(NO_LOCKS)
    path = os.pathsep.join([str(pytester.path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-p", "no_locks", "-p", "no:cacheprovider", "--finetune"]
    running = [
        subprocess.Popen(command, cwd=pytester.path, env={**os.environ, "PYTHONPATH": path}, stdout=-1, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    root = pytester.path / ".finetune"
    [adapter] = (root / "adapter").iterdir()
    assert Store(root).has("adapter", adapter.name)
    assert [(entry.attempt, entry.outcome) for entry in Ledger(root).entries()] == [(1, "PASS")]
    assert not list(root.glob("work-*")) + list(root.glob("unfinished/*")) + list(root.glob("locks/*"))
    assert not list((root / "ledger").glob("half-*"))
