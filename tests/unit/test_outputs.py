"""Scores made elsewhere: read as lm-eval or plain lines, paired by id, and refused in one line."""

import json
import tempfile
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
    assert [example.text for example in found.examples] == [f"row {i}" for i in range(4)]
    assert len({example.id for example in found.examples}) == 4
    assert (found.base, found.adapter) == ((0, 1, 0, 1), (0.25,) * 4)
    assert found.examples[1].slice == "b"
    assert found.examples[1].line == 2
    part = found.measured("adapter", "arc", found.examples[2:], of_adapter=True)
    assert part.ids == tuple(example.id for example in found.examples[2:])
    assert (part.outputs, part.scores) == (("said 2", "said 3"), (0.25, 0.25))


@given(st.permutations(range(6)), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_pairs_survive_any_order(order: list[int], scores: list[float]) -> None:
    """Whatever order a side is written in, each id meets its own score."""
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
    with pytest.raises(SuiteError, match=r'base.jsonl:2: id 0 .*"exact_match,strict-match" or "exact_match,flex'):
        read(tmp_path, lines, lines, "exact_match")
    with pytest.raises(
        SuiteError, match=r"'strict' is not one of flexible-extract, strict-match; did you mean 'strict-m"
    ):
        read(tmp_path, lines, lines, "exact_match,strict")


def choice(number: int, odds: Sequence[float], **changes: Any) -> dict[str, Any]:
    """Return a multiple-choice line: log-likelihoods are text there (lm_eval/utils.py, `sanitize_list`)."""
    options = ("oxygen", "carbon", "iron")
    return harness(
        number,
        target="1",
        arguments={f"gen_args_{i}": {"arg_0": f"Q{number}", "arg_1": f" {option}"} for i, option in enumerate(options)},
        resps=[[[str(odd), "False"]] for odd in odds],
        filtered_resps=[[str(odd), "False"] for odd in odds],
        metrics=["acc", "acc_norm"],
        acc=float(odds[1] == max(odds)),
        acc_norm=1.0,
        **changes,
    )


def test_choices_of_the_harness(tmp_path: Path) -> None:
    """A choice shows its options, the likeliest first, and the right one by its text, not by its number."""
    found = read(tmp_path, [choice(0, (-3, -1.5, -9))], [choice(0, (-1, -2, -30))], "acc")
    assert (found.base, found.adapter, found.metric) == ((1.0,), (0.0,), "acc")
    assert found.base_texts == ("carbon (-1.5); oxygen (-3); iron (-9)",)
    assert found.adapter_texts == ("oxygen (-1); carbon (-2); iron (-30)",)
    assert (found.examples[0].text, found.examples[0].reference) == ("Q0", "carbon")


def test_choices_with_mutual_information(tmp_path: Path) -> None:
    """The contextless copies that acc_mutual_info asks for are no options."""
    line = choice(0, (-3, -1.5, -9))
    for i in range(3):
        line["arguments"][f"gen_args_{i + 3}"] = {**line["arguments"][f"gen_args_{i}"], "arg_0": ""}
    line["filtered_resps"] += [["-0.1", "False"]] * 3
    assert read(tmp_path, [line], [line], "acc").base_texts == ("carbon (-1.5); oxygen (-3); iron (-9)",)


def test_choices_of_the_context(tmp_path: Path) -> None:
    """Where a task puts the options in the context, that is what differs and is shown."""
    line = choice(0, (-3, -1.5))
    line["arguments"] = {
        f"gen_args_{i}": {"arg_0": f"The {who}", "arg_1": " ran"} for i, who in enumerate(("cat", "dog"))
    }
    line["target"] = "ran"
    found = read(tmp_path, [line], [line], "acc")
    assert (found.base_texts, found.examples[0].reference) == (("The dog (-1.5); The cat (-3)",), "ran")


def test_lines_before_metrics_were_listed(tmp_path: Path) -> None:
    """Samples before lm-eval 0.4.7 list no metrics and no filter, and before 0.4.3 requests have no names."""
    line = {k: v for k, v in harness(5).items() if k not in ("metrics", "filter")} | {"arguments": [["Q5", {}]]}
    found = read(tmp_path, [line], [line])
    assert (found.metric, found.base, found.examples[0].text) == ("exact_match", (1.0,), "Q5")


def test_both_sides_are_scored_alike(tmp_path: Path) -> None:
    """The only metric, or only filter, of each side is not compared with another of the other side."""
    other = {**harness(1, metrics=["f1"], f1=1.0)}
    with pytest.raises(SuiteError, match=r"adapter.jsonl:1: scored by f1,none, and .*base.jsonl:1 by exact_match,none"):
        read(tmp_path, [harness(1)], [other])
    with pytest.raises(SuiteError, match=r"scored by exact_match,strict, and .* by exact_match,none"):
        read(tmp_path, [harness(1)], [harness(1, filter="strict")])
    assert read(tmp_path, [harness(1)], [harness(1)]).metric == "exact_match"


def test_one_file_for_both_sides(tmp_path: Path) -> None:
    """A side compared with itself loses nothing, so it is refused; so is what is no .jsonl file."""
    file = tmp_path / "base.jsonl"
    file.write_text('{"id": 1, "score": 1}\n')
    with pytest.raises(SuiteError, match=r"base.jsonl: general arc: both sides are this file"):
        outputs.read(OutputsSpec(str(file), str(file)), "arc")
    for other in (tmp_path, tmp_path / "base.csv"):
        with pytest.raises(SuiteError, match=r"outputs must be a .jsonl file"):
            outputs.read(OutputsSpec(str(other), str(file)), "arc")


def test_nothing_is_not_a_cluster(tmp_path: Path) -> None:
    """A null, as pandas writes what is missing, is no text: rows without a cluster are independent."""
    rows = [{"id": i, "score": 1, "cluster": None, "slice": None, "output": None} for i in range(2)]
    found = read(tmp_path, rows, rows)
    assert [(e.cluster, e.slice) for e in found.examples] == [("", "")] * 2
    assert found.base_texts == ("", "")


def test_rows_of_two_tasks_are_other_rows(tmp_path: Path) -> None:
    """Each task counts its documents from 0; the ledger must not take one's for the other's."""
    one = read(tmp_path, [harness(0)], [harness(0)]).examples[0]
    other = read(tmp_path, [harness(0, doc_hash="x")], [harness(0, doc_hash="x")]).examples[0]
    assert one.id != other.id


ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**400,
    0.5,
    float("nan"),
    "",
    "1",
    "a\nb",
    "\ud800",
    [],
    [[]],
    [1],
    {},
    {"a": 1},
)
SHAPES: tuple[Any, ...] = (
    [["-1", "False"]] * 2,
    [["x", "True"], ["-1", "False"]],
    [["Q", "a"], ["Q"]],
    {"gen_args_0": {}},
    ["acc"],
)
NAMES = (
    "id",
    "score",
    "prompt",
    "cluster",
    "doc_id",
    "metrics",
    "acc",
    "filter",
    "arguments",
    "filtered_resps",
    "target",
)


