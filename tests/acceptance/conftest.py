"""Fixtures of the acceptance tests."""

from pathlib import Path

import pytest
from colours import SUITE, TEST, rows


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A suite in the folder ``colours``, gated by one test."""
    folder = pytester.mkdir("colours")
    (folder / "suite.toml").write_text(SUITE)
    (folder / "train.jsonl").write_text(rows(0, 150))
    (folder / "heldout.jsonl").write_text(rows(1000, 150))
    (folder / "test_colours.py").write_text(TEST)
    return folder
