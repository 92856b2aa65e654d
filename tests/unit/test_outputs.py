"""Scores made elsewhere: read as lm-eval or plain lines, paired by id, and refused in one line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import outputs, suite
from pytest_finetune.errors import SuiteError
from pytest_finetune.outputs import Outputs
from pytest_finetune.suite import OutputsSpec

Line = Mapping[str, Any]
PLAIN = [{"id": f"row {i}", "score": i % 2, "output": f"said {i}", "slice": "ab"[i % 2]} for i in range(4)]


def harness(number: int, **changes: Any) -> dict[str, Any]:
    """Return a line as EleutherAI/lm-evaluation-harness logs a sample (lm_eval/evaluator.py, `example`)."""
    return {
        "doc_id": number,
        "doc": {"question": f"What is {number}?"},
        "target": f"{number}",
        "arguments": {"gen_args_0": {"arg_0": f"Q: What is {number}?\nA:", "arg_1": {"until": ["\n"]}}},
        "resps": [[f" {number}."]],
        "filtered_resps": [f"{number}"],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": f"doc {number}",
        "prompt_hash": f"prompt {number}",
        "target_hash": f"target {number}",
        "exact_match": 1.0,
        **changes,
    }


def read(folder: Path, base: Sequence[Line], adapter: Sequence[Line], metric: str = "") -> Outputs:
    """Write both sides and read them."""
    for name, lines in (("base", base), ("adapter", adapter)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return outputs.read(OutputsSpec(str(folder / "base.jsonl"), str(folder / "adapter.jsonl"), metric), "arc")


def test_plain_lines_are_paired_by_id(tmp_path: Path) -> None:
    """The order of the adapter's lines does not matter; texts, slices and places are kept."""
    found = read(tmp_path, PLAIN, [{**line, "score": 0.25} for line in reversed(PLAIN)])
    assert [example.id for example in found.examples] == [f"row {i}" for i in range(4)]
    assert (found.base, found.adapter) == ((0, 1, 0, 1), (0.25,) * 4)
    assert found.examples[1].slice == "b"
    assert found.examples[1].line == 2
    part = found.measured("adapter", "arc", found.examples[2:], of_adapter=True)
    assert (part.ids, part.outputs, part.scores) == (("row 2", "row 3")[:2], ("said 2", "said 3"), (0.25, 0.25))


