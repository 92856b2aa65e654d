"""Training in several processes: what one process comes to, and every way that a launch can end."""

import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from colours import claims

from pytest_finetune import digest
from pytest_finetune.engine import checkpoints
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.protocol import Progress
from pytest_finetune.records import Adapter, Conversation, Message, Model, Training, TrainingCurve, TrainSpec

TWO = "torchrun --nproc-per-node 2"
MODEL = Model("embedded", "", str(digest.PACKAGE / "embedded"))
# Between torchrun and what it is to run: sees the base model in each rank, or kills one of them.
BETWEEN = """
import json, os, pathlib, runpy, signal, sys
import {module}

_was = {module}.{name}

def seen(*args, **kwargs):
    {does}
    return _was(*args, **kwargs)

{module}.{name} = seen
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
SEES = """
    from torch.distributed.tensor import DTensor
    said = [[isinstance(w, DTensor), w.numel(), w.to_local().numel()] for w in args[0].parameters()]
    pathlib.Path(__file__).with_name("rank" + os.environ["RANK"]).write_text(json.dumps(said))
"""
ORDER = """
    pathlib.Path(__file__).with_name("rank" + os.environ["RANK"]).write_text(json.dumps(args[0].alike.order))
"""
NAMED = """
    pathlib.Path(__file__).with_name("rank" + os.environ["RANK"]).write_text(str(os.getpid()))
"""
DIES = """
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
"""
SHORT = """
    import torch
    if os.environ["RANK"] == "1" and args[1] > 1:
        raise torch.OutOfMemoryError("as a GPU would say")
"""


def spec(**settings: object) -> TrainSpec:
    """Return a run whose rows two processes cannot share evenly, neither in the last step nor on dev."""
    rows = tuple(Conversation((Message("user", f"say {i}"),), f"{'ox'[i % 2]} {i % 7}") for i in range(22))
    training = replace(Training(epochs=2, batch_size=4, seed=3), **settings)  # type: ignore[arg-type]
    return TrainSpec(MODEL, training, tuple(replace(row, weight=1 + i % 3) for i, row in enumerate(rows)), rows[:9])


def train(
    spec: TrainSpec, folder: Path, launcher: str = "", report: Callable[[Progress], None] = lambda progress: None
) -> TrainingCurve:
    """Train in an engine of its own, with checkpoints in the folder ``kept`` beside that of what ships."""
    folder.mkdir(exist_ok=True)
    with contextlib.closing(EngineProcess("cpu", report, launcher=launcher)) as engine:
        return engine.train(spec, str(folder), str(folder.with_name("kept")))


@functools.cache
def whole(method: str) -> TrainingCurve:
    """Return the curve of one process."""
    with tempfile.TemporaryDirectory() as folder:
        return train(spec(method=method), Path(folder, "made"))


def between(folder: Path, does: str, name: str = "prepare") -> str:
    """Return a launcher that does something in each rank before a function of training."""
    script = folder / "between.py"
    script.write_text(BETWEEN.format(module="pytest_finetune.engine.train", name=name, does=does.strip()))
    return f"{TWO} {script}"


def alike(one: TrainingCurve, other: TrainingCurve) -> bool:
    """Whether two runs went alike, but for the order of sums."""
    for points, others in (
        (one.dev_loss_nats, other.dev_loss_nats),
        (one.train_loss_nats, other.train_loss_nats),
    ):
        print(points, others)
        assert [step for step, _ in points] == [step for step, _ in others]
        assert [loss for _, loss in points] == pytest.approx([loss for _, loss in others], rel=1e-4)
    return (one.steps, one.best_step, one.trainable_parameters) == (
        other.steps,
        other.best_step,
        other.trainable_parameters,
    )


@pytest.mark.slow
def test_sharded_training_is_that_of_one_process(tmp_path: Path) -> None:
    """With the base model sharded over two processes losses are one process's, and the adapter that ships works."""
    said: list[Progress] = []
    curve = train(spec(), tmp_path / "made", between(tmp_path, SEES), said.append)
    assert alike(curve, whole("lora"))
    for rank in "01":
        seen = json.loads((tmp_path / f"rank{rank}").read_text())
        assert len(seen) > 50
        assert all(sharded and 2 * local == size for sharded, size, local in seen)
    assert [p.done for p in said if "dev" in p.note] == [step for step, _ in curve.dev_loss_nats]
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert not (tmp_path / "kept").exists()
    train(spec(), tmp_path / "one")
    asked = ((Message("user", "say 3"),),)
    adapters = (Adapter(str(tmp_path / "made"), "made", "lora"), Adapter(str(tmp_path / "one"), "one", "lora"), None)
    with contextlib.closing(EngineProcess("cpu", lambda progress: None)) as engine:
        scores = [engine.score(MODEL, adapter, asked, ("x 3", "o 3", "x 4"))[0] for adapter in adapters]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    assert scores[0] != pytest.approx(scores[2], rel=1e-2)


@pytest.mark.slow
def test_copied_training_is_that_of_one_process(tmp_path: Path) -> None:
    """A method that needs the base model whole on every rank comes to the same losses, too."""
    curve = train(spec(method="soft_prompt"), tmp_path / "made", TWO)
    assert alike(curve, whole("soft_prompt"))


