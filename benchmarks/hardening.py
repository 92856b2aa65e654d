"""Kills, flipped bits and a soak: what becomes of the store, of the verdict, and of the machine.

    python -m benchmarks.hardening kills [--count 100] [--seed 0]
    python -m benchmarks.hardening flips [--count 10000] [--seed 0]
    python -m benchmarks.hardening soak [--count 200] [--seed 0]

`kills` runs the gate on the embedded model with an empty store, kills -9 the pytest process, its engine or both at a
random moment, and runs it again. `flips` flips one bit at a time in a store that holds all that stores hold, and asks
for what the bit belongs to. `soak` runs the gate over and over, half of the runs killed, and looks at what stays.
Each prints a table, and ends with 1 where one promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import scale
from pytest_finetune.errors import EngineError
from pytest_finetune.ledger import FOLDER as LEDGER
from pytest_finetune.ledger import Ledger
from pytest_finetune.report import run_json
from pytest_finetune.store import Store
from pytest_finetune.unfinished import FOLDER as UNFINISHED

STORE, REPORT, TEMPORARY = ".finetune", "run.json", "tmp"
NO_ENTRIES = {LEDGER, UNFINISHED, "notes", "locks", "quarantine"}
VICTIMS = ("pytest", "engine", "both")
TRAIN, HELDOUT = 180, 100  # rows; what is learned of them passes
SEEDS = 4  # of a soak's adapters
IN_ONE_PROCESS = 20
OF_TORCH = "torchinductor_"  # its cache, one folder a user


@dataclass(frozen=True)
class Run:
    """How a run ended: its exit code, what was decided, and the digest of what was judged."""

    code: int
    decided: tuple[tuple[object, ...], ...]
    adapter: str
    seconds: float


class Project:
    """A small suite in a folder of its own, gated in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / STORE
        scale.write_suite(folder / "suite", 0, train=TRAIN, heldout=HELDOUT)
        (folder / TEMPORARY).mkdir()

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start a run."""
        (self.folder / REPORT).unlink(missing_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *self.options, *options],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.folder / TEMPORARY), "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def options(self) -> list[str]:
        """What every run is given."""
        return [
            "-p",
            "no:randomly",
            "-p",
            "no:rerunfailures",  # which leaves a socket a run, of a process that has many
            "--finetune",
            f"--finetune-store={self.store}",
            f"--finetune-report={self.folder / REPORT}",
        ]

    def finish(self, *options: str) -> Run:
        """Run to the end.

        Raises:
            SystemExit: it makes no report.
        """
        started = time.perf_counter()
        process = self.start(*options)
        said, _ = process.communicate()
        if not (self.folder / REPORT).is_file():
            raise SystemExit(said[-3000:])
        (record,) = run_json.read(self.folder / REPORT).suites
        decided = [(v.outcome, c.name, c.estimate, c.low, c.n) for v in record.verdicts for c in v.claims]
        adapter = record.adapter.digest if record.adapter else ""
        return Run(process.returncode, tuple(decided), adapter, time.perf_counter() - started)

    def kill(self, process: subprocess.Popen[str], seconds: float, victim: str) -> bool:
        """Kill -9 a run after so many seconds; return whether it had not ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=seconds)
            return False
        chosen = {pid for pid in self.processes() if pid != process.pid} if victim != "pytest" else set()
        for pid in (*chosen, *([process.pid] if victim != "engine" or not chosen else [])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
        return True

    def processes(self) -> set[int]:
        """Return all processes that work in the folder, whoever started them."""
        found = set()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (place / "cwd").readlink().is_relative_to(self.folder) and _lives(place):
                    found.add(int(place.name))
        return found

    def emptied(self, seconds: float = 5.0) -> bool:
        """Whether no process is left; those whose parent was killed may take a moment to see it."""
        until = time.monotonic() + seconds
        while self.processes() and time.monotonic() < until:
            time.sleep(0.05)
        return not self.processes()


def damaged(root: Path) -> list[str]:
    """Return all entries of a store that are not whole, and its ledger where it cannot be read."""
    store = Store(root)
    bad = [f"{stage}/{key}" for stage, key in entries(root) if not store.has(stage, key)]
    with contextlib.suppress(EngineError):
        Ledger(root).entries()
        return bad
    return [*bad, LEDGER]


def _lives(place: Path) -> bool:
    return (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"


def entries(root: Path) -> Iterator[tuple[str, str]]:
    """Yield stage and key of all entries that a store shows, whole or not."""
    for place in root.glob("*/*"):
        if place.is_dir() and place.parent.name not in NO_ENTRIES and not place.parent.name.startswith("work-"):
            yield place.parent.name, place.name


def kills(folder: Path, count: int, seed: int) -> Iterator[str]:
    """Kill a run at so many random moments; yield a table of what the next run did.

    Raises:
        SystemExit: a next run decided otherwise, shipped another adapter, or found a damaged entry.
    """
    draw, project = random.Random(seed), Project(folder)
    whole = project.finish()
    seen: Counter[tuple[str, str]] = Counter()
    broken, lasts = [], whole.seconds
    for number in range(count):
        shutil.rmtree(project.store)
        victim = VICTIMS[number % len(VICTIMS)]
        amid = project.kill(project.start(), draw.uniform(0.0, lasts), victim)
        found = {stage for stage, _ in entries(project.store)}
        found |= {UNFINISHED} if list(project.store.glob(f"{UNFINISHED}/*/checkpoint-*")) else set()
        reached = next((name for name in ("verdict", "adapter", UNFINISHED, "probe") if name in found), "before")
        bad, gone = damaged(project.store), project.emptied()
        again = project.finish()
        if reached == "before":  # it did all of it, and machines are not always as fast
            lasts = again.seconds
        left = [*project.store.glob("work-*"), *project.store.glob(f"{UNFINISHED}/*")]
        same = (again.code, again.decided, again.adapter) == (whole.code, whole.decided, whole.adapter)
        if bad or left or not (gone and same):
            broken.append(f"kill {number}: damaged {bad}, left {left}, processes gone {gone}, the same {same}")
        seen[victim, reached if amid else "ended before"] += 1
    yield "| killed | the store then held | runs |"
    yield "| --- | --- | ---: |"
    names = {"before": "no checkpoint yet", UNFINISHED: "a checkpoint", "adapter": "the adapter"}
    for (victim, reached), runs in sorted(seen.items()):
        yield f"| {victim} | {names.get(reached, reached)} | {runs} |"
    yield ""
    yield (
        f"{count - len(broken)} of {count} next runs ended with the uninterrupted run's verdict and adapter "
        f"(`{whole.adapter[:12]}`), with every entry whole and nothing left behind."
    )
    yield from _verdict(broken)


def flips(folder: Path, count: int, seed: int) -> Iterator[str]:
    """Flip so many bits, one at a time, in a store; yield a table of how many of them showed.

    Raises:
        SystemExit: one did not.
    """
    from pytest_finetune.engine import checkpoints

    draw, project = random.Random(seed), Project(folder)
    project.finish()
    process = project.start("--finetune-seed=1")  # which is to leave checkpoints
    while not list(project.store.glob(f"{UNFINISHED}/*/checkpoint-*/{checkpoints.NOTE}")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    project.emptied()

    def shows(file: Path) -> bool:
        parts = file.relative_to(project.store).parts
        if parts[0] == LEDGER:
            with contextlib.suppress(EngineError):
                Ledger(project.store).entries()
                return False
            return True
        if parts[0] == "notes":
            return Store(project.store).noted(file.stem) is None
        if parts[0] == UNFINISHED:
            return not checkpoints.is_whole(Path(project.store, *parts[:3]))
        return not Store(project.store).has(parts[0], parts[1])

    # What is no data of the store: empty locks, what was set aside, half a checkpoint, two files for other programs.
    files: dict[str, list[Path]] = {}
    for file in sorted(path for path in project.store.rglob("*") if path.is_file() and path.stat().st_size):
        parts = file.relative_to(project.store).parts
        half = parts[0] == UNFINISHED and not checkpoints.is_whole(Path(project.store, *parts[:3]))
        if len(parts) > 1 and parts[0] not in ("locks", "quarantine") and not half:
            files.setdefault(parts[0], []).append(file)
    missed, drawn = [], Counter[str]()
    for _ in range(count):
        kind = draw.choice(sorted(files))
        file = draw.choice(files[kind])
        with file.open("r+b") as stream:
            at, bit = draw.randrange(file.stat().st_size), 1 << draw.randrange(8)
            before = os.pread(stream.fileno(), 1, at)
            os.pwrite(stream.fileno(), bytes([before[0] ^ bit]), at)
            if not shows(file):
                missed.append(f"{file}: bit {bit} of byte {at}")
            os.pwrite(stream.fileno(), before, at)
        drawn[kind] += 1
    yield "| in | files | flips | found |"
    yield "| --- | ---: | ---: | ---: |"
    for kind, flipped in sorted(drawn.items()):
        unseen = sum(f"/{kind}/" in miss for miss in missed)
        yield f"| {kind} | {len(files[kind])} | {flipped:,} | {flipped - unseen:,} |"
    yield ""
    yield f"{count - len(missed):,} of {count:,} flipped bits were found, and nothing that held one was served."
    yield from _verdict(missed)


def soak(folder: Path, count: int, seed: int) -> Iterator[str]:
    """Run so often, half of the runs killed, over a few seeds; yield what stays of it.

    Raises:
        SystemExit: a process, a temporary file or a handle stays, the store grows, or a verdict differs.
    """
    draw, project = random.Random(seed), Project(folder)
    first = [project.finish(f"--finetune-seed={number}") for number in range(SEEDS)]
    size, broken, killed, peak = _size(project.store), [], 0, 0
    lasts = min(run.seconds for run in first)
    for number in range(count):
        which, kills = draw.randrange(SEEDS), number % 2 == 1
        trains = kills or number % 4 == 2
        options = (f"--finetune-seed={which}", *(["--finetune-retrain"] if trains else []))
        if kills:
            killed += project.kill(project.start(*options), draw.uniform(0.0, lasts), draw.choice(VICTIMS))
        else:
            run, whole = project.finish(*options), first[which]
            lasts = min(lasts, run.seconds) if trains else lasts  # machines are not always as fast
            if (run.code, run.decided, run.adapter) != (whole.code, whole.decided, whole.adapter):
                broken.append(f"run {number}: {run} in place of {whole}")
        if not project.emptied():
            broken.append(f"run {number}: processes {project.processes()} stay")
        if bad := damaged(project.store):
            broken.append(f"run {number}: damaged {bad}")
        peak = max(peak, _size(project.store))
    for number in range(SEEDS):  # what the last kill left is taken up, or cleared
        project.finish(f"--finetune-seed={number}", "--finetune-retrain")
    end = _size(project.store)
    left = [*project.store.glob("work-*"), *project.store.glob(f"{UNFINISHED}/*"), *project.store.glob("ledger/half-*")]
    temporary = [path for path in (folder / TEMPORARY).iterdir() if not path.name.startswith(OF_TORCH)]
    before, after = _handles(project)
    if left or temporary or after > before or end > 2 * size:
        broken.append(f"left {left}, temporary {temporary}, handles {before} and {after}, {size} and {end} bytes")
    yield "| what | before | after |"
    yield "| --- | ---: | ---: |"
    yield f"| bytes of the store: {SEEDS} adapters, then {count} runs | {size:,} | {end:,}, {peak:,} at most |"
    yield f"| runs that were killed | | {killed} |"
    yield f"| half-made folders, temporary files | 0 | {len(left) + len(temporary)} |"
    yield f"| open handles of one process, after a run and {IN_ONE_PROCESS} more | {before} | {after} |"
    yield f"| processes that a run left | 0 | {sum('stay' in line for line in broken)} |"
    yield ""
    yield from _verdict(broken)


def _size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def _handles(project: Project) -> tuple[int, int]:
    """Return how many handles one process has open after its first run, and after more."""
    code = f"""
import contextlib, io, os, sys, pytest
counts = []
for _ in range({1 + IN_ONE_PROCESS}):
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]])
    counts.append(len(os.listdir("/proc/self/fd")))
print(counts[0], counts[-1])
"""
    said = subprocess.check_output([sys.executable, "-c", code, *project.options], cwd=project.folder, text=True)
    before, after = said.split()[-2:]
    return int(before), int(after)


def _verdict(broken: list[str]) -> Iterator[str]:
    if broken:
        yield from broken
        raise SystemExit(1)


def main() -> None:
    """Run one of the three, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"kills": (kills, 100), "flips": (flips, 10_000), "soak": (soak, 200)}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    part, count = parts[given.part]
    with tempfile.TemporaryDirectory() as folder:
        for line in part(Path(folder).resolve(), given.count or count, given.seed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
