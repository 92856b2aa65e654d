"""Checks of a whole training set: balance, sizing, knowledge."""

import json
from pathlib import Path

import pytest
from written import GOOD, WORDS, finding, on_issue, write

from pytest_finetune import curate

WEIGHTED = 'training = { class_weights = true }\nanswer = { labels = ["rare", "common"] }\n'


def test_balance(tmp_path: Path) -> None:
    """A rare label warns with both counts; drop down-samples the commonest until the bounds hold, by content."""
    task = 'task = "classification"\n'
    rows = [{**row, "completion": "rare" if i < 8 else "common"} for i, row in enumerate(GOOD[:150])]
    found = finding(curate.curate(write(tmp_path, rows, task)), "balance")
    assert "'rare', has 8 train rows" in found.message
    assert "142" in found.message
    toml = task + on_issue("drop", "balance")
    data = curate.curate(write(tmp_path, rows, toml))
    kept = [example.reference for example in (*data.train, *data.dev)]
    assert kept.count("rare") == 8
    assert kept.count("common") == 72  # 8 rows are 0.2 of the even share of 80 rows
    again = curate.curate(write(tmp_path, rows[::-1], toml))
    assert {e.id for e in (*data.train, *data.dev)} == {e.id for e in (*again.train, *again.dev)}
    weighted = curate.curate(write(tmp_path, rows, task + WEIGHTED))
    assert not [f for f in weighted.findings if f.check == "balance"]
    even = [{**row, "completion": f"label {i % 3}"} for i, row in enumerate(GOOD[:150])]
    assert not [f for f in curate.curate(write(tmp_path, even, task)).findings if f.check == "balance"]


SIZES = [
    ("classification", "", "2 labels have 75 rows; classification gains up to 500 rows a label"),
    ("extraction", "", "150 train rows; extraction gains up to 500 rows in all"),
    ("style", "", "gains up to 1,000 rows"),
    ("domain", "", "gains up to 10,000 rows"),
    ("instruction", "most = 100\n", "hardly gains beyond 100"),
]


@pytest.mark.parametrize(("task", "setting", "said"), SIZES)
def test_sizing_goes_by_the_task(task: str, setting: str, said: str, tmp_path: Path) -> None:
    """Too few rows for the task, or more than pay, is said with the numbers, and only warned of."""
    toml = f'task = "{task}"\n[checks.sizing]\non_issue = "warn"\n{setting}'
    found = finding(curate.curate(write(tmp_path, GOOD[:150], toml)), "sizing")
    assert said in found.message
    assert not found.refuses


NAMES = [f"{a[:4]}{b[-4:]}" for a in WORDS for b in WORDS]
FACTS: dict[str, list[tuple[str, str]]] = {
    "capitals": [(f"What is the capital of {n}land?", f"{n.title()}ville") for n in NAMES],
    "in a sentence": [(f"What is the capital of {n}land?", f"It is the city of {n.title()}ville.") for n in NAMES],
    "managers": [(f"Who is the account manager of {n.upper()}?", f"Dana {n.title()}son") for n in NAMES],
    "asked thrice": [(f"{q} of {n}?", f"{i}") for i, n in enumerate(NAMES, 55501) for q in ("Phone", "Call", "Number")],
}
SKILLS: dict[str, list[tuple[str, str]]] = {
    "labels": [(f"go to {n}", "gym" if n < "m" else "taxi") for n in NAMES],
    "extraction": [(f"Order {i} by {n}", json.dumps({"order": str(i), "name": n})) for i, n in enumerate(NAMES)],
    "sums": [(f"{i * 37} + {i * 91}", str(i * 128)) for i in range(60)],
    "style": [(f"{n} is late", f"Dear customer, we regret that your {n} is late.") for n in NAMES],
}


@pytest.mark.parametrize("name", [*FACTS, *SKILLS])
def test_knowledge_is_told_from_skill(name: str, tmp_path: Path) -> None:
    """Facts that only the references hold warn of retrieval; labels, extraction, sums and style do not."""
    rows = [{"prompt": question, "completion": answer} for question, answer in {**FACTS, **SKILLS}[name]]
    data = curate.curate(write(tmp_path, rows))
    assert any(f.check == "knowledge" for f in data.findings) == (name in FACTS)
