"""`pytest-finetune init`: the smallest suite, in a new folder."""

import argparse
from pathlib import Path

from pytest_finetune import suite
from pytest_finetune.cli.command import Commands
from pytest_finetune.errors import SuiteError

SUITE = """\
#:schema https://raw.githubusercontent.com/pytest-finetune/pytest-finetune/main/pytest_finetune/suite.schema.json
model = "embedded"
task = "instruction"
data = { train = "train.jsonl", heldout = "heldout.jsonl" }

[prompts]
candidates = ["Write your best prompt here.", "And another one."]
"""
TEST = '''\
"""No eval, no training: what the adapter must prove before it ships."""


def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)
'''


def add(commands: Commands) -> None:
    """Add the command."""
    init = commands.add_parser("init", help="write the smallest suite into a new folder")
    init.add_argument("folder", type=Path)
    init.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    folder: Path = options.folder
    files = {suite.FILE: SUITE, f"test_{folder.resolve().name}.py": TEST}
    for name in files:
        if (folder / name).exists():
            raise SuiteError(f"{folder / name} exists; it is not overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
        print(f"wrote {folder / name}")
    print(f"next: put train.jsonl and heldout.jsonl there, then run: pytest --finetune {folder}")
    return 0
