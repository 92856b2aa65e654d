"""What init makes of rows that it did not write."""

import json
import tomllib
from pathlib import Path

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_finetune import suite
from pytest_finetune.starter import columns, samples, texts
from pytest_finetune.suite import Fields

SOUND = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(st.none() | st.booleans() | st.integers() | SOUND, lambda inner: st.lists(inner, max_size=2))


@given(SOUND)
def test_any_text_is_quoted(text: str) -> None:
    """A label, path or column comes back from suite.toml as it was."""
    assert tomllib.loads(f"key = {texts.quoted(text)}") == {"key": text}


@settings(max_examples=30)
@given(st.lists(st.dictionaries(SOUND, PLAIN, max_size=3), min_size=1, max_size=4))
def test_schema_fits_every_answer(rows: list[dict[str, object]]) -> None:
    """The schema that is made of JSON answers refuses none of them."""
    schema = columns.answers([json.dumps(row) for row in rows]).schema
    assert schema
    for row in rows:
        jsonschema.validate(row, schema)


def test_what_answers_are() -> None:
    """Few different answers are labels; JSON objects are extraction, also where few; others are text."""
    assert columns.answers(["yes", "no"] * 10).labels == ("no", "yes")
    assert columns.answers(["yes", "no", "on"]).task == "instruction"
    assert columns.answers(["same"] * 50).task == "instruction"
    assert columns.answers(['{"a": 1}', '{"a": 2}'] * 10).task == "extraction"
    assert not columns.answers(["yes", "n\x00"] * 10).labels
    assert not columns.answers(["yes", ""] * 10).labels
    assert columns.answers(["é" * 10]).longest_bytes == 20


def test_longest_reference_has_room(tmp_path: Path) -> None:
    """A suite of long references lets a model answer as long."""
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("")
    long = columns.Answers((), {}, 1000)
    plan = texts.Plan("style", "embedded", "", "a.jsonl", "b.jsonl", Fields(), long, [], ["x"], sample=False)
    (tmp_path / suite.FILE).write_text(texts.suite(plan))
    spec = suite.load(tmp_path / suite.FILE, tmp_path)
    assert 500 <= spec.generation.max_new_tokens <= 1000
    assert spec.gate.metric == "token_f1"


def test_samples_are_the_same_every_time() -> None:
    """Two people who start get the same rows, and no question is both trained on and judged by."""
    for task in samples.SAMPLES:
        files = samples.files(task)
        assert files == samples.files(task)
        asked = {name: {json.loads(line)["prompt"] for line in text.splitlines()} for name, text in files.items()}
        for held_out, trained in (("heldout", "train"), ("compare", "compare-replay"), ("dates", "dates-replay")):
            assert not asked[f"{held_out}.jsonl"] & asked[f"{trained}.jsonl"]
