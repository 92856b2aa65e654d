"""What names a user's function: the same for the same code, another for another, in every process."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_finetune.errors import SuiteError
from pytest_finetune.metrics.code import code_of

LIMIT = 0.5
SEEN: dict[str, float] = {}


def make(weight: float) -> Callable[[str, str], float]:
    def score(prediction: str, reference: str, weight: float = weight) -> float:
        return weight * (prediction == reference)

    return score


def closing(over: object) -> Callable[[str, str], float]:
    return lambda prediction, reference: float(bool(over))


def limited(prediction: str, reference: str) -> float:
    SEEN[prediction] = LIMIT
    return LIMIT


class Held:
    """A metric with a setting."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, prediction: str, reference: str) -> float:
        return self.weight


def test_two_functions_have_two_names() -> None:
    """Functions that differ in their code, defaults, closure or setting alone are told apart."""
    one, other = (lambda p, r: 1.0), (lambda p, r: 0.0)  # on one line, of one name
    different: list[Callable[..., object]] = [
        one,
        other,
        make(1.0),
        make(0.0),
        closing([1]),
        closing([]),
        limited,
        Held(1.0),
        Held(2.0),
    ]
    different += [functools.partial(limited, "a"), functools.partial(limited, "b"), functools.lru_cache(limited)]
    assert len({code_of(function) for function in different}) == len(different)
    assert code_of(make(1.0)) == code_of(make(1.0))


def test_names_follow_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another constant gives another name; what a run fills does not."""
    before = code_of(limited)
    SEEN["more"] = 1.0
    assert code_of(limited) == before
    monkeypatch.setitem(limited.__globals__, "LIMIT", 0.6)
    assert code_of(limited) != before


def test_helpers_of_another_file_count(tmp_path: Path) -> None:
    """A changed helper in another module gives another name, a comment none; and every process gives the same."""
    (tmp_path / "metric.py").write_text("import re\nfrom scoring import norm\ndef score(p, r):\n    return norm(p)\n")
    script = "import metric; from pytest_finetune.metrics.code import code_of; print(code_of(metric.score))"

    def name(helper: str) -> str:
        (tmp_path / "scoring.py").write_text(helper)
        return subprocess.run(
            [sys.executable, "-B", "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    first = name("def norm(p):\n    return 1.0 if p in {'a', 'b'} else 0.0\n")
    assert name("# a comment\ndef norm(p):\n    return 1.0 if p in {'a', 'b'} else 0.0\n") == first
    assert name("def norm(p):\n    return 0.0\n") != first


def test_what_has_no_name_is_refused() -> None:
    """An object whose name is its address would make every run a new attempt: one line says so."""
    with pytest.raises(SuiteError, match="another name in every run"):
        code_of(closing(object()))
