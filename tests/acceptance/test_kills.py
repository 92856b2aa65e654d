"""Whole runs that are killed, or whose store is damaged: the next run comes to the same, from what is whole."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import hardening
from benchmarks.hardening import Project, Run
from pytest_finetune.engine import checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes through /proc"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A suite of its own."""
    return Project(tmp_path_factory.mktemp("project").resolve())


@pytest.fixture(scope="module")
def whole(project: Project) -> Run:
    """A run that nothing happened to."""
    run = project.finish()
    assert run.code == 0
    return run


@pytest.fixture
def made(project: Project, whole: Run) -> Iterator[Project]:
    """A project whose store holds that run, and has only that to go by when a test has damaged it."""
    kept = project.folder / "kept"
    shutil.copytree(project.store, kept, dirs_exist_ok=True)
    yield project
    shutil.rmtree(project.store)
    kept.rename(project.store)


def same(run: Run, other: Run) -> bool:
    """Whether two runs decided the same of the same adapter."""
    return (run.code, run.decided, run.adapter) == (other.code, other.decided, other.adapter)


@pytest.mark.fault(1)
@pytest.mark.timeout(600)
def test_kills_at_random(tmp_path: Path) -> None:
    """Whenever pytest, its engine or both are killed, the next run decides the same of the same adapter, every entry is
    whole, no process stays and nothing is left half made.
    """
    assert any(line.startswith("3 of 3 next runs") for line in hardening.kills(tmp_path.resolve(), 3, seed=9))


@pytest.mark.fault(1)
def test_killed_in_training(made: Project, whole: Run) -> None:
    """A run that is killed once training has kept a checkpoint is gone on with, and ships the same adapter."""
    shutil.rmtree(made.store)
    run = made.start()
    while not list(made.store.glob(f"unfinished/*/checkpoint-*/{checkpoints.NOTE}")):
        time.sleep(0.01)
        assert run.poll() is None
    run.kill()
    run.communicate()
    assert made.emptied()
    assert not (made.store / "adapter").exists()
    assert same(made.finish(), whole)


@pytest.mark.fault(4)
@pytest.mark.parametrize("hangs", [False, True], ids=["heeds", "hangs"])
def test_cancelled_in_ci(hangs: bool, made: Project, whole: Run) -> None:
    """After SIGINT, 7.5 s, SIGTERM, 2.5 s and SIGKILL no process is left and the store is whole, also where the engine
    hangs and heeds nothing; the next run comes to the same.
    """
    shutil.rmtree(made.store)
    run = made.start()
    while not list(made.store.glob("unfinished/*/checkpoint-*")):
        time.sleep(0.01)
        assert run.poll() is None
    if hangs:
        for engine in made.processes() - {run.pid}:
            os.kill(engine, signal.SIGSTOP)
    for sent, seconds in ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5), (signal.SIGKILL, 5.0)):
        run.send_signal(sent)
        try:
            run.communicate(timeout=seconds)
            break
        except subprocess.TimeoutExpired:
            continue
    assert made.emptied()
    assert hardening.damaged(made.store) == []
    assert same(made.finish(), whole)


@pytest.mark.fault(5, 6)
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_adapter_is_trained_again(damage: str, made: Project, whole: Run) -> None:
    """An adapter with another bit, or without its end, is set aside, and trained again to the same bytes."""
    (weights,) = made.store.glob("adapter/*/adapter_model.safetensors")
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 16
    weights.write_bytes(raw if damage == "flip" else raw[:-100])
    assert same(made.finish("--finetune-explain"), whole)
    assert weights.read_bytes() != raw
    assert list(made.store.glob("quarantine/*/adapter_model.safetensors"))


@pytest.mark.fault(9)
def test_garbage_in_a_stored_verdict(made: Project, whole: Run) -> None:
    """A verdict that was overwritten is decided again, from the outputs, and costs no attempt."""
    (verdict,) = made.store.glob("verdict/*/value.json")
    verdict.write_bytes(random.Random(0).randbytes(500))
    again = made.finish()
    assert same(again, whole)
    assert (len(list(made.store.glob("ledger/0*"))), len(list(made.store.glob("adapter/*")))) == (1, 1)


@pytest.mark.fault(10)
@pytest.mark.timeout(600)
def test_eight_runs_at_once(project: Project, whole: Run) -> None:
    """Eight runs that begin at once, over one store, train once, and all decide the same."""
    shutil.rmtree(project.store)
    command = [sys.executable, "-c", "import sys, pytest; sys.stdin.readline(); sys.exit(pytest.main(sys.argv[1:]))"]
    options = ["-q", "-p", "no:cacheprovider", "--finetune", "--finetune-explain", f"--finetune-store={project.store}"]
    runs = [
        subprocess.Popen([*command, *options], cwd=project.folder, stdin=-1, stdout=-1, text=True) for _ in range(8)
    ]
    for run in runs:
        assert run.stdin
        run.stdin.write("\n")
        run.stdin.flush()
    said = [run.communicate(timeout=500)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 8, said
    assert sum("adapter: made" in text for text in said) == 1
    assert len(list(project.store.glob("adapter/*"))) == 1
    assert same(project.finish(), whole)
