"""`pytest-finetune merge`: one verdict over the cells of a plan, judged once from what all of them measured."""

import argparse
from pathlib import Path

from pytest_finetune.cells import cell, judging, result
from pytest_finetune.cells.matrix import forgotten as forgotten_in
from pytest_finetune.cli.command import Commands
from pytest_finetune.cli.verdict import add_reports, told
from pytest_finetune.evidence import check_free
from pytest_finetune.store import Store


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "merge", help="judge the cells of a plan, once and together; exit codes as of pytest --finetune"
    )
    parser.add_argument("cells", type=Path, help="the folder that --finetune-cells wrote")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[Path("results")], help="folders of results (results)"
    )
    parser.add_argument(
        "--store", type=Path, default=Path(".finetune"), help="whose ledger counts attempts (.finetune)"
    )
    parser.add_argument("--evidence", type=Path, help="keep what the verdicts rest on in this new folder, for promote")
    parser.add_argument("--suites", type=Path, help="every suite in this folder must have been planned")
    add_reports(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    planned = cell.in_folder(options.cells)
    cell.check_current(planned, Path.cwd())
    results = result.of_all(options.results, planned)
    if options.evidence:
        check_free(options.evidence, "--evidence")
    forgotten = forgotten_in(planned, options.suites) if options.suites else ()
    store, keep = Store(options.store), options.evidence
    return told(options, planned, lambda held: judging.merged(planned, results, store, held, keep, forgotten))
