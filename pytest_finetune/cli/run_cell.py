"""`pytest-finetune run-cell`: train and measure one cell of a plan."""

import argparse
from functools import partial
from pathlib import Path

from pytest_finetune.cells import cell, result
from pytest_finetune.cells.run import Places
from pytest_finetune.cells.run import run as run_cell
from pytest_finetune.cli.command import Commands
from pytest_finetune.report.escape import visible


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("run-cell", help="train and measure one cell of a plan, and judge nothing")
    parser.add_argument("cell", type=Path, help="one of the files that --finetune-cells wrote")
    parser.add_argument("--store", type=Path, default=Path(".finetune"), help="what cells share (.finetune)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where its result goes (results)")
    parser.add_argument("more", nargs="*", metavar="-- OPTION", help="further options of pytest, after --")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    planned = cell.read(options.cell)
    known = result.found(options.results, planned) is not None
    places = Places(Path.cwd(), options.store.absolute(), options.results, options.more)
    made = run_cell(planned, places, say=partial(print, end="", flush=True))
    where = options.results / planned.result / result.FILE
    print(f"cell {planned.title}: {'done before' if known else f'measured in {made.seconds:.1f} s'}: {where}")
    if made.problem:
        print(f"its tests did not pass: {visible(made.problem)}")
    return 0
