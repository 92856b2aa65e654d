"""The command line beside pytest: start a suite, ask for advice, look at data, runs and the store."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from pytest_finetune.cli import (
    advise,
    compare,
    curate,
    init,
    lint,
    merge,
    promote,
    report,
    rollback,
    run_cell,
    serve,
    shadow,
    store,
    verdict,
)
from pytest_finetune.errors import FinetuneError
from pytest_finetune.report.escape import visible

INTERRUPTED = 130  # as of a program that SIGINT ends
PIPE_CLOSED = 141  # as of a program that SIGPIPE ends
COMMANDS = (
    init,
    advise,
    lint,
    curate,
    report,
    compare,
    verdict,
    run_cell,
    merge,
    promote,
    rollback,
    serve,
    shadow,
    store,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 1 where it found something wrong, or 4 for a usage error."""
    parser = argparse.ArgumentParser(prog="pytest-finetune", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding ends no command
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except FinetuneError as error:
        print(f"ERROR: {visible(str(error))}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
