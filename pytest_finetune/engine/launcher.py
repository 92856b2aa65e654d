"""The launcher of a training run: the user's command, such as ``torchrun``, that starts a process a GPU."""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_finetune import errors
from pytest_finetune.engine import checkpoints, ranks
from pytest_finetune.protocol import OnProgress, Progress
from pytest_finetune.records import TrainingCurve, TrainSpec, from_plain, to_plain

# What launchers call the processes they start: a node each, or all of them together.
A_NODE = ("--nproc-per-node", "--nproc_per_node")
NODES = ("--nnodes",)
IN_ALL = ("--num_processes", "--num-processes")
TASKS = ("-n", "--ntasks", "-np")
STARTS_TASKS = ("srun", "mpirun", "mpiexec")
CONFIG = ("--config_file", "--config-file")  # accelerate's, in YAML
POLL_SECONDS = 0.2
ERROR = re.compile(r"(?:\[rank\d+\]: ?)?((?:[\w.]+\.)?\w*(?:Error|Exception): .*)")


@dataclass(frozen=True, slots=True)
class Job:
    """What every rank is told; files of it lie beside its own, where all nodes must see them.

    ``processes`` is how many the launcher was told to start, 0 where it does not say; ``micro`` see ``train``.
    """

    spec: TrainSpec
    folder: str
    kept: str
    device: str
    launcher: str
    processes: int = 0
    micro: int = 0


def asked(launcher: str) -> int:
    """Return how many processes a launcher is told to start, 0 where neither command nor config say it in numbers."""
    words = [part for word in shlex.split(launcher) for part in word.split("=", 1)]

    def given(names: Sequence[str]) -> str:
        return next((value for name, value in itertools.pairwise(words) if name in names), "")

    def number(said: str) -> int:
        return int(said) if said.isdigit() else 0  # "gpu" and "1:4" say nothing

    if on_a_node := given(A_NODE):
        return number(on_a_node) * number(given(NODES) or "1")
    if in_all := given(IN_ALL):
        return number(in_all)
    if config := given(CONFIG):
        return _configured(Path(config))
    return number(given(TASKS)) if Path(words[0]).name in STARTS_TASKS else 0


def _configured(config: Path) -> int:
    import yaml  # as accelerate does

    try:
        return int(yaml.safe_load(config.read_text(encoding="utf-8"))["num_processes"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # accelerate says what is wrong
        return 0


def launch(job: Job, report: OnProgress) -> TrainingCurve:
    """Train in the processes that the launcher starts.

    Args:
        job: all but ``processes`` and ``micro``, which are found out.
        report: told how far the first rank has come.

    Raises:
        FinetuneError: as a rank said, or as the launcher's last words say.
        SystemExit: SIGTERM asked for a stop; a checkpoint is written.
    """
    job = replace(job, processes=asked(job.launcher))
    if job.processes:
        ranks.share(job.spec.training.batch_size, job.processes)  # before seconds of imports
    while True:
        with tempfile.TemporaryDirectory(prefix="launched-", dir=job.folder, ignore_cleanup_errors=True) as own:
            curve = _launched(job, Path(own), report)
        if isinstance(curve, TrainingCurve):
            return curve
        shutil.rmtree(job.kept, ignore_errors=True)  # of another number of rows at once
        job = replace(job, micro=curve)


def _launched(job: Job, own: Path, report: OnProgress) -> TrainingCurve | int:
    """Return what was trained, or how many rows at once are to be tried next, since memory was short."""
    (own / "job.json").write_text(json.dumps(to_plain(job)), encoding="utf-8")
    told = 0
    with (own / "log").open("wb") as log, checkpoints.stopping() as stopped:
        # In this process's own group, which is killed as a whole when the run is; the ranks may be in others,
        # and end when their stdin does.
        child = subprocess.Popen(
            [*shlex.split(job.launcher), "-m", "pytest_finetune.engine.launched", str(own / "job.json")],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                # What stands beside this Python first: the ranks must import what this process does.
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
                "PYTHONSAFEPATH": "1",  # as -P: a script of the user's called evaluate.py is no module of theirs
            },
        )
        asked_to_stop = False
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_SECONDS)
                if stopped() and not asked_to_stop:
                    asked_to_stop = True
                    child.send_signal(signal.SIGTERM)  # launchers pass it on
                ended = child.returncode is not None
                told = _relay(own / "progress", told, report)
                if ended:
                    break
        finally:
            child.kill()
            child.communicate()
    if asked_to_stop:
        raise SystemExit(128 + signal.SIGTERM)
    if child.returncode == 0 and (own / "curve.json").is_file():
        return from_plain(TrainingCurve, json.loads((own / "curve.json").read_text(encoding="utf-8")))
    notes: list[dict[str, Any]] = [json.loads(note.read_text(encoding="utf-8")) for note in own.glob("fault-*.json")]
    if not notes:
        raise _unsaid(job, child.returncode, (own / "log").read_text(encoding="utf-8", errors="replace"))
    fault = min(notes, key=lambda note: (not note["known"], note["seconds"]))  # the others lost a peer
    if fault["micro"]:
        return int(fault["micro"])
    raise getattr(errors, fault["kind"], errors.EngineError)(fault["message"])


def _relay(file: Path, told: int, report: OnProgress) -> int:
    """Report what the first rank wrote since the last time; return how much was told in all."""
    if not file.is_file():
        return told
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # the last is not whole yet, or empty
    for line in lines[told:]:
        report(from_plain(Progress, json.loads(line)))
    return len(lines)


def _unsaid(job: Job, status: int, log: str) -> errors.EngineError:
    """Return the fault of ranks that could not say it themselves."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("SIGKILL" in line for line in lines) or status == -signal.SIGKILL:
        return errors.EngineError(
            f"a process of --finetune-launcher={job.launcher!r} was killed (SIGKILL); most likely its machine ran "
            "out of memory. Launch more processes, or take a smaller model, batch_size or max_tokens."
        )
    words = next((match[1] for line in lines if (match := ERROR.match(line))), lines[-1] if lines else "no message")
    first = errors.one_line(words)
    return errors.EngineError(f"--finetune-launcher={job.launcher!r} ended with status {status}: {first}")
