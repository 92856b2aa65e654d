"""A store that can only be read serves, and a run keeps nothing."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_finetune.ledger import Ledger


def gate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the gate as somebody whom permissions bind, which root's processes are not."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--finetune", "--finetune-explain", *options],
        cwd=folder,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(24, 1),  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def tree(folder: Path) -> dict[str, int]:
    """Return the time of each file and folder."""
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.mark.fault(15)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability")
def test_a_store_that_can_only_be_read(pytester: pytest.Pytester, project: Path) -> None:
    """What it has is reused, what it lacks is made for this run alone, attempts in it count, and it stays as it is."""
    assert gate(pytester.path).returncode == 0
    store = pytester.path / ".finetune"
    folders = [store, *(path for path in store.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    before = tree(store)
    try:
        for options, attempt in (((), "attempt 1"), (("--finetune-seed=1", "-n2"), "attempt 2")):
            again = gate(pytester.path, *options, "--finetune-report=run.json")
            assert again.returncode == 0, again.stdout + again.stderr
            said = f"store {store}: cannot be written; what this run made, and its attempts, are not kept"
            assert said in again.stdout
            assert f'"attempt": {attempt[-1]},' in (pytester.path / "run.json").read_text()
            assert ("adapter: reused" in again.stdout) == (not options)
            assert "baseline: reused" in again.stdout
        assert tree(store) == before
        assert len(Ledger(store).entries()) == 1
    finally:
        for folder in folders:
            folder.chmod(0o755)
