"""Cells: the parts of a gate that ran on other machines, one a suite, and the one verdict over all of them."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import pytest_finetune
from pytest_finetune import evidence, policy, suite
from pytest_finetune.errors import SuiteError
from pytest_finetune.outcomes import worst
from pytest_finetune.records import PolicyChange, RunOutcome, RunRecord, TestRecord
from pytest_finetune.report import run_json
from pytest_finetune.session import FinetuneSession

NAME = r"\w[\w.-]*"  # of a suite whose evidence has a folder


@dataclass(frozen=True, slots=True)
class Cell:
    """One suite that a plan asked for; ``path`` is its folder, relative to the project."""

    suite: str
    path: str


def planned(matrix: Path) -> tuple[Cell, ...]:
    """Read the cells that `--finetune-matrix` wrote.

    Raises:
        SuiteError: the file is missing, or no matrix.
    """
    try:
        raw = json.loads(matrix.read_text(encoding="utf-8"))
        cells = tuple(Cell(str(entry["suite"]), str(entry["path"])) for entry in raw["include"])
    except OSError as error:
        raise SuiteError(f"--matrix={matrix}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SuiteError(f"--matrix={matrix}: no matrix; write one with --finetune-plan --finetune-matrix") from error
    for (
        cell
    ) in cells:  # whoever wrote them ran the code that is judged: a name is no way out of a folder, nor an option
        if not re.fullmatch(NAME, cell.suite) or cell.path.startswith("-"):
            raise SuiteError(f"--matrix={matrix}: {cell.suite!r} in {cell.path!r} is no cell that a plan would write")
    return cells


def forgotten(cells: Sequence[Cell], folder: Path) -> tuple[Cell, ...]:
    """Return the suites in a folder that no cell is of.

    Raises:
        SuiteError: there is no such folder.
    """
    if not folder.exists():
        raise SuiteError(f"--suites={folder}: no such file or folder")
    known = {Path(cell.path).resolve() for cell in cells}
    found = (file.parent for file in suite.below(folder) if file.parent.resolve() not in known)
    return tuple(Cell(place.absolute().name, os.path.relpath(place)) for place in found)


def write(matrix: Path, session: FinetuneSession) -> None:
    """Write a cell for every suite of a run, also of those that this machine cannot run, as a job matrix.

    Raises:
        pytest.UsageError: two suites have one name, which their evidence is called by; a name that no folder can have.
    """
    cells: dict[str, str] = {}
    for pipeline in session.pipelines.values():
        spec = pipeline.spec
        if spec.name in cells or not re.fullmatch(NAME, spec.name):
            problem = "is another suite's, too" if spec.name in cells else "must be of letters, digits, _, . and -"
            raise pytest.UsageError(
                f"{spec.file}: name = {spec.name!r} {problem}: evidence is kept in folders so called"
            )
        cells[spec.name] = Path(os.path.relpath(spec.folder, session.config.rootpath)).as_posix()
    include = [{"suite": name, "path": path} for name, path in cells.items()]
    try:
        matrix.write_text(json.dumps({"include": include}) + "\n", encoding="utf-8")
    except OSError as error:
        raise pytest.UsageError(f"--finetune-matrix={matrix}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Bar:
    """What differs from the base branch in what must be proven, and whether somebody accepted that."""

    changes: tuple[PolicyChange, ...] = ()
    accepted: bool = False

    @property
    def lowered(self) -> bool:
        """Whether less must be proven, and nobody accepted it."""
        return not self.accepted and any(change.lowers for change in self.changes)


def bar(cells: Sequence[Cell], ref: str, accepted: bool) -> Bar:
    """Compare the suites of cells, and those below the working folder that are gone, with a commit; runs no code of it.

    Raises:
        SuiteError: they cannot be compared.
    """
    files = [Path(cell.path, suite.FILE).absolute() for cell in cells]
    return Bar(policy.changes(Path.cwd(), files, ref), accepted)


def judged(cells: Sequence[Cell], folder: Path, held: Bar, forgotten: Sequence[Cell] = ()) -> RunRecord:
    """Judge every cell anew from its evidence, and return all as one run.

    A test is as bad as the worse of what the cell and this machine found, so that nobody's word makes a pass: not
    the cell's, and not that of this machine where it could not look. A cell that is lost, was skipped or cannot be
    judged is an ERROR.

    Args:
        cells: what the plan asked for.
        folder: holds the evidence of each, in a folder called as its suite.
        held: what must be proven, beside that of the base branch.
        forgotten: suites that the plan should have asked for.
    """
    started = datetime.now(UTC)
    runs = [_judged(cell, folder / cell.suite) for cell in cells]
    runs += [_lost(cell, "the plan asked for no cell of this suite") for cell in forgotten]
    tests = tuple(test for run in runs for test in run.tests)
    return RunRecord(
        version=str(pytest_finetune.__version__),
        started=started.isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
        libraries=runs[0].libraries if runs else {},
        suites=tuple(suite for run in runs for suite in run.suites),
        # Nothing was planned, so nothing was proven.
        outcome=worst((*(run.outcome for run in runs), *(("FAIL",) if held.lowered else ()))),
        tests=tests,
        policy=held.changes,
        policy_accepted=held.accepted,
    )


def _judged(cell: Cell, folder: Path) -> RunRecord:
    if not folder.is_dir():
        return _lost(cell, f"no evidence in {folder}: its cell was skipped, cancelled or lost; run it again")
    try:
        told = run_json.read(folder / evidence.RUN)
    except SuiteError as error:
        return _lost(cell, f"its evidence is damaged: {error}")
    with tempfile.TemporaryDirectory() as work:
        report = Path(work, "run.json")
        # -P: a file of the project's that is called as a library is no part of what judges it.
        command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "--finetune", "--finetune-recompute"]
        command += [f"--finetune-store={folder.resolve()}", f"--finetune-report={report}", *_options(folder), cell.path]
        done = subprocess.run(command, capture_output=True, env=_quiet(), text=True, errors="replace", check=False)
        print(done.stdout, end="", flush=True)
        if not report.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            return _lost(cell, f"judging it anew ended with exit code {done.returncode}: {said[-1][:300]}")
        found = run_json.read(report)
        if found.outcome == "PASS" and done.returncode:
            return _lost(cell, f"judging it anew passed and yet ended with exit code {done.returncode}")
        return _compared(cell, told, found)


def _quiet() -> dict[str, str]:
    """Return the environment without what makes a run report to a CI: that is for the whole verdict to do."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}


