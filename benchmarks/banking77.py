"""A suite of real text: 20 intents of banking77, gated on the embedded model (or another).

    python -m benchmarks.banking77 --data DIR [--model FOLDER] [--out FILE]

DIR holds `train.csv` and `test.csv` of github.com/PolyAI-LDN/task-specific-datasets, folder
banking_data (Casanueva et al. 2020, CC BY 4.0).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest_finetune
from pytest_finetune.metrics.text import normalise
from pytest_finetune.records import RunRecord
from pytest_finetune.report import run_json
from pytest_finetune.report.terminal import percent, suite_lines
from pytest_finetune.suite import EMBEDDED, PATHS

INTENTS = 20
GENERAL = Path(__file__).parents[1] / "eval_suites" / "general"
SUITE = """\
name = "banking77"
model = {model}
task = "classification"
data = {{ train = "train.jsonl", heldout = "heldout.jsonl" }}
answer = {{ labels = {labels} }}
prompts = {{ serve = "Name the intent.", candidates = ["Name the intent.", {listing}], shots = [0, 2, 4] }}
training = {{ learning_rate = {learning_rate}, batch_size = 16, epochs = {epochs}, replay = 0.25 }}
generation = {{ max_new_tokens = 24, batch_size = 128 }}
"""
GENERAL_SUITE = """
[[general]]
data = "general/{name}.jsonl"
replay = "general/{name}-replay.jsonl"
"""
TEST = """\
def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)


def test_keeps_general_skills(gate, adapter, base_model, general):
    gate.keeps(adapter, base_model, on=general)
"""


def rows(file: Path, labels: list[str]) -> dict[str, dict[str, str]]:
    """Return the rows of the given intents by normalised question; the first of equal ones."""
    found: dict[str, dict[str, str]] = {}
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["category"] in labels:
                prompt = normalise(row["text"])
                found.setdefault(prompt.casefold(), {"prompt": prompt, "completion": row["category"]})
    return found


def write_suite(folder: Path, options: argparse.Namespace) -> str:
    """Write the suite into ``folder``; return what had to be left out of the published data."""
    with (options.data / "train.csv").open(encoding="utf-8", newline="") as stream:
        labels = sorted({row["category"] for row in csv.DictReader(stream)})[:INTENTS]
    train, test = rows(options.data / "train.csv", labels), rows(options.data / "test.csv", labels)
    leaks = train.keys() & test.keys()
    for name, kept in (("train", [train[k] for k in train if k not in leaks]), ("heldout", list(test.values()))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    listing = f"Name the intent, one of: {', '.join(labels)}."
    shutil.copytree(GENERAL, folder / "general")
    names = sorted(p.stem for p in GENERAL.glob("*.jsonl") if not p.stem.endswith("-replay"))
    if options.model != EMBEDDED:
        os.environ[PATHS] = str(Path(options.model).resolve())  # which is no part of the project
    text = SUITE.format(
        model=json.dumps(options.model if options.model == EMBEDDED else str(Path(options.model).resolve())),
        labels=json.dumps(labels),
        listing=json.dumps(listing),
        learning_rate=options.learning_rate,
        epochs=options.epochs,
    )
    (folder / "suite.toml").write_text(text + "".join(GENERAL_SUITE.format(name=name) for name in names))
    (folder / "test_banking77.py").write_text(TEST)
    return f"{len(leaks)} training questions that stand in the test set too"


def report(run: RunRecord, left_out: str, options: argparse.Namespace) -> str:
    """Return the result as Markdown."""
    (suite,) = run.suites
    command = f"python -m benchmarks.banking77 --data DIR --model {options.model}"
    command += f" --learning-rate {options.learning_rate} --epochs {options.epochs}"
    text = [f"# banking77: {INTENTS} intents, {options.model}", "", f"`{command}`, {run.seconds:.0f} s in all,"]
    text += [f"{os.cpu_count()} cores. Left out: {left_out}. The plugin's default limits.", "", "```"]
    text += [line.replace(str(suite.file), "suite.toml") for line, _ in suite_lines(suite)] + ["```", ""]
    text += ["| measured | on | metric | mean | n |", "| --- | --- | --- | --- | --- |"]
    text += [f"| {m.subject} | {m.on} | {m.metric} | {percent(m.mean)} | {len(m.ids)} |" for m in suite.measurements]
    return "\n".join(text) + "\n"


def main() -> None:
    """Write the suite to a temporary folder, gate it, and write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--model", default=EMBEDDED, help="embedded, or a model's folder")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "banking77.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        left_out = write_suite(folder, options)
        arguments = ["--finetune", "--finetune-report=run.json", f"--rootdir={folder}", "-p", "no:cacheprovider"]
        # Exit code 1 is a verdict too: the numbers are written down, whatever they are.
        ended = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=folder, check=False)
        if ended.returncode not in (0, 1):
            sys.exit(ended.returncode)
        options.out.write_text(report(run_json.read(folder / "run.json"), left_out, options), encoding="utf-8")
    print(f"pytest-finetune {pytest_finetune.__version__}: wrote {options.out}")


if __name__ == "__main__":
    main()
