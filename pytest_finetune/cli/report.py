"""`pytest-finetune report`: a saved run, drawn again."""

import argparse
from pathlib import Path

from pytest_finetune.cli.command import Commands
from pytest_finetune.report import file, html, run_json
from pytest_finetune.report.terminal import suite_lines


def add(commands: Commands) -> None:
    """Add the command."""
    report = commands.add_parser("report", help="draw a saved run again")
    report.add_argument("run_json", type=Path, help="what --finetune-report wrote")
    report.add_argument("--html", type=Path, metavar="FILE", help="write it as a page of HTML, which loads nothing")
    report.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    found = run_json.read(options.run_json)
    if options.html:
        file.write(options.html, html.page(found), "--html")
        return 0
    for suite in found.suites:
        for text, _ in suite_lines(suite):
            print(text)
    return 0
