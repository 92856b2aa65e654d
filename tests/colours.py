"""A suite on the embedded model, small enough to train in seconds."""

import json
from pathlib import Path

from pytest_finetune.report import run_json

CUES = {"red": ["apple", "cherry"], "green": ["grass", "frog"], "blue": ["sky", "lake"]}
TEST = """
def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)
"""
KEEPS = """
def test_keeps_general_skills(gate, adapter, base_model, general):
    gate.keeps(adapter, base_model, on=general)
"""
SUITE = """
model = "embedded"
task = "classification"
data = { train = "train.jsonl", heldout = "heldout.jsonl" }
prompts = { candidates = ["Name the box."], shots = [0] }
training = { learning_rate = 5e-3, epochs = 4, replay = 0 }
generation = { max_new_tokens = 6 }
"""


def rows(first: int, count: int, shuffled: bool = False) -> str:
    """Return JSONL rows whose cue word decides the label, unless the labels are shuffled."""
    lines = []
    for i in range(first, first + count):
        labels = list(CUES)
        label = labels[i % 3]
        cue = CUES[label][i // 3 % 2]
        told = labels[hash_of(i) % 3] if shuffled else label
        lines.append(json.dumps({"prompt": f"item {i}: {cue}", "completion": f"box {told}"}))
    return "\n".join(lines) + "\n"


def hash_of(number: int) -> int:
    """Return a number that depends on ``number`` in no way a model can learn."""
    return (number * 2654435761) % 2**32 // 1000


def claims(report: Path) -> list[tuple[object, ...]]:
    """Return what was decided in a saved run, as far as it must be the same wherever it was computed."""
    run = run_json.read(report)
    verdicts = [verdict for one in run.suites for verdict in one.verdicts]
    assert verdicts
    return [
        (v.outcome, v.digests["rows"], c.name, c.estimate, c.n, c.wins, c.losses) for v in verdicts for c in v.claims
    ]
