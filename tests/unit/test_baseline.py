"""The baseline's search: what it tries, what it costs, and what it chooses."""

import json
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import answer_format, shots, suite
from pytest_finetune.baseline import answers_expected
from pytest_finetune.claims import Asked, Gate
from pytest_finetune.errors import PromptIsEnough, PromptTooLong, SuiteError
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import PLAIN, Adapter, Example, Message
from pytest_finetune.rows import Rows
from pytest_finetune.store import Store

SUITE = """
model = "embedded"
task = "classification"
data = {{ train = "train.jsonl", heldout = "heldout.jsonl", dev_share = 0.4 }}
answer = {{ labels = ["even", "odd"] }}
generation = {{ max_new_tokens = 4 }}
{more}
"""


def asked_number(prompt: Turns) -> int:
    """Return the number a prompt asks about: its last word."""
    return int(prompt[-1].content.split()[-1])


def truth(number: int) -> str:
    """Return the right label."""
    return ["even", "odd"][number % 2]


def open_pipeline(folder: Path, engine: FakeEngine, more: str = "", rows: int = 200) -> Pipeline:
    """Return a pipeline over ``rows`` train rows."""
    for name, numbers in (("train", range(rows)), ("heldout", range(5000, 5200))):
        lines = (json.dumps({"prompt": f"number {i}", "completion": truth(i)}) for i in numbers)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "suite.toml").write_text(SUITE.format(more=more))
    spec = suite.load(folder / "suite.toml", folder)
    return Pipeline(spec, Workplace(Store(folder / ".finetune"), lambda name: engine))


def by_chance(knows: float) -> "FakeEngine":
    """Return an engine whose base model is right on a share of numbers; the adapter always is."""

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        number = asked_number(prompt)
        return truth(number) if adapter or number * 7919 % 100 < 100 * knows else "?"

    return FakeEngine(answer)


def test_finds_what_helps(tmp_path: Path) -> None:
    """A model that needs the second instruction, the format and three examples gets them."""

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        system, examples = prompt[0].content, len(prompt) // 2 - 1
        level = (system.startswith("good")) + ("one of these" in system) + (examples >= 3)
        return truth(asked_number(prompt)) if asked_number(prompt) * 7919 % 4 < level + 1 else "?"

    found = open_pipeline(tmp_path, FakeEngine(answer), 'prompts = { candidates = ["bad", "good"] }').baseline
    assert found.prompt.system.startswith("good\nAnswer with one of these and nothing else: even, odd.")
    assert found.prompt.count == 3
    assert found.score == 1.0
    assert found.plain_score == pytest.approx(0.25, abs=0.1)


def test_no_chat_template_where_that_is_better(tmp_path: Path) -> None:
    """A model that only continues plain text gets its prompts without the chat template."""

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        return truth(asked_number(prompt)) if prompt[0].role == PLAIN else "?"

    found = open_pipeline(tmp_path, FakeEngine(answer)).baseline
    assert not found.prompt.chat
    assert found.score == 1.0


def test_cost_is_what_was_expected(tmp_path: Path) -> None:
    """The search asks for as many answers as the plan says, and about three dev splits where that is large."""
    pipeline = open_pipeline(tmp_path, by_chance(0.5), rows=3000)
    found = pipeline.baseline
    assert found.rows == 1200
    assert found.answers <= answers_expected(pipeline.spec, pipeline.data)
    assert 2 * found.rows <= found.answers <= 3.5 * found.rows
    assert {c.shots for c in found.candidates} == {0, 1, 3, 5, 8}
    assert {c.selection for c in found.candidates} == {"", "fixed", "balanced", "retrieved"}


def test_prompt_that_never_fits(tmp_path: Path) -> None:
    """Examples that the suite asks for and the context has no room for are an error with numbers."""
    engine = by_chance(0.5)
    with pytest.raises(SuiteError, match=r"shots = 60: candidate 1 with 60 examples is \d+ tokens long; .* context of"):
        _ = open_pipeline(tmp_path, engine, "prompts = { shots = [0, 60] }").baseline
    with pytest.raises(SuiteError, match=r"shots = 64: train has 30 rows"):
        _ = open_pipeline(tmp_path, engine, "prompts = { shots = [64] }", rows=50).baseline
    assert "train" not in engine.calls
    with pytest.raises(PromptTooLong, match=r"candidate 1 .*with 0 examples is"):
        _ = open_pipeline(tmp_path, engine, f'prompts = {{ candidates = ["{"word " * 120}"] }}').baseline


def test_long_heldout_row(tmp_path: Path) -> None:
    """A held-out row that the best prompt leaves no room for is named before anything is trained."""
    engine = by_chance(0.5)
    pipeline = open_pipeline(tmp_path, engine, "checks = { truncated = { on_issue = 'off' } }")
    with (tmp_path / "heldout.jsonl").open("a") as stream:
        stream.write(json.dumps({"prompt": "word " * 120 + "number 9999", "completion": "odd"}) + "\n")
    with pytest.raises(PromptTooLong, match=r"heldout.jsonl:201: with the best prompt .* has 122 tokens"):
        _ = pipeline.adapter
    assert "train" not in engine.calls


