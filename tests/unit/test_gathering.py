"""What is asked of the engine: no request twice, and all that is sure to be needed in few calls."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from pytest_finetune import fixtures, suite
from pytest_finetune.claims import Asked, ClaimNotProven, Gate
from pytest_finetune.foresight import Foresight
from pytest_finetune.handles import AdapterHandle
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Answers, Generation, Model, Verdict
from pytest_finetune.store import Store

LABELS = ("even", "odd")
GENERAL = ("first", "second", "third")
SUITE = """
model = "embedded"
task = "classification"
data = {{ train = "../train.jsonl", heldout = "heldout.jsonl" }}
prompts = {{ candidates = ["{name}"], shots = [0], chat_template = "on", answer_format = false }}
training = {{ rank = {rank} }}
[gate]
max_drop = 0.08
guard = 0.2
[[general]]
data = "../first.jsonl"
[[general]]
data = "../second.jsonl"
[[general]]
data = "../third.jsonl"
"""


class Recorder(FakeEngine):
    """Notes what each call was asked: by which adapter, and which numbers."""

    def __init__(self) -> None:
        super().__init__(answer)
        self.asked: list[tuple[str, list[int]]] = []

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        self.asked.append((adapter.digest if adapter else "", [number(prompt) for prompt in prompts]))
        return super().generate(model, adapter, prompts, generation)

    def general(self) -> list[tuple[str, int]]:
        """Return who was asked how many general rows, a call that asked some each."""
        counts = [(who, sum(n >= 10_000 for n in numbers)) for who, numbers in self.asked]
        return [("adapter" if who else "base", count) for who, count in counts if count]


def number(prompt: Turns) -> int:
    """Return the number a prompt asks about."""
    return int(prompt[-1].content.split()[-1])


def answer(prompt: Turns, adapter: Adapter | None) -> str:
    """The adapter knows all; the base model only what is general."""
    return LABELS[number(prompt) % 2] if adapter or number(prompt) >= 10_000 else "?"


def write_rows(path: Path, numbers: range) -> None:
    """Write rows that ask whether a number is even."""
    rows = ({"prompt": f"number {i}", "completion": LABELS[i % 2]} for i in numbers)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two suites on one base model, with the same three general suites of 500 rows."""
    write_rows(tmp_path / "train.jsonl", range(60))
    for i, name in enumerate(GENERAL, 1):
        write_rows(tmp_path / f"{name}.jsonl", range(10_000 * i, 10_000 * i + 500))
    for rank, name in ((4, "a"), (8, "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "suite.toml").write_text(SUITE.format(name=name, rank=rank))
        write_rows(tmp_path / name / "heldout.jsonl", range(1000, 1500))
    return tmp_path


def opened(root: Path, engine: FakeEngine, names: Sequence[str] = "a", **place: object) -> list[Pipeline]:
    """Return suites' pipelines as one new run would open them."""
    workplace = Workplace(Store(root / ".finetune"), lambda name: engine, **place)  # type: ignore[arg-type]  # names vary
    return [Pipeline(suite.load(root / name / "suite.toml", root), workplace) for name in names]


def beats(pipeline: Pipeline, margin: float = 0.05) -> Verdict:
    """Prove the first claim."""
    gate, rows = Gate(pipeline, Asked("test")), fixtures.heldout(pipeline)
    return gate.beats(AdapterHandle(pipeline), fixtures.baseline(pipeline), on=rows, margin=margin)


def keeps(pipeline: Pipeline) -> Verdict:
    """Prove that general skills are kept."""
    base, rows = fixtures.base_model(pipeline), fixtures.general(pipeline)
    return Gate(pipeline, Asked("test")).keeps(AdapterHandle(pipeline), base, on=rows)


def test_one_row_more_asks_one_row(root: Path) -> None:
    """A held-out row that was added is asked once of each subject; another margin asks nothing."""
    beats(opened(root, Recorder(), early_stop=False)[0])
    engine = Recorder()
    beats(opened(root, engine, early_stop=False)[0], margin=0.1)
    assert not engine.calls
    write_rows(root / "a" / "heldout.jsonl", range(1000, 1501))
    beats(opened(root, engine, early_stop=False)[0])
    assert sorted(numbers for _, numbers in engine.asked) == [[1500], [1500]]
    assert "train" not in engine.calls


def test_the_batch_size_changes_no_answer(root: Path) -> None:
    """Other batches ask nothing again; longer answers ask all."""
    beats(opened(root, Recorder())[0])
    file = root / "a" / "suite.toml"
    file.write_text(file.read_text() + "[generation]\nbatch_size = 7\n")
    engine = Recorder()
    beats(opened(root, engine)[0])
    assert not engine.calls
    file.write_text(file.read_text() + "max_new_tokens = 7\n")
    beats(opened(root, engine)[0])
    assert engine.requests["generate"] > 100


def test_a_look_asks_all_data_sets_in_one_call(root: Path) -> None:
    """Each look asks each subject once for the next part of all general suites."""
    engine = Recorder()
    assert keeps(opened(root, engine)[0]).outcome == "PASS"
    assert engine.general() == [("base", 300), ("adapter", 300)]
    file = root / "a" / "suite.toml"
    file.write_text(file.read_text().replace("0.08", "0.03"))  # which takes another look
    again = Recorder()
    assert keeps(opened(root, again)[0]).outcome == "PASS"
    assert again.general() == [("base", 300), ("adapter", 300)]


def test_suites_share_the_base_models_answers(root: Path) -> None:
    """General rows that two suites have in common are asked once of the base model, also in runs of their own."""
    engine = Recorder()
    for pipeline in opened(root, engine, "ab"):
        keeps(pipeline)
    assert engine.general() == [("base", 300), ("adapter", 300), ("adapter", 300)]
    write_rows(root / "b" / "heldout.jsonl", range(1000, 1400))
    again = Recorder()
    keeps(opened(root, again, "b")[0])
    assert not again.general()


def test_what_is_sure_to_be_needed_goes_along(root: Path) -> None:
    """The first call to the base model answers its general rows, the adapter's first call its own, for all suites."""
    engine = Recorder()
    both = opened(root, engine, "ab")
    for pipeline in both:
        foresight = Foresight(
            pipeline,
            [
                ("gate", "adapter", "baseline", "heldout"),
                ("gate", "base_model", "general"),
                ("gate", "adapter", "general"),
            ],
        )
        pipeline.workplace.rows.foresee.append(foresight)
        _ = pipeline.curated  # as collection reads it
    for pipeline in both:
        beats(pipeline)
        keeps(pipeline)
    assert engine.general() == [("base", 300), ("adapter", 300), ("adapter", 300)]
    plain = Recorder()
    (root / ".finetune").rename(root / "other")
    for pipeline in opened(root, plain, "ab"):
        beats(pipeline)
        keeps(pipeline)
    assert engine.requests["generate"] == plain.requests["generate"]
    assert engine.calls["generate"] < plain.calls["generate"]


def test_a_refused_suite_asks_nothing_of_others_calls(root: Path) -> None:
    """Rows of a suite whose data is refused go along with nobody's."""
    (root / "train.jsonl").write_text((root / "train.jsonl").read_text() + (root / "b" / "heldout.jsonl").read_text())
    write_rows(root / "a" / "heldout.jsonl", range(2000, 2500))
    engine = Recorder()
    good, refused = opened(root, engine, "ab")
    good.workplace.rows.foresee.append(Foresight(refused, [("gate", "base_model", "general")]))
    assert any(finding.refuses for finding in refused.curated.findings)
    beats(good)
    assert not engine.general()


def test_cases_ask_what_the_gate_has_not(root: Path) -> None:
    """A per-case test asks the adapter only for the rows that no look has measured."""
    engine = Recorder()
    (pipeline,) = opened(root, engine)
    beats(pipeline)
    asked = engine.requests["generate"]
    AdapterHandle(pipeline).generate(fixtures.heldout(pipeline))
    assert engine.requests["generate"] == asked + 400


def test_hub_scores_are_kept_by_pair(root: Path) -> None:
    """An `evaluate` module scores each pair of answer and reference once, in this run and in later ones."""
    file = root / "a" / "suite.toml"
    file.write_text(file.read_text().replace("[gate]", '[gate]\nmetric = "evaluate:exact_match"'))
    first, second = Recorder(), Recorder()
    beats(opened(root, first, early_stop=False)[0])
    assert first.requests["evaluate"] == 4  # even or odd, and the right answer or none
    write_rows(root / "a" / "heldout.jsonl", range(1000, 1501))
    beats(opened(root, second, early_stop=False)[0])
    assert "evaluate" not in second.calls


def test_a_look_that_settles_nothing_asks_the_next_part(root: Path) -> None:
    """Rows are asked look by look, each once."""
    engine = Recorder()
    (pipeline,) = opened(root, engine)
    with pytest.raises(ClaimNotProven):
        beats(pipeline, margin=0.999)
    heldout = [n for who, numbers in engine.asked for n in numbers if who and 1000 <= n < 1500]
    assert len(heldout) == len(set(heldout)) == 500
