"""What GitHub Actions shows of a run: annotations at the tests, and the summary of the job."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pytest_finetune.records import RunRecord, TestRecord
from pytest_finetune.report import markdown
from pytest_finetune.report.escape import printable, visible

MOST = 8  # annotations; GitHub shows ten of a step
SUMMARY_BYTES = 1 << 20  # of a step, by GitHub's limit
MESSAGE = 2000  # characters of an annotation's message, of 64 Ki that GitHub takes
LEVELS = {"FAIL": "error", "ERROR": "error", "INCONCLUSIVE": "warning"}  # the worst first


def is_runner(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether GitHub Actions runs this."""
    return environment.get("GITHUB_ACTIONS") == "true"


def publish(run: RunRecord, root: Path, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Add the run to the job's summary, and return what to tell GitHub's runner.

    Args:
        run: the whole run.
        root: the folder that the tests' files are named from.
        environment: where the runner names its files.

    Returns:
        The lines to print, each at the start of a line.
    """
    workspace = Path(environment.get("GITHUB_WORKSPACE") or root)
    lines = annotations(run, root.relative_to(workspace) if root.is_relative_to(workspace) else Path())
    if file := environment.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(file).open("a", encoding="utf-8") as summarised:
                summarised.write(summary(run, summarised.tell()))
        except OSError as error:
            lines.append(visible(f"warning: GITHUB_STEP_SUMMARY={file}: cannot be written: {error.strerror}"))
    return lines


def hushed() -> tuple[str, str]:
    """Return two lines: what is printed between them, GitHub's runner takes for no command, whoever wrote it."""
    token = secrets.token_hex(16)
    return f"::stop-commands::{token}", f"::{token}::"


@contextmanager
def hush() -> Iterator[None]:
    """Have the runner, where it runs this, take nothing that is printed meanwhile for a command."""
    stop, resume = hushed() if is_runner() else ("", "")
    try:
        print(stop, end="\n" * bool(stop), flush=True)
        yield
    finally:
        print(resume, end="\n" * bool(resume), flush=True)


def annotations(run: RunRecord, folder: Path = Path()) -> list[str]:
    """Return workflow commands that mark the tests that did not pass, the worst first.

    Args:
        run: the whole run.
        folder: that the tests' files are named from, as the repository's root sees it.
    """
    order = list(LEVELS)
    failed = sorted((t for t in run.tests if t.outcome in LEVELS), key=lambda test: order.index(test.outcome))
    shown = failed if len(failed) <= MOST else failed[: MOST - 1]
    lines = [_annotation(test, folder) for test in shown]
    if len(shown) < len(failed):
        lines.append(f"::error title=pytest-finetune::{len(failed) - len(shown)} more tests did not pass")
    return lines


def summary(run: RunRecord, written: int = 0) -> str:
    """Return the Markdown of the job's summary, with the bytes that were written before of 1 MiB at most."""
    return markdown.text(run, SUMMARY_BYTES - written, lambda text: len(text.encode()))


def _annotation(test: TestRecord, folder: Path) -> str:
    message = "\n".join(visible(line, MESSAGE) for line in test.message.splitlines())[:MESSAGE]
    properties = {
        "file": printable((folder / test.file).as_posix()),
        "line": str(test.line),
        "title": printable(f"{test.outcome}: {test.name}", width=200),
    }
    given = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{LEVELS[test.outcome]} {given}::{_data(message or test.outcome)}"


def _data(text: str) -> str:
    """Escape a message by the runner's rules."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property by the runner's rules."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
