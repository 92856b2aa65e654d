"""Running one cell: `pytest --finetune` in a process of its own, which trains and measures, and judges nothing."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune import evidence, suite
from pytest_finetune.cells import result
from pytest_finetune.cells.cell import Cell, check_current
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.report import run_json

KEPT = (0, 1, 10)  # exit codes of a run that came to something; a fault of the machinery leaves no result
FINE = ("PASS", "SKIPPED")
PLANNED = {f"--finetune-{name}" for name in ("method", "seed", "seeds", "engine", "measure", "adapter")}


@dataclass(frozen=True, slots=True)
class Places:
    """Where a cell is run.

    Args:
        project: the project's folder.
        store: what is reused, and kept, between cells.
        results: where results go.
        more: further options of pytest.
    """

    project: Path
    store: Path
    results: Path
    more: Sequence[str] = ()


def run(
    cell: Cell,
    places: Places,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
    begun: Callable[["subprocess.Popen[str]"], None] = lambda process: None,
) -> result.Result:
    """Run a cell, unless its result is there.

    Args:
        cell: which.
        places: where.
        environment: variables beside this process's.
        say: told what the run printed.
        begun: told of the process that runs it.

    Raises:
        SuiteError: the cell was planned for something else than stands here.
        EngineError: it broke, and left no result.
    """
    if made := result.found(places.results, cell):
        return made
    if others := [given for given in places.more if given.partition("=")[0] in PLANNED]:
        raise SuiteError(f"cell {cell.title}: {others[0]} is the plan's to say; plan cells with it")
    check_current([cell], places.project)
    try:
        places.results.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{cell.result}-", dir=places.results))
    except OSError as error:
        raise EngineError(f"--results={places.results}: {error.strerror or error}; name a folder to write to") from None
    started = time.monotonic()
    try:
        command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "--finetune", *cell.arguments()]
        command += [
            f"--finetune-store={places.store}",
            f"--finetune-evidence={work.resolve()}",
            *places.more,
            cell.path,
        ]
        with subprocess.Popen(
            command,
            cwd=places.project,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as done:
            begun(done)
            printed, _ = done.communicate()
        say(printed)
        if done.returncode not in KEPT or not (work / evidence.NOTE).is_file():
            raise EngineError(f"cell {cell.title}: ended with exit code {done.returncode}: {_why(printed)}")
        result.check_made(cell, evidence.read(work))
        tests = run_json.read(work / evidence.RUN).tests
        if all(test.outcome == "SKIPPED" and not test.message for test in tests if not test.file.endswith(suite.FILE)):
            raise EngineError(f"cell {cell.title}: all its tests were skipped here; run it where they are not")
        told = [test.message for test in tests if test.outcome not in FINE]
        problem = " ".join(told[0].split())[:300] if told else ""
        made = result.Result(cell, round(time.monotonic() - started, 3), problem)
        result.write(work, made)
        result.publish(work, places.results, cell)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made


def _why(printed: str) -> str:
    """Return what a run said of its end: its first error, or its last words."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR", "E "))]
    return (told or lines or ["no message"])[-1][:300]
