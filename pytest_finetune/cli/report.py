"""`pytest-finetune report`: a saved run, drawn again."""

import argparse
import json
import os
import sys
from pathlib import Path

from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError
from pytest_finetune.report import file, html, markdown, run_json, terminal

COLOURS = {"bold": 1, "red": 31, "green": 32, "yellow": 33}  # as terminals number them


def add(commands: Commands) -> None:
    """Add the command."""
    report = commands.add_parser("report", help="draw a saved run again")
    report.add_argument("run_json", type=Path, nargs="?", help="what --finetune-report wrote")
    report.add_argument("-v", "--verbose", action="store_true", help="show the worst lost examples")
    report.add_argument("--html", type=Path, metavar="FILE", help="write it as a page of HTML, which loads nothing")
    report.add_argument("--markdown", metavar="FILE", help="write it as Markdown, for a pull request; - prints it")
    report.add_argument("--schema", action="store_true", help="print the JSON Schema of a run")
    report.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    if options.schema:
        print(json.dumps(run_json.schema(), indent=1))
        return 0
    if options.run_json is None:
        raise SuiteError("report: name the file that --finetune-report wrote, or --schema")
    found = run_json.read(options.run_json)
    for option, path in (("--html", options.html), ("--markdown", options.markdown)):
        if path and Path(path).resolve() == options.run_json.resolve():
            raise SuiteError(f"{option}={path}: is the saved run itself, which would be lost; name another file")
    if options.html:
        file.write(options.html, html.page(found), "--html")
    if options.markdown == "-":
        print(markdown.text(found), end="")
    elif options.markdown:
        file.write(Path(options.markdown), markdown.text(found), "--markdown")
    elif not options.html:
        for text, colour in (*terminal.run_lines(found, options.verbose), *terminal.outcome_lines(found)):
            print(coloured(text, colour))
    return 0


def coloured(text: str, colour: str) -> str:
    """Return ``text`` in its colour, where it goes to a terminal whose user did not refuse colours."""
    if not colour or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"
