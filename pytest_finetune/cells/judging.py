"""One verdict over all cells, judged anew from what each of them left."""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest_finetune
from pytest_finetune import evidence, policy, suite
from pytest_finetune.cells import result
from pytest_finetune.cells.cell import Cell
from pytest_finetune.errors import SuiteError
from pytest_finetune.ledger import Ledger
from pytest_finetune.outcomes import MEASURED, worst
from pytest_finetune.records import PolicyChange, RunOutcome, RunRecord, TestRecord
from pytest_finetune.report import run_json
from pytest_finetune.store import Store

FORGOTTEN = "the plan asked for no cell of this suite"


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
    runs += [_lost(cell, FORGOTTEN) for cell in forgotten]
    return _together(started, runs, held)


def merged(
    cells: Sequence[Cell],
    results: Mapping[Cell, Path],
    store: Store,
    held: Bar,
    keep: Path | None = None,
    forgotten: Sequence[Cell] = (),
) -> RunRecord:
    """Judge the recipes of cells, each once over all its seeds, and return all as one run.

    Args:
        cells: what the plan asked for.
        results: the folder of each one's result.
        store: whose ledger counts the attempts.
        held: what must be proven, beside that of the base branch.
        keep: a new folder for the evidence of each recipe; None to keep none.
        forgotten: suites that the plan should have asked for.

    Raises:
        SuiteError: cells are of two plans; or those of one recipe were made on different devices, or by different
            versions.
        EngineError: a result is damaged.
    """
    started, runs = datetime.now(UTC), []
    recipes: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        recipes.setdefault(cell.recipe, []).append(cell)
    several = Counter(own[0].suite for own in recipes.values())
    titles = [own[0].recipe_title for own in recipes.values()]
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise SuiteError(f"cells of {twice[0]} are of two plans; plan into a new folder, and merge that")
    with store.work() as work:  # of results some can only be read
        for own in recipes.values():
            title = own[0].recipe_title
            folder = Path(keep or work, title)
            result.unite(results, own, folder)
            store.ledger.copy(folder)
            run = _judged(own[0], folder)
            store.ledger.merge(Ledger(folder))
            runs.append(_called(title, run) if several[own[0].suite] > 1 else run)
    runs += [_lost(cell, FORGOTTEN) for cell in forgotten]
    return _together(started, runs, held)


def _called(title: str, run: RunRecord) -> RunRecord:
    """Return a run whose suites and tests are called as their recipe is, where there are several of one suite."""
    suites = tuple(replace(one, name=title) for one in run.suites)
    return replace(run, suites=suites, tests=tuple(replace(test, name=f"{title}: {test.name}") for test in run.tests))


def _together(started: datetime, runs: Sequence[RunRecord], held: Bar) -> RunRecord:
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
    decided |= {test.name for test in told.tests if test.message == MEASURED}
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
