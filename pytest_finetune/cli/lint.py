"""`pytest-finetune lint`: suites and their rows, checked in seconds before a commit."""

import argparse
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pytest_finetune import curate, data, suite
from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError
from pytest_finetune.report.escape import visible
from pytest_finetune.suite import Check, SuiteSpec

# Left to `pytest-finetune curate`: what takes seconds for many rows; and to `pytest --finetune`: what trains.
SLOW = ("truncated", "near_leakage", "near_duplicates", "knowledge", "wrong_references")


def add(commands: Commands) -> None:
    """Add the command."""
    lint = commands.add_parser("lint", help="check suites and their rows in seconds; exit code 1 where a check fails")
    lint.add_argument("paths", nargs="*", type=Path, help="suites, their folders or data files (all below here)")
    lint.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    failed = False
    for file in _asked([path.resolve() for path in options.paths] or [Path.cwd()]):
        try:
            lines, refused = _looked_at(suite.load(file, Path.cwd()))
        except SuiteError as error:
            lines, refused = [str(error).removeprefix(f"{Path.cwd()}/")], True
        failed |= refused
        for line in lines:
            print(visible(line))
    return int(failed)


def _looked_at(spec: SuiteSpec) -> tuple[list[str], bool]:
    """Return what is to be said of a suite, a line a finding, and whether a check fails."""
    place = f"{os.path.relpath(spec.file)}:1"
    if not data.is_local(spec.sources):
        return [f"{place}: note: its rows are no files, and are checked under pytest --finetune only"], False
    quick = {name: Check("off", check.settings) if name in SLOW else check for name, check in spec.checks.items()}
    curated = curate.curate(replace(spec, checks=quick))
    lines, flags = [], iter(curated.flags)
    for finding in curated.findings:
        rows = list(islice(flags, finding.count))  # a finding's rows stand together
        where = os.path.relpath(spec.folder / rows[0].place) if rows else place
        lines.append(f"{where}: {'' if finding.refuses else 'warning: '}{curate.describe(finding)}")
    return lines, any(finding.refuses for finding in curated.findings)


def _asked(paths: list[Path]) -> list[Path]:
    """Return the suites that folders hold, that files belong to, or that read them.

    Raises:
        SuiteError: a path does not exist, or there is no suite.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise SuiteError(f"{missing[0]}: no such file or folder")
    here = Path.cwd()
    owned = {suite.find(path if path.is_dir() else path.parent, here) for path in paths}
    found = []
    for file in sorted({*suite.below(here), *filter(None, owned)}):
        inside = any(path.is_dir() and file.is_relative_to(path) for path in paths)
        if inside or file in owned or _reads(file, paths):
            found.append(file)
    if not found and any(path.is_dir() for path in paths):
        raise SuiteError(f"{paths[0]}: no {suite.FILE} in it; write one with pytest-finetune init")
    return found


def _reads(file: Path, paths: list[Path]) -> bool:
    """Whether rows of a suite stand in one of these files."""
    try:
        sources = suite.load(file, Path.cwd()).sources
        return not set(paths).isdisjoint(data.files(name for name in sources if not name.startswith("hub:")))
    except SuiteError:  # which nobody asked about
        return False