def _options(folder: Path) -> list[str]:
    """Return the options that the cell was made with."""
    try:
        options = evidence.read(folder).options
    except SuiteError:  # which the run says itself
        return []
    return [f"--finetune-{name}={value}" for name, value in options.items() if value]


def _compared(cell: Cell, told: RunRecord, found: RunRecord) -> RunRecord:
    """Return what was found, no better than what the cell told."""
    here = {test.name: _held(test, found) for test in found.tests}
    decided = {verdict.test for suite in told.suites for verdict in suite.verdicts}
    tests = []
    for test in told.tests:
        again = here.pop(test.name, None)
        if again is None:
            gone = "the cell ran this test, and judging anew did not find it"
            tests.append(replace(test, outcome="ERROR", message=gone))
        elif again.outcome == "SKIPPED" and test.name in decided:
            gone = (
                "the cell decided claims in this test, and judging anew skipped it; load models in a test of their own"
            )
            tests.append(replace(test, outcome=worst((test.outcome, "ERROR")), message=gone))
        elif worst((test.outcome, again.outcome)) == again.outcome:
            tests.append(again)
        else:
            differs = f"judged anew: {again.outcome}; " if again.outcome != "SKIPPED" else ""
            tests.append(replace(test, message=f"{differs}in its cell: {test.outcome}\n{test.message}".strip()))
    tests += here.values()
    outcome = worst((told.outcome, found.outcome, *(test.outcome for test in tests)))
    if outcome == "PASS" and not any(suite.verdicts for suite in found.suites):
        return _lost(cell, "no verdict was reached in it; select the suite's tests")
    return replace(found, outcome="ERROR" if outcome == "SKIPPED" else outcome, tests=tuple(tests))


def _held(test: TestRecord, run: RunRecord) -> TestRecord:
    """Return what a test came to, no better than its claims: it may catch what a refuted one raises."""
    claims = {verdict.outcome for suite in run.suites for verdict in suite.verdicts if verdict.test == test.name}
    if "FAIL" in claims and test.outcome != "FAIL":
        return replace(test, outcome="FAIL", message="a claim in it is refuted, whatever the test made of that")
    return test


def _lost(cell: Cell, why: str) -> RunRecord:
    outcome: RunOutcome = "ERROR"
    test = TestRecord(f"cell {cell.suite}", f"{cell.path}/suite.toml", 1, outcome, why)
    version = str(pytest_finetune.__version__)
    return RunRecord(version, datetime.now(UTC).isoformat(timespec="seconds"), 0.0, {}, (), outcome, (test,))