def test_prompt_is_enough(tmp_path: Path) -> None:
    """Where the best prompt reaches the target nothing is trained, and the verdict says what to do."""
    engine = by_chance(0.95)
    with pytest.raises(PromptIsEnough, match="do not fine-tune"):
        _ = open_pipeline(tmp_path, engine, "gate = { target = 0.9 }").adapter
    assert "train" not in engine.calls
    _ = open_pipeline(tmp_path, engine, "gate = { target = 0.99 }").adapter
    assert engine.calls["train"] == 1


def test_method_prompt_ships_the_best_prompt(tmp_path: Path) -> None:
    """Method prompt trains nothing: the best prompt is gated against the plain instruction."""

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        assert adapter is None
        return truth(asked_number(prompt)) if prompt[0].content.startswith("good") else "?"

    engine = FakeEngine(answer)
    more = 'prompts = { candidates = ["bad", "good"] }\ntraining = { method = "prompt" }'
    pipeline = open_pipeline(tmp_path, engine, more)
    handle = AdapterHandle(pipeline)
    plain = ModelHandle(pipeline, "baseline", pipeline.plain)
    rows = Rows("held-out", pipeline.data.heldout, pipeline.spec.gate.metric)
    assert Gate(pipeline, Asked("test")).beats(handle, plain, on=rows).outcome == "PASS"
    assert json.loads((handle.path / "prompt.json").read_text())["system"].startswith("good")
    assert "train" not in engine.calls


@pytest.mark.parametrize(("target", "climbed"), [(0.6, [2]), (0.9, [2, 4, 8]), (1.0, [2, 4, 8, 16])])
def test_ladder_stops_at_the_target(tmp_path: Path, target: float, climbed: list[int]) -> None:
    """The ladder trains from the smallest rank up and stops at the first that reaches the target on the dev split."""
    right = {0: 0, 2: 11, 4: 13}  # of 16 numbers, by rank

    def answer(prompt: Turns, adapter: Adapter | None) -> str:
        rank = adapter.curve.trainable_parameters if adapter and adapter.curve else 0  # the fake trains rank weights
        return truth(asked_number(prompt)) if asked_number(prompt) * 7919 % 16 < right.get(rank, 15) else "?"

    pipeline = open_pipeline(
        tmp_path, FakeEngine(answer), f"training = {{ ladder = [16, 4, 2, 8] }}\ngate = {{ target = {target} }}"
    )
    adapter = pipeline.adapter
    assert [rung.rank for rung in adapter.rungs] == climbed
    assert adapter.curve
    shipped = adapter.curve.trainable_parameters
    assert shipped == (climbed[-1] if target < 1 else 8)  # of equal rungs the smaller one


texts = st.lists(
    st.sampled_from(["lost", "card", "payment", "failed", "top", "up", "7", "8"]), min_size=1, max_size=6
).map(" ".join)


def example(text: str, reference: str = "a") -> Example:
    """Return a row."""
    return Example(text, (Message("user", text),), reference, "file", 1)


@given(st.lists(texts, min_size=1, max_size=20, unique=True), st.integers(1, 8))
def test_retrieved_examples_are_like_the_row(pool: list[str], count: int) -> None:
    """All examples are distinct, and the last one, next to the question, shares a word with it."""
    retriever = shots.Retriever([example(text) for text in pool])
    for text, found in zip(pool, retriever.nearest(pool, count), strict=True):
        assert len({e.text for e in found}) == min(count, len(pool))
        assert set(text.split()) & set(found[-1].text.split())


@given(st.lists(st.tuples(texts, st.sampled_from("abc")), min_size=1, max_size=30, unique_by=lambda row: row[0]))
def test_balanced_examples_differ_in_label(rows: list[tuple[str, str]]) -> None:
    """With as many examples as labels, balanced ones have one of each."""
    train = [example(text, label) for text, label in rows]
    labels = {label for _, label in rows}
    assert {e.reference for e in shots.balanced(train, len(labels))} == labels
    assert len(shots.fixed(train, 3)) == min(3, len(train))


def test_answer_format_of_a_schema() -> None:
    """The sentence names every key with its values, and what is optional."""
    schema = {
        "properties": {"queue": {"enum": ["billing", "login"]}, "order": {"type": "string", "pattern": "^[0-9]+$"}},
        "required": ["queue"],
    }
    assert answer_format.instruction((), json.dumps(schema)) == (
        'Answer with a JSON object and nothing else, with the keys "queue" (one of "billing", "login"), '
        '"order" (string like ^[0-9]+$, optional).'
    )
