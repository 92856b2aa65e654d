"""The peers that we race against, in an environment of their own, and child processes that are measured.

    python -m benchmarks.peers [--peers DIR]

makes the environment: TRL and lm-evaluation-harness over the very versions in constraints.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / ".finetune-peers"
TRL, LM_EVAL = "trl==1.16.0", "lm-eval==0.4.13"
PACKAGES = (TRL, LM_EVAL, "transformers", "peft", "datasets", "accelerate")
READY = "installed.txt"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "LMEVAL_LOG_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class Ran:
    """What a command took, its own children included, and what it printed."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str
    status: int


@dataclass(frozen=True)
class Racers:
    """The interpreters of both sides, and the threads that each may use."""

    peers: Path
    threads: int

    def side(self, name: str, job: Mapping[str, Any]) -> dict[str, Any]:
        """Run a job on one side of `benchmarks.sides` and return what it found."""
        ours = name == "ours"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "job.json")
            file.write_text(json.dumps(job))
            self.run([sys.executable if ours else str(self.python), "-m", f"benchmarks.sides.{name}", str(file)])
            found: dict[str, Any] = json.loads(file.read_text())
            return found

    def run(self, command: Sequence[str], cwd: Path = ROOT, expected: Sequence[int] = (0,)) -> Ran:
        """Run a command to its end, offline; what it printed is shown where its status is not expected."""
        env = {**os.environ, **OFFLINE, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        env |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(self.peers / "huggingface")}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # a container's habit, which has every run compile again
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            started = time.perf_counter()
            child = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(child.pid, 0)  # the resources of this child, and of those it waited for
            wall = time.perf_counter() - started
            child.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            output = log.read()
        if child.returncode not in expected:
            sys.exit(f"{output[-4000:]}\nstatus {child.returncode}: {' '.join(command)}")
        return Ran(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output, child.returncode)

    @property
    def python(self) -> Path:
        """The peers' interpreter."""
        return self.peers / "bin" / "python"


def install(folder: Path) -> None:
    """Make the peers' environment, unless it stands there already."""
    wanted = "\n".join(PACKAGES)
    ready = folder / READY
    if ready.is_file() and ready.read_text() == wanted:
        return
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    # torch first and by itself, as the Makefile does: a later package must find it satisfied.
    for packages in (("torch==2.13.0",), PACKAGES):
        subprocess.run([*pip, *packages], check=True)
    ready.write_text(wanted)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every race takes."""
    parser.add_argument("--peers", type=Path, default=DEFAULT, help="the peers' environment, made where absent")
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77's train.csv and test.csv")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side, in alternation")


def racers(options: argparse.Namespace) -> Racers:
    """Return both sides, ready to run."""
    install(options.peers)
    return Racers(options.peers.absolute(), options.threads)


def main() -> None:
    """Make the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=DEFAULT)
    install(parser.parse_args().peers)


if __name__ == "__main__":
    main()