@pytest.mark.slow
def test_nodes_that_meet(tmp_path: Path) -> None:
    """Two launchers that meet as those of two nodes do train together; any command may start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"--rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{free.getsockname()[1]} --rdzv-id here"
    node = f'torchrun --nnodes 2 --nproc-per-node 1 {meeting} "$@"'
    both = tmp_path / "both.sh"
    both.write_text(f"{node} &\n{node} && wait $!\n")
    assert alike(train(spec(), tmp_path / "made", f"sh {both}"), whole("lora"))


@pytest.mark.slow
def test_ranks_agree_on_the_order(tmp_path: Path) -> None:
    """Each row is trained on once an epoch, also where the ranks' dropout has drawn different numbers before."""
    curve = train(spec(dropout=0.1), tmp_path / "made", between(tmp_path, ORDER, "_Curve.on_save"))
    one, other = (json.loads((tmp_path / f"rank{rank}").read_text()) for rank in "01")
    assert sorted(one) == list(range(22))
    assert one == other
    assert curve.dev_loss_nats[-1][1] < curve.dev_loss_nats[0][1]


@pytest.mark.slow
@pytest.mark.fault(16)
def test_short_memory_in_one_process(tmp_path: Path) -> None:
    """Where one rank lacks memory all of them start anew with fewer rows at once, and the same effective batch."""
    curve = train(spec(), tmp_path / "made", between(tmp_path, SHORT, "_train"))
    assert alike(curve, whole("lora"))


@pytest.mark.slow
def test_stopped_processes_go_on(tmp_path: Path) -> None:
    """A stop reaches all ranks at the same step; they go on from there, and one process starts afresh there."""

    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done >= 4:
            raise Stopped

    with pytest.raises(Stopped):
        train(spec(), tmp_path / "made", TWO, stop)
    kept = list((tmp_path / "kept").glob("checkpoint-*/run.json"))
    assert all(checkpoints.note(note.parent)["ranks"] == 2 for note in kept)
    assert kept
    shutil.copytree(tmp_path / "kept", tmp_path / "alone" / "kept")
    for folder, launcher, goes_on in ((tmp_path / "made", TWO, True), (tmp_path / "alone" / "made", "", False)):
        said: list[Progress] = []
        assert alike(train(spec(), folder, launcher, said.append), whole("lora"))
        assert (min(progress.done for progress in said if progress.stage == "train") > 1) == goes_on


@pytest.mark.slow
def test_launch_that_comes_to_less(tmp_path: Path) -> None:
    """Accelerate starts one process for two on a CPU, and says nothing: that is an error in one line."""
    with pytest.raises(SuiteError, match=r"launcher='accelerate .*: it was to start 2 processes, and 1 came together"):
        train(spec(), tmp_path / "made", "accelerate launch --cpu --num_processes 2")


@pytest.mark.slow
def test_killed_rank_is_one_line(tmp_path: Path) -> None:
    """A rank that is killed ends the others, and the run says what most likely happened."""
    with pytest.raises(EngineError, match=r"a process of --finetune-launcher='torchrun .* was killed \(SIGKILL\)"):
        train(spec(), tmp_path / "made", between(tmp_path, DIES))
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.slow
def test_engine_that_dies_leaves_nobody(tmp_path: Path) -> None:
    """Where the engine is killed, its ranks end too, though a launcher gave them sessions of their own."""
    ranks: list[int] = []

    def kill(progress: Progress) -> None:
        if not ranks:
            ranks.extend(os.pidfd_open(int((tmp_path / f"rank{rank}").read_text())) for rank in "01")
            os.kill(engine._child.pid, signal.SIGKILL)

    (tmp_path / "made").mkdir()
    engine = EngineProcess("cpu", kill, launcher=between(tmp_path, NAMED))
    with contextlib.closing(engine), pytest.raises(EngineError, match="the engine process was killed"):
        engine.train(spec(epochs=500), str(tmp_path / "made"))  # which they would train for minutes
    for rank in ranks:
        assert select.select([rank], [], [], 60)[0]  # which is when it has ended
        os.close(rank)
    assert len(ranks) == 2


@pytest.mark.slow
def test_any_command_launches(tmp_path: Path) -> None:
    """Python itself is a launcher, of one process; a mistake found there comes back as what it is."""
    with pytest.raises(SuiteError, match=r"training row 'say 0' has \d+ tokens, more than max_tokens = 4"):
        train(spec(max_tokens=4), tmp_path / "made", sys.executable)
    with pytest.raises(EngineError, match=r"launcher='cat /no-such' ended with status 1: "):
        train(spec(), tmp_path / "made", "cat /no-such")


@pytest.mark.slow
def test_gate_over_two_processes(project: Path, pytester: pytest.Pytester) -> None:
    """A run with a launcher ends as one without."""
    ends = []
    for name, options in (("one", []), ("two", [f"--finetune-launcher={TWO}"])):
        report = pytester.path / f"{name}.json"
        result = pytester.runpytest_subprocess(
            "--finetune", f"--finetune-store={name}", f"--finetune-report={report}", *options, str(project)
        )
        assert not result.ret
        ends.append(claims(report))
    assert ends[0] == ends[1]
