"""`pytest-finetune verdict`: one verdict over all cells of a plan, judged anew from their evidence."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_finetune.cells import judging, matrix
from pytest_finetune.cells.cell import Cell
from pytest_finetune.cli.command import Commands
from pytest_finetune.outcomes import EXIT_CODES
from pytest_finetune.records import RunRecord
from pytest_finetune.report import file, github, html, markdown, run_json, terminal
from pytest_finetune.report.escape import visible


def add(commands: Commands) -> None:
    """Add the command."""
    verdict = commands.add_parser(
        "verdict", help="judge all cells of a plan anew from their evidence; exit codes as of pytest --finetune"
    )
    verdict.add_argument("--matrix", type=Path, required=True, help="what --finetune-matrix wrote")
    verdict.add_argument("--evidence", type=Path, required=True, help="the folder with a folder of evidence a suite")
    verdict.add_argument("--suites", type=Path, help="every suite in this folder must have been planned")
    add_reports(verdict)
    verdict.set_defaults(run=run)


def add_reports(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is written of a verdict, and of the policy that it must hold to."""
    parser.add_argument("--report", type=Path, help="write the whole run as JSON to this file")
    parser.add_argument("--html", type=Path, help="write it as a page of HTML to this file")
    parser.add_argument("--markdown", type=Path, help="write it as Markdown, for a pull request, to this file")
    parser.add_argument("--policy-ref", metavar="REF", help="fail where less must be proven than at this commit")
    parser.add_argument("--accept-policy-change", action="store_true", help="pass in spite of that")


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    planned = matrix.planned(options.matrix)
    forgotten = matrix.forgotten(planned, options.suites) if options.suites else ()
    return told(options, planned, lambda held: judging.judged(planned, options.evidence, held, forgotten))


def told(options: argparse.Namespace, planned: Sequence[Cell], judge: Callable[[judging.Bar], RunRecord]) -> int:
    """Judge cells, write what was asked for of the verdict, print it, and return its exit code."""
    held = (
        judging.bar(planned, options.policy_ref, options.accept_policy_change)
        if options.policy_ref is not None
        else judging.Bar()
    )
    for option in ("report", "html", "markdown"):
        if path := getattr(options, option):
            file.check(path, f"--{option}")
    with github.hush():  # tests print what models say
        found = judge(held)
    if options.report:
        run_json.write(found, options.report)
    if options.html:
        file.write(options.html, html.page(found), "--html")
    if options.markdown:
        file.write(options.markdown, markdown.text(found), "--markdown")
    for text, _ in terminal.policy_lines(held.changes, held.accepted):
        print(text)
    for test in found.tests:
        if test.outcome not in ("PASS", "SKIPPED"):
            why = test.message.removeprefix(f"{test.outcome}: ")
            print(f"{test.outcome}: {visible(test.name)}: {visible(why, 400)}")
    print(f"verdict: {found.outcome}")
    for line in github.publish(found, Path.cwd()) if github.is_runner() else ():
        print(line)
    return EXIT_CODES[found.outcome]
