"""What all tests share."""

import os
from pathlib import Path

import pytest
from colours import SUITE, TEST, rows
from hypothesis import settings

pytest_plugins = ["pytester", "hardening"]

# One core a process is faster than two that wait for each other, and xdist tests start several.
os.environ.setdefault("OMP_NUM_THREADS", "2")
ADDOPTS = "-p no:randomly"  # of runs inside tests: order and seeds are one test's matter
os.environ["PYTEST_ADDOPTS"] = ADDOPTS
os.environ["COLUMNS"] = "240"  # a report's lines are looked for whole
os.environ.pop("GITHUB_ACTIONS", None)  # a run inside a test is not the job's


# A first call imports numpy or scipy, and a busy machine is slow: no test is about time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the place of data that is not in the repository."""
    parser.addoption("--banking77", help="folder with banking77's train.csv and test.csv (skipped without)")


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Pytest's own, which would have dropped these options."""
    monkeypatch.setenv("PYTEST_ADDOPTS", ADDOPTS)
    return pytester


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A suite in the folder ``colours``, gated by one test."""
    folder = pytester.mkdir("colours")
    (folder / "suite.toml").write_text(SUITE)
    (folder / "train.jsonl").write_text(rows(0, 150))
    (folder / "heldout.jsonl").write_text(rows(1000, 150))
    (folder / "test_colours.py").write_text(TEST)
    return folder
