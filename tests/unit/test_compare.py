"""`pytest-finetune compare`: two saved runs, paired by example."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import escaping
from pytest_finetune import cli
from pytest_finetune.records import Measurement, RowText, RunRecord, to_plain
from pytest_finetune.report import compare, run_json

HARMLESS = escaping.run_of([f"text {i}" for i in range(escaping.A_RUN)])
ROWS = [f"row {i}" for i in range(100)]


def run(scores: Mapping[str, float], outcome: str = "PASS", name: str = "intent") -> RunRecord:
    """Return a run of a suite whose adapter had these scores, and a claim that came to this outcome."""
    outputs = tuple(f"{row} scored {score:.0f}" for row, score in scores.items())
    made = Measurement("adapter", "held-out", "exact", tuple(scores), outputs, tuple(scores.values()))
    (suite,) = HARMLESS.suites
    (verdict,) = suite.verdicts
    claims = (replace(verdict.claims[0], name="adapter beats baseline", on="held-out", outcome=outcome),)  # type: ignore[arg-type]  # one of three
    texts = tuple(RowText(row, f"heldout.jsonl:{i}", f"question {row}", "answer") for i, row in enumerate(scores))
    judged = replace(
        suite, name=name, measurements=(made,), verdicts=(replace(verdict, claims=claims),), texts={"held-out": texts}
    )
    return replace(HARMLESS, suites=(judged,))


def said(first: RunRecord, second: RunRecord) -> str:
    """Return what is said of two runs."""
    return "\n".join(text for text, _ in compare.run_lines(first, second))


def test_rows_are_paired_by_example() -> None:
    """The same scores in another order are no change; rows of one run only are counted, and left out."""
    rng = random.Random(0)
    scores = {row: float(i % 2) for i, row in enumerate(ROWS)}
    order = rng.sample(ROWS, len(ROWS))
    text = said(run(scores), run({row: scores[row] for row in order[:80]} | {"new": 1.0}))
    assert "adapter on held-out (exact): " in text
    assert "+0.0 [" in text
    assert "n 80, won 0, lost 0, tied 80, 20 rows only in the first run, 1 rows only in the second run" in text
    assert "lost examples" not in text


def test_a_change_shows_with_its_interval_and_rows() -> None:
    """A run that lost ten rows of a hundred: the difference, its exact 95 % interval, the claim and the worst rows."""
    better = dict.fromkeys(ROWS, 1.0)
    worse = better | dict.fromkeys(ROWS[:10], 0.0)
    text = said(run(better), run(worse, "FAIL"))
    assert "100.0 % -> 90.0 %, -10.0 [-17.6, -4.9], n 100, won 0, lost 10, tied 90" in text
    assert "adapter beats baseline on held-out: PASS -> FAIL" in text
    assert "adapter, heldout.jsonl:0  question row 0" in text
    assert "row 0 scored 0" in text
    assert text.count("  asked") == compare.WORST


def test_runs_without_common_rows_or_claims() -> None:
    """What only one run has is said, and nothing is computed of no rows."""
    text = said(run({"a": 1.0}), run({"b": 1.0}))
    assert "no row is in both runs, 1 rows only in the first run" in text


def saved(path: Path, found: RunRecord) -> str:
    """Return the path of a saved run."""
    run_json.write(found, path)
    return str(path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files are compared; runs of no common suite, and one of another schema, are one line each."""
    one, other = saved(tmp_path / "a.json", run({"a": 1.0})), saved(tmp_path / "b.json", run({"a": 1.0}, name="tone"))
    assert cli.main(["compare", one, one]) == 0
    assert "intent" in capsys.readouterr().out
    assert cli.main(["compare", one, other]) == 4
    assert capsys.readouterr().err == "ERROR: no suite is in both runs: intent in the first, tone in the second\n"
    (tmp_path / "c.json").write_text(json.dumps({**to_plain(run({"a": 1.0})), "schema": 1}))
    assert cli.main(["compare", one, str(tmp_path / "c.json")]) == 4
    assert "c.json: a run of schema 1, and this version reads 2 only" in capsys.readouterr().err