def told(line: Line, metric: str) -> Outputs | str:
    """Return what is read where both sides are this line, or what the user is told."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read(Path(folder), [line], [line], metric)
        except SuiteError as error:
            return str(error)


@given(
    line=st.dictionaries(st.sampled_from(NAMES), st.sampled_from((*ODD, *SHAPES))),
    metric=st.sampled_from(("", "acc", "acc,x")),
)
def test_any_line_is_read_or_refused_in_one_line(line: dict[str, Any], metric: str) -> None:
    """Whatever JSON a line holds, its score is from 0 to 1, or the user reads one line that names the file."""
    found = told(line, metric)
    if isinstance(found, str):
        assert len(found.splitlines()) == 1
        assert "base.jsonl" in found
    else:
        assert 0 <= found.base[0] <= 1


BAD: dict[str, tuple[Sequence[Line], str, str]] = {
    "no score": ([{"id": 1}], "", r"adapter.jsonl:1: the row has no field 'score'"),
    "no id": ([{"score": 1}], "", r"adapter.jsonl:1: the row has no field 'id'"),
    "beyond 1": ([{"id": 1, "score": 1.5}], "", r"adapter.jsonl:1: score is 1.5; a score must be a number from 0 to 1"),
    "NaN": ([{"id": 1, "score": float("nan")}], "", r"adapter.jsonl:1: score is NaN; a score must be"),
    "text": ([{"id": 1, "score": "good"}], "", r'adapter.jsonl:1: score is "good"; a score must be'),
    "huge": ([{"id": 1, "score": 10**400}], "", r"adapter.jsonl:1: score is 1000.*; a score must be"),
    "negative": ([{"id": 1, "score": -0.1}], "", r"adapter.jsonl:1: score is -0.1; a score must be"),
    "null": ([{"id": 1, "score": None}], "", r"adapter.jsonl:1: score is null; a score must be"),
    "perplexity": (
        [harness(1, exact_match=[-3, 5])],
        "exact_match",
        r"jsonl:1: exact_match is \[-3, 5\]; a score must be",
    ),
    "no metric": ([harness(1, metrics=[])], "", r"jsonl:1: the line has no metric$"),
    "truth as id": ([{"id": True, "score": 1}], "", r"adapter.jsonl:1: the id true is neither text nor a whole"),
    "newline": ([{"id": "a\nb", "score": 1}] * 2, "", r'adapter.jsonl:2: id "a\\nb" stands in line 1, too$'),
    "harness twice": ([harness(1), harness(1)], "", r"adapter.jsonl:2: id 1 stands in line 1, too$"),
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
    for field, what in (
        ("doc_hash", "another document"),
        ("prompt_hash", "asked by another prompt"),
        ("target_hash", "held"),
    ):
        with pytest.raises(SuiteError, match=rf"adapter.jsonl:1: general arc: id 1 is {what}.* than in base.jsonl:1"):
            read(tmp_path, [harness(1)], [harness(1, **{field: "other"})])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": 1, "score": 1}\n{"id": 2,\n')
    with pytest.raises(SuiteError, match=r"broken.jsonl:2: not JSON"):
        outputs.read(OutputsSpec(str(broken), str(tmp_path / "base.jsonl")), "arc")
    broken.write_text("\n")
    with pytest.raises(SuiteError, match=r"broken.jsonl: the file has no rows"):
        outputs.read(OutputsSpec(str(broken), str(tmp_path / "base.jsonl")), "arc")


SUITE = 'model = "embedded"\ndata = { train = "rows.jsonl", heldout = "rows.jsonl" }\n[[general]]\n'


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('name = "x"', "general.0 needs one of 'data' .* 'outputs' .* and 'lm_eval'"),
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
        (
            'outputs = { base = "samples_1.jsonl", adapter = "samples_2.jsonl" }',
            "general.0 has outputs and needs a name",
        ),
        ('outputs = { base = "/etc/*.conf", adapter = "samples_2.jsonl" }', "leads out of"),
        ('outputs = { base = "../*.jsonl", adapter = "samples_2.jsonl" }', "leads out of"),
        ('outputs = { base = "**x/*.jsonl", adapter = "samples_2.jsonl" }', r"must match one|Invalid pattern"),
    ],
)
def test_mistakes_in_the_suite(entry: str, said: str, tmp_path: Path) -> None:
    """Neither rows nor outputs, both, no file or two files: one line each."""
    for name in ("rows", "samples_1", "samples_2"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "suite.toml").write_text(SUITE + entry + "\n")
    with pytest.raises(SuiteError, match=said):
        suite.load(tmp_path / "suite.toml", tmp_path)
