"""Suspected wrong references: what is doubted, and by models that never saw it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_engine import FakeEngine
from written import GOOD, on_issue, places, write

from pytest_finetune import curate
from pytest_finetune.measure import Measurer
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Model, TrainingCurve, TrainSpec
from pytest_finetune.rowstore import RowStore
from pytest_finetune.store import Store
from pytest_finetune.suspects import screen


class Judge(FakeEngine):
    """Knows the right answer, and gives all others the same small likelihood; ``seen`` is what each training saw."""

    def __init__(self) -> None:
        super().__init__(parity)
        self.seen: list[set[str]] = []

    def train(self, spec: TrainSpec, folder: str, kept: str = "") -> TrainingCurve:
        self.seen.append({conversation.messages[-1].content for conversation in spec.train})
        return super().train(spec, folder, kept)

    def score(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], ...]:
        self._count("score")
        return tuple(tuple(-0.1 if self.answer(p, adapter) == c else -4.0 for c in choices) for p in prompts)


def parity(prompt: Turns, adapter: Adapter | None) -> str:
    """Return the right answer to a good row's question."""
    return ("even", "odd")[int(prompt[-1].content.split()[-1]) % 2]


@pytest.mark.parametrize("task", ["classification", "instruction"])
@pytest.mark.parametrize("library", ["cleanlab", None])
def test_wrong_references_are_found_by_cross_fitting(
    task: str, library: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flipped labels are doubted, and they only, with cleanlab and without; each row by a model that never saw it."""
    if not library:
        monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    wrong = {3, 40, 77}
    rows = [{**row, "completion": "odd"} if i in wrong and i % 2 == 0 else row for i, row in enumerate(GOOD[:150])]
    rows = [{**row, "completion": "even"} if i in wrong and i % 2 else row for i, row in enumerate(rows)]
    spec = write(tmp_path, rows, f'task = "{task}"\n' + on_issue("drop", "wrong_references"))
    data = curate.curate(spec)
    engine = Judge()
    measurer = Measurer(RowStore(Store(tmp_path / "store")), lambda: engine, spec.base_model(), spec.generation, "cpu")
    found = screen(spec, data, measurer)
    in_train = {f"train.jsonl:{i + 1}" for i in wrong} & {f"train.jsonl:{e.line}" for e in data.train}
    assert places(found, "wrong_references", dropped=True) == in_train
    assert len(found.train) == len(data.train) - len(in_train)
    prompts = {e.text for e in data.train}
    assert engine.calls["train"] == 3
    assert set.union(*engine.seen) == prompts
    assert not set.intersection(*engine.seen)
    again = Judge()
    assert screen(spec, data, replace(measurer, engine=lambda: again)) == found
    assert not again.calls
