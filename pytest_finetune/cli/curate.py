"""`pytest-finetune curate`: a suite's data, checked and cleaned."""

import argparse
from pathlib import Path

from pytest_finetune import curate, suite
from pytest_finetune.cli.command import Commands
from pytest_finetune.curate import output
from pytest_finetune.errors import SuiteError
from pytest_finetune.report.escape import visible


def add(commands: Commands) -> None:
    """Add the command."""
    check = commands.add_parser("curate", help="check a suite's data; exit code 1 where a check fails")
    check.add_argument("suite", type=Path, help="its folder")
    check.add_argument("--out", type=Path, help="a new folder for the cleaned rows and a report")
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    file = suite.find(options.suite.resolve(), options.suite.resolve())
    if file is None:
        raise SuiteError(f"{options.suite}: no {suite.FILE} in it")
    spec = suite.load(file, Path.cwd())
    if options.out:
        output.check_free(options.out)
    curated = curate.curate(spec)
    print(f"{visible(spec.name)}: {len(curated.train)} train, {len(curated.dev)} dev, {len(curated.heldout)} held-out")
    for finding in curated.findings:
        print(f"{'refused' if finding.refuses else 'warning'}: {visible(curate.describe(finding))}")
    if spec.checks["wrong_references"].on_issue != "off":
        print("wrong_references: trains, and so runs under pytest --finetune only")
    if options.out:
        output.write(spec, curated, options.out)
        print(f"wrote train.jsonl, dev.jsonl, heldout.jsonl, report.md and report.jsonl to {options.out}")
    return int(any(finding.refuses for finding in curated.findings))
