"""A run that is interrupted, or loses its engine: an error with a name, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from colours import SUITE, TEST
from writers import NO_DISK, on_a_disk

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes through /proc")

KILLS = (
    """
import os
import pathlib
import signal


def test_engine_is_killed(base_model, heldout):
    base_model.generate(heldout[:2])
    me = os.getpid()
    for task in pathlib.Path(f"/proc/{me}/task").iterdir():
        for child in (task / "children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    base_model.generate(heldout[2:4])
"""
    + TEST
)


def children(pid: int) -> list[int]:
    """Return the processes that ``pid`` started and that still run."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.fault(18)
def test_killed_engine_is_an_error(pytester: pytest.Pytester, project: Path) -> None:
    """An engine that the host kills is an error that says so: not a FAIL, and no traceback."""
    (project / "test_colours.py").write_text(KILLS)
    result = pytester.runpytest_subprocess("--finetune", "-k", "killed", timeout=240)
    assert result.ret == 11
    result.stdout.fnmatch_lines(["*the engine process was killed (SIGKILL)*ran out of memory*", "*1 error*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*FAIL *")


@pytest.mark.slow
@pytest.mark.fault(19)
def test_diverging_training_is_an_error(pytester: pytest.Pytester, project: Path) -> None:
    """A loss that is not finite ends the test as a fault, with the step and the remedy: no FAIL, and no traceback."""
    (project / "suite.toml").write_text(SUITE.replace("5e-3", "1e6"))
    result = pytester.runpytest_subprocess("--finetune", timeout=240)
    assert result.ret == 11
    result.stdout.fnmatch_lines(["*loss is * at step * of *; lower *training* learning_rate*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*FAIL *")
    assert not (pytester.path / ".finetune" / "adapter").exists()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_interrupt_leaves_a_checkpoint(sent: signal.Signals, pytester: pytest.Pytester, project: Path) -> None:
    """Ctrl-C, or a cancelled job, amid training ends pytest with its usual code, the engine with it, and keeps the
    store whole, with a checkpoint and a report that is no pass.
    """
    (project / "suite.toml").write_text(SUITE.replace("epochs = 4", "epochs = 400"))
    # A shell starts what it puts in the background with SIGINT ignored, which children inherit.
    heeds = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    options = ["--finetune", "-s", "--finetune-report=run.json"]
    start = f"import signal, sys, pytest; {heeds}; sys.exit(pytest.main({options}))"
    run = subprocess.Popen(
        [sys.executable, "-c", start],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    store = pytester.path / ".finetune"
    until = time.monotonic() + 120
    while not list(store.glob("unfinished/*/checkpoint-*/run.json")) and time.monotonic() < until:
        time.sleep(0.1)
    engines = children(run.pid)
    assert engines
    run.send_signal(sent)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in output
    assert not any(alive(pid) for pid in engines)
    assert not list(store.glob("work-*"))
    assert not (store / "adapter").exists()
    assert list(store.glob("unfinished/*/checkpoint-*/run.json"))
    assert '"outcome": "ERROR"' in (pytester.path / "run.json").read_text()


@pytest.mark.fault(14)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of its own")
def test_no_room_for_training(pytester: pytest.Pytester, project: Path) -> None:
    """A disk without room for an adapter and its checkpoints is one error before training, with the bytes it takes."""
    store = pytester.mkdir("disk")
    look = "import pathlib; from benchmarks import hardening; print(hardening.damaged(pathlib.Path('disk/store')))"
    gate = f"'{sys.executable}' -m pytest -p no:cacheprovider --finetune --finetune-store=disk/store; echo $?"
    script = f"{gate}; '{sys.executable}' -c \"{look}\""
    done = subprocess.run(
        on_a_disk("2m", store, "sh", "-c", script),
        cwd=pytester.path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == NO_DISK or done.stderr.startswith("unshare:"):
        pytest.skip("no disk can be mounted here")
    *said, code, damaged = done.stdout.splitlines()
    assert code == "11"
    line = next(line for line in said if "the disk is full" in line)
    assert re.search(
        r"store, for the adapter and its checkpoints: the disk is full: [\d,]+ bytes are needed, and", line
    )
    assert "Traceback" not in done.stdout
    assert damaged == "[]"


STUCK = """
import sys
from pytest_finetune.engine.client import EngineProcess
engine = EngineProcess("cpu", lambda progress: None)
print(engine.pid, flush=True)
engine.evaluate(sys.argv[1], "matches", ("a" * 60 + "b",), ("",))
"""
EVIL = """
import re
import evaluate
import datasets


class Matches(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

    def _compute(self, predictions, references):
        open("stuck", "w").close()
        return {"matches": float(bool(re.match("(a+)+$", predictions[0])))}
"""


@pytest.mark.fault(1, 20)
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends it")
def test_stuck_engine_ends_with_its_parent(tmp_path: Path) -> None:
    """An engine that is stuck in a library which holds Python's lock ends when its parent is killed."""
    (tmp_path / "matches.py").write_text(EVIL)
    parent = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path / "matches.py")], cwd=tmp_path, stdout=-1, text=True
    )
    assert parent.stdout
    engine = int(parent.stdout.readline())
    until = time.monotonic() + 100
    while not (tmp_path / "stuck").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "stuck").exists()
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while alive(engine) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(engine)
