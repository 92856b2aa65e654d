"""Hooks that other plugins and conftest files may implement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every pytest run imports this module
    from pytest_finetune.records import RunRecord, Verdict


@pytest.hookspec
def pytest_finetune_metrics(config: pytest.Config) -> dict[str, Callable[[str, str], float]]:  # type: ignore[empty-body]  # a specification
    """Return metrics by name, ``(prediction, reference) -> score from 0 to 1``, for use in suites."""


@pytest.hookspec
def pytest_finetune_verdict(config: pytest.Config, suite: str, verdict: Verdict) -> None:
    """Called after each gate decision, in the process that made it."""


@pytest.hookspec
def pytest_finetune_report(config: pytest.Config, run: RunRecord) -> None:
    """Called once at the end of a run that used a suite, with everything it learned."""
