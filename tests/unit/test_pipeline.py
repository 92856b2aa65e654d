"""The stages over a fake engine: what runs, what is reused, what is refused."""

import json
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from pytest_finetune import suite
from pytest_finetune.claims import Asked, ClaimNotProven, Gate
from pytest_finetune.errors import DataRefused
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter
from pytest_finetune.rows import Rows
from pytest_finetune.store import Store

LABELS = ["even", "odd"]


def write_rows(path: Path, numbers: range) -> None:
    """Write rows that ask whether a number is even."""
    rows = [{"prompt": f"number {i}", "completion": LABELS[i % 2]} for i in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite of 60 training and 200 held-out rows."""
    write_rows(tmp_path / "train.jsonl", range(60))
    write_rows(tmp_path / "heldout.jsonl", range(100, 300))
    (tmp_path / "suite.toml").write_text(
        'model = "embedded"\ntask = "classification"\n'
        'data = { train = "train.jsonl", heldout = "heldout.jsonl" }\n'
        'prompts = { candidates = ["bad", "good"], shots = [0, 2] }\n'
    )
    return tmp_path


def answer(prompt: Turns, adapter: Adapter | None) -> str:
    """The adapter is always right; the base model only with the good prompt, for small numbers."""
    number = int(prompt[-1].content.split()[-1])
    knows = adapter is not None or (prompt[0].content.startswith("good") and number < 150)
    return LABELS[number % 2] if knows else "?"


def open_pipeline(folder: Path, engine: FakeEngine) -> Pipeline:
    """Return the suite's pipeline as a new run would open it."""
    spec = suite.load(folder / "suite.toml", folder)
    return Pipeline(spec, Workplace(Store(folder / ".finetune"), lambda name: engine))


def beats(pipeline: Pipeline, margin: float | None = None) -> str:
    """Run the gate's first claim and return its outcome."""
    baseline = ModelHandle(pipeline, "baseline", pipeline.baseline.prompt)
    rows = Rows("held-out", pipeline.data.heldout, pipeline.spec.gate.metric)
    gate = Gate(pipeline, Asked("test"))
    return gate.beats(AdapterHandle(pipeline), baseline, on=rows, margin=margin).outcome


def test_best_prompt_wins_on_the_dev_split(folder: Path) -> None:
    """The good prompt without shots is the baseline: equal scores go to fewer shots."""
    pipeline = open_pipeline(folder, FakeEngine(answer))
    assert pipeline.baseline.prompt.system == "good"
    assert not pipeline.baseline.prompt.shots
    assert {c.shots for c in pipeline.baseline.candidates} == {0, 2}
    assert {c.chat for c in pipeline.baseline.candidates} == {True, False}


def test_nothing_changed_asks_no_engine(folder: Path) -> None:
    """A second run over the same inputs takes everything from the store."""
    first, second = FakeEngine(answer), FakeEngine(answer)
    assert beats(open_pipeline(folder, first)) == "PASS"
    assert first.calls["train"] == 1
    assert beats(open_pipeline(folder, second)) == "PASS"
    assert second.calls == {}


def test_margin_changes_no_stage(folder: Path) -> None:
    """Another margin is decided from stored outputs; one out of reach fails, at later looks at most."""
    beats(open_pipeline(folder, FakeEngine(answer)))
    engine = FakeEngine(answer)
    beats(open_pipeline(folder, engine), margin=0.1)
    assert engine.calls == {}
    with pytest.raises(ClaimNotProven, match="FAIL"):
        beats(open_pipeline(folder, engine), margin=0.95)
    assert engine.calls.keys() <= {"generate", "lengths"}


def test_changed_row_trains_again(folder: Path) -> None:
    """One row more in train is another adapter."""
    beats(open_pipeline(folder, FakeEngine(answer)))
    write_rows(folder / "train.jsonl", range(61))
    engine = FakeEngine(answer)
    beats(open_pipeline(folder, engine))
    assert engine.calls["train"] == 1


def test_leak_is_refused(folder: Path) -> None:
    """A held-out row that is trained on, in other spacing and case, is refused and named."""
    with (folder / "train.jsonl").open("a") as stream:
        stream.write('{"prompt": "NUMBER  100", "completion": "even"}\n')
    with pytest.raises(DataRefused, match=r"leakage: 1 held-out .*heldout.jsonl:1 = train.jsonl:61"):
        _ = open_pipeline(folder, FakeEngine(answer)).data


def test_dev_split_is_stable_and_disjoint(folder: Path) -> None:
    """Dev rows come from train only, and stay where they are when a row is added."""
    before = open_pipeline(folder, FakeEngine(answer)).data
    assert not {e.id for e in before.dev} & {e.id for e in (*before.train, *before.heldout)}
    write_rows(folder / "train.jsonl", range(61))
    after = open_pipeline(folder, FakeEngine(answer)).data
    assert len({e.id for e in before.dev} & {e.id for e in after.dev}) >= len(before.dev) - 1


def test_class_weights_balance_labels(folder: Path) -> None:
    """With class weights every label weighs the same in all, and a row 1 in the mean; replay rows weigh 1."""
    rows = [{"prompt": f"number {i}", "completion": LABELS[i % 3 == 0]} for i in range(90)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "suite.toml").open("a") as stream:
        stream.write('answer = { labels = ["even", "odd"] }\ntraining = { class_weights = true }\n')
    pipeline = open_pipeline(folder, FakeEngine(answer))
    train = pipeline.train_spec(pipeline.training).train
    weights = {label: sum(c.weight for c in train if c.completion == label) for label in LABELS}
    assert weights["even"] == pytest.approx(weights["odd"])
    assert sum(weights.values()) == pytest.approx(len(train))
