"""Why stages were made: in words, beside what they went by in the last run."""

from pathlib import Path

import pytest

from pytest_finetune.explain import Stages, changes
from pytest_finetune.store import Store


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"x": 1}, {"x": 1}, []),
        ({"[gate] margin": 0.02}, {"[gate] margin": 0.05}, ["[gate] margin 0.02 -> 0.05"]),
        ({"method": "lora"}, {"method": "qlora"}, ["method lora -> qlora"]),
        ({"engine code": "a" * 64}, {"engine code": "b" * 64}, ["engine code"]),
        ({"adapter": ""}, {"adapter": "b"}, ["adapter"]),
        ({}, {"new": 1}, ["new"]),
        ({"train rows": ["a", "b"]}, {"train rows": ["b", "c", "c"]}, ["train rows: 2 added, 1 removed"]),
        ({"train rows": ["a", "b"]}, {"train rows": ["b", "a"]}, ["train rows: another order"]),
    ],
)
def test_changes_are_named(before: dict[str, object], after: dict[str, object], said: list[str]) -> None:
    """Short values are shown before and after, rows are counted, digests only named."""
    assert changes(before, after) == said


def run(folder: Path, adds: dict[str, tuple[dict[str, object], bool]]) -> dict[str, str]:
    """Return what a run tells whose stages went by these inputs, and were made or not."""
    stages = Stages(Store(folder), "suite")
    for name, (inputs, made) in adds.items():
        stages.add(name, inputs, made)
    told = stages.told()
    stages.keep()
    assert stages.told() == told  # also after this run's inputs are kept
    return told


def test_the_last_run_is_remembered(tmp_path: Path) -> None:
    """Stages that a run did not reach, or look at, keep the inputs of the run before it."""
    assert run(tmp_path, {"data": ({"a": 0}, True)}) == {"data": "made: first time"}
    assert not list(tmp_path.iterdir())  # only reading data leaves no store
    assert run(tmp_path, {"adapter, seed 1": ({"rows": (1,)}, True)}) == {"adapter, seed 1": "made: first time"}
    assert run(tmp_path, {"adapter": ({"rows": (1,)}, True)}) == {"adapter": "made: first time"}
    assert run(tmp_path, {"data": ({"a": 1}, True), "adapter": ({}, False)})["adapter"] == "reused"
    assert run(tmp_path, {"adapter": ({"rows": (1,)}, True)}) == {"adapter": "made: the store had it no more"}
    found = run(tmp_path, {"adapter": ({"rows": (1,)}, False), "data": ({"a": 2}, True)})
    assert list(found.items()) == [("data", "made: a 1 -> 2"), ("adapter", "reused")]


def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    """What cannot be read counts as never noted, and is replaced."""
    run(tmp_path, {"adapter": ({"a": 1}, True)})
    (tmp_path / "notes" / "suite.json").write_bytes(b"\xff")
    assert run(tmp_path, {"adapter": ({"a": 1}, True)}) == {"adapter": "made: first time"}
    assert run(tmp_path, {"adapter": ({"a": 2}, True)}) == {"adapter": "made: a 1 -> 2"}


def test_workers_of_a_run_go_by_the_run_before(tmp_path: Path) -> None:
    """A worker that ends later than another still compares with the last run, and each keeps its own stages."""
    run(tmp_path, {"adapter": ({"a": 1}, True), "verdict": ({"a": 1}, True)})
    first, second = (Stages(Store(tmp_path), "suite") for _ in range(2))
    first.add("adapter", {"a": 2}, True)
    first.keep()
    second.add("adapter", {"a": 2}, True)
    second.add("verdict", {"a": 3}, True)
    assert second.told() == {"adapter": "made: a 1 -> 2", "verdict": "made: a 1 -> 3"}
    second.keep()
    assert Stages(Store(tmp_path), "suite").last == {"adapter": {"a": 2}, "verdict": {"a": 3}}