@given(st.permutations(range(6)), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_pairs_survive_any_order(order: list[int], scores: list[float]) -> None:
    """Whatever order a side is written in, each id meets its own score."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        base = [{"id": i, "score": scores[i]} for i in range(6)]
        found = read(Path(folder), base, [base[i] for i in order])
    assert found.base == found.adapter == tuple(scores)


def test_samples_of_the_harness(tmp_path: Path) -> None:
    """A generated task's samples: what was asked, the reference, the filtered answer and the only metric."""
    found = read(tmp_path, [harness(i) for i in range(3)], [harness(i, exact_match=0) for i in range(3)])
    assert found.examples[1].text == "Q: What is 1?\nA:"
    assert found.examples[1].reference == "1"
    assert found.base_texts == ("0", "1", "2")
    assert found.adapter == (0.0, 0.0, 0.0)


def test_filters_are_chosen_as_the_harness_names_them(tmp_path: Path) -> None:
    """Two filters a document: metric,filter picks one; without it the second line of a document is refused."""
    lines = [
        harness(i, filter=name, exact_match=float(name == "strict-match"))
        for i in range(3)
        for name in ("strict-match", "flexible-extract")
    ]
    assert read(tmp_path, lines, lines, "exact_match,strict-match").base == (1.0, 1.0, 1.0)
    assert read(tmp_path, lines, lines, "exact_match,flexible-extract").base == (0.0, 0.0, 0.0)
    with pytest.raises(SuiteError, match=r"base.jsonl:2: id 0 stands in line 1, too; name one of its filters"):
        read(tmp_path, lines, lines, "exact_match")
    with pytest.raises(SuiteError, match="no line is of metric 'exact_match,strict'"):
        read(tmp_path, lines, lines, "exact_match,strict")


BAD: dict[str, tuple[Sequence[Line], str, str]] = {
    "no score": ([{"id": 1}], "", r"adapter.jsonl:1: the row has no field 'score'"),
    "no id": ([{"score": 1}], "", r"adapter.jsonl:1: the row has no field 'id'"),
    "beyond 1": ([{"id": 1, "score": 1.5}], "", r"adapter.jsonl:1: score is 1.5; a score must be a number from 0 to 1"),
    "NaN": ([{"id": 1, "score": float("nan")}], "", r"adapter.jsonl:1: score is NaN; a score must be"),
    "text": ([{"id": 1, "score": "good"}], "", r'adapter.jsonl:1: score is "good"; a score must be'),
    "twice": ([{"id": 1, "score": 1}, {"id": 1, "score": 0}], "", r"adapter.jsonl:2: id 1 stands in line 1, too$"),
    "id": ([{"id": [1], "score": 1}], "", r"adapter.jsonl:1: the id \[1\] is neither text nor a whole number"),
    "metric": ([harness(1)], "exact_mach", r"jsonl:1: .*did you mean 'exact_match'\?"),
    "metrics": ([harness(1, metrics=["acc", "acc_norm"], acc=1, acc_norm=1)], "", r"'' is not one of acc, acc_norm"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_named(name: str, tmp_path: Path) -> None:
    """What a line lacks is said in one line, with its file and number."""
    adapter, metric, said = BAD[name]
    with pytest.raises(SuiteError, match=said) as caught:
        read(tmp_path, [harness(1, exact_mach=1)] if "doc_id" in adapter[0] else PLAIN, adapter, metric)
    assert "\n" not in str(caught.value)


def test_sides_of_other_rows(tmp_path: Path) -> None:
    """Ids of one side only, and documents that differ, are refused."""
    with pytest.raises(SuiteError, match=r"adapter.jsonl: general arc: 1 of 4 ids .*first: row 3"):
        read(tmp_path, PLAIN, PLAIN[:3])
    with pytest.raises(SuiteError, match=r"base.jsonl: general arc: 1 of 4 ids .*first: row 3"):
        read(tmp_path, PLAIN[:3], PLAIN)
    with pytest.raises(SuiteError, match=r"adapter.jsonl: general arc: id 1 is another document than in base.jsonl"):
        read(tmp_path, [harness(1)], [harness(1, doc_hash="other")])


SUITE = 'model = "embedded"\ndata = { train = "rows.jsonl", heldout = "rows.jsonl" }\n[[general]]\n'


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('name = "x"', "general.0 needs one of 'data' .* and 'outputs'"),
        ('data = "rows.jsonl"\noutputs = { base = "a", adapter = "b" }', "general.0 needs one of"),
        (
            'outputs = { base = "samples_*.jsonl", adapter = "b" }',
            "must match one file; it matches samples_1.jsonl, sam",
        ),
        (
            'outputs = { base = "samples_1.jsonl", adapter = "gone_*" }',
            "adapter = 'gone_\\*' must match one .*matches none",
        ),
        ('outputs = { base = "samples_1.jsonl", adapter = "gone" }', "no such file"),
        ('outputs = { base = "samples_1.jsonl" }', "'adapter' is missing"),
        ('outputs = { base = "samples_1.jsonl", adapter = "samples_2.jsonl", of = "xyz" }', "of"),
    ],
)
def test_mistakes_in_the_suite(entry: str, said: str, tmp_path: Path) -> None:
    """Neither rows nor outputs, both, no file or two files: one line each."""
    for name in ("rows", "samples_1", "samples_2"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "suite.toml").write_text(SUITE + entry + "\n")
    with pytest.raises(SuiteError, match=said):
        suite.load(tmp_path / "suite.toml", tmp_path)
