"""`pytest-finetune compare`: two saved runs side by side."""

import argparse
from pathlib import Path

from pytest_finetune.cli.command import Commands
from pytest_finetune.cli.report import coloured
from pytest_finetune.report import run_json


def add(commands: Commands) -> None:
    """Add the command."""
    compare = commands.add_parser("compare", help="two saved runs side by side, paired by example")
    compare.add_argument("first", type=Path, help="what --finetune-report wrote")
    compare.add_argument("second", type=Path, help="what it wrote another time")
    compare.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    from pytest_finetune.report import compare  # the statistics take 0.2 s to import

    for text, colour in compare.run_lines(run_json.read(options.first), run_json.read(options.second)):
        print(coloured(text, colour))
    return 0
