"""Progress while the engine works: a line that rewrites itself, or now and then one in a log."""

import os
import time
from contextlib import nullcontext

import pytest

from pytest_finetune.protocol import Progress
from pytest_finetune.report.escape import visible

SECONDS_BETWEEN_LINES = {True: 0.2, False: 10.0}  # on a terminal, in a log


class ProgressLine:
    """Writes progress through pytest's terminal reporter, past its capturing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._last = time.monotonic()

    def show(self, suite: str, progress: Progress) -> None:
        """Show how far a stage of a suite has come, unless something was shown a moment ago."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or (not reporter.isatty and os.environ.get("CI")):  # an xdist worker; a log nobody watches
            return
        now = time.monotonic()
        finished = progress.done >= progress.total
        if now - self._last < SECONDS_BETWEEN_LINES[bool(reporter.isatty)] and not (finished and reporter.isatty):
            return
        self._last = now
        text = f"  {suite}: {progress.stage} {progress.done}/{progress.total} {visible(progress.note)}".rstrip()
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            reporter.ensure_newline()
            if reporter.isatty:
                reporter.rewrite("" if finished else text, erase=True)
            else:
                reporter.write_line(text)
