"""Suites that tests write: good rows, and what curation says of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_finetune import suite
from pytest_finetune.records import CuratedData, Finding
from pytest_finetune.suite import SuiteSpec

Row = Mapping[str, Any]
WORDS = ("harbour", "violin", "granite", "meadow", "lantern", "pepper", "glacier", "anvil", "thistle", "comet")
WITHOUT_ROWS = ("sizing", "knowledge", "wrong_references")
GOOD = [
    {"prompt": f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} number {i}", "completion": ("even", "odd")[i % 2]}
    for i in range(200)
]


def write(folder: Path, train: Sequence[Row], toml: str = "", data: str = "", **splits: Sequence[Row]) -> SuiteSpec:
    """Write a suite of these rows, with ``data`` in that table; without held-out ones it has 50 good ones."""
    files = {"train": train, "heldout": splits.pop("heldout", GOOD[150:]), **splits}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = ", ".join([f'{name} = "{name}.jsonl"' for name in files] + [data] * bool(data))
    (folder / "suite.toml").write_text(f'model = "embedded"\ndata = {{ {table} }}\n{toml}')
    return suite.load(folder / "suite.toml", folder)


def on_issue(action: str, *names: str) -> str:
    """Return the tables that set what these checks do."""
    return "".join(f'[checks.{name}]\non_issue = "{action}"\n' for name in names)


def places(data: CuratedData, check: str, dropped: bool | None = None) -> set[str]:
    """Return the places that a check flagged."""
    return {f.place for f in data.flags if f.check == check and dropped in (None, f.dropped)}


def finding(data: CuratedData, check: str) -> Finding:
    """Return the only finding of a check."""
    (found,) = [f for f in data.findings if f.check == check]
    return found
