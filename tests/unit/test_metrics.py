"""What an answer is worth."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import metrics
from pytest_finetune.errors import SuiteError


@pytest.mark.parametrize(
    ("name", "prediction", "reference", "score"),
    [
        ("exact_match", " a  b ", "a b", 1.0),
        ("exact_match", "A b", "a b", 0.0),
        ("label_accuracy", "Refund.", "refund", 1.0),
        ("contains", "It is Paris, France", "paris", 1.0),
        ("regex:^\\d+$", "123", "", 1.0),
        ("token_f1", "the cat sat", "the cat", 0.8),
        ("numeric", "so it is 1,234.5", "1234.5", 1.0),
        ("numeric:0.1", "3.05", "3", 1.0),
        ("numeric", "none", "3", 0.0),
        ("json_fields", '{"a": 1, "b": 2}', '{"a": 1, "b": 3}', 0.5),
        ("json_fields", "{", '{"a": 1}', 0.0),
        ("json_valid", '{"a": 1}', "", 1.0),
        ("json_valid", '{"a": "x"}', "", 0.0),
        ("json_valid", "nonsense", "", 0.0),
    ],
)
def test_metric(name: str, prediction: str, reference: str, score: float, tmp_path: Path) -> None:
    """Each metric scores as its docstring says."""
    schema = '{"properties": {"a": {"type": "integer"}}}'
    assert metrics.resolve(name, tmp_path, schema).score(prediction, reference) == pytest.approx(score)


@given(st.text(), st.text())
def test_every_metric_stays_within_bounds(prediction: str, reference: str) -> None:
    """Whatever a model says, a score is from 0 to 1 and nothing raises."""
    for name in set(metrics.BUILT_IN) - {"regex", "json_valid"}:
        assert 0 <= metrics.BUILT_IN[name](prediction, reference) <= 1


@pytest.mark.parametrize(
    "name", ["exactmatch", "numeric:x", "regex:(", "json_valid", "python:gone.py:f", "evaluate:./x"]
)
def test_unknown_metric_is_one_line(name: str, tmp_path: Path) -> None:
    """A metric that cannot be had is named, in one line."""
    with pytest.raises(SuiteError) as caught:
        metrics.resolve(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert name.split(":", maxsplit=1)[0] in str(caught.value)


def test_python_file(tmp_path: Path) -> None:
    """A function of a user's file is a metric."""
    (tmp_path / "m.py").write_text("def half(prediction, reference):\n    return 0.5\n")
    assert metrics.resolve("python:m.py:half", tmp_path).score("a", "b") == 0.5
