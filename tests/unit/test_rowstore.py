"""The row store: every request is asked once, whoever asks, and what was answered stays."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_finetune import rowstore
from pytest_finetune.errors import EngineError, PromptTooLong
from pytest_finetune.holdings import entries, remove
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Message
from pytest_finetune.rowstore import Asked, RowStore
from pytest_finetune.store import Store


class Engine:
    """Answers with the length of the question; ``calls`` are the questions of each call."""

    def __init__(self, fails_at: int = -1) -> None:
        self.calls: list[list[str]] = []
        self.fails_at = fails_at

    def __call__(self, requests: tuple[Turns, ...]) -> list[int]:
        self.calls.append([request[-1].content for request in requests])
        if len(self.calls) - 1 == self.fails_at:
            raise EngineError("killed")
        if any(len(request[-1].content) > 90 for request in requests):
            raise PromptTooLong("too long")
        return [len(request[-1].content) for request in requests]


def asks(engine: Engine, subject: str = "s") -> Asked:
    """Return questions to one subject."""
    return Asked("outputs", subject, engine)


def turns(texts: Sequence[str]) -> list[Turns]:
    """Return a conversation a text."""
    return [(Message("user", text),) for text in texts]


def test_only_what_nobody_asked_is_asked(tmp_path: Path) -> None:
    """Equal requests are asked once, longest first; a later run asks what is new, another subject all."""
    engine = Engine()
    found = RowStore(Store(tmp_path)).values(asks(engine), turns(["a", "ccc", "a", "bb"]))
    assert found == ([1, 3, 1, 2], [True] * 4)
    later = RowStore(Store(tmp_path))
    assert later.values(asks(engine), turns(["bb", "dddd", "a"])) == ([2, 4, 1], [False, True, False])
    later.values(asks(engine, "t"), turns(["a"]))
    assert engine.calls == [["ccc", "bb", "a"], ["dddd"], ["a"]]


def test_a_killed_run_keeps_what_was_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go in parts, and each that was answered is there when a later one fails."""
    monkeypatch.setattr(rowstore, "PART", 2)
    requests = turns(["a", "bb", "ccc", "dddd", "eeeee"])
    with pytest.raises(EngineError):
        RowStore(Store(tmp_path)).values(asks(Engine(fails_at=1)), requests)
    engine = Engine()
    assert RowStore(Store(tmp_path)).values(asks(engine), requests).values == [1, 2, 3, 4, 5]
    assert engine.calls == [["ccc", "bb"], ["a"]]


@pytest.mark.parametrize("damage", [b"", b"0" * 32 + b" 9\n", b"\xff\x00"])
def test_rows_of_a_damaged_chunk_are_asked_again(tmp_path: Path, damage: bytes) -> None:
    """A chunk whose bytes changed is never read; the rows of others are kept."""
    rows = RowStore(Store(tmp_path))
    rows.values(asks(Engine()), turns(["a"]))
    (chunk,) = (tmp_path / "outputs").iterdir()
    rows.values(asks(Engine()), turns(["bb"]))
    (chunk / rowstore.ROWS).write_bytes(damage)
    engine = Engine()
    assert RowStore(Store(tmp_path)).values(asks(engine), turns(["a", "bb"])).values == [1, 2]
    assert engine.calls == [["a"]]


def test_expected_requests_go_along(tmp_path: Path) -> None:
    """What is sure to be needed is answered with what is asked now, and alone it asks nothing."""
    engine, rows = Engine(), RowStore(Store(tmp_path))
    rows.foresee.append(lambda: rows.expect(asks(engine), turns(["foreseen"])))
    rows.expect(asks(engine), turns(["bb", "a"]))
    rows.expect(asks(engine, "other"), turns(["a"]))
    assert not engine.calls
    assert rows.values(asks(engine), turns(["a"])).values == [1]
    assert rows.values(asks(engine), turns(["bb", "foreseen"])) == ([2, 8], [True, True])
    assert engine.calls == [["foreseen", "bb", "a"]]


def test_an_expected_request_that_fails_harms_nobody(tmp_path: Path) -> None:
    """A prompt that is too long fails who asks for it, and not who asks for another."""
    engine, rows = Engine(), RowStore(Store(tmp_path))
    rows.expect(asks(engine), turns(["x" * 99]))
    assert rows.values(asks(engine), turns(["a"])).values == [1]
    with pytest.raises(PromptTooLong):
        rows.values(asks(engine), turns(["x" * 99]))


def test_writers_share_what_they_add(tmp_path: Path) -> None:
    """Two processes over one store: what one added while the other had read all, that one finds before it asks."""
    first, second = RowStore(Store(tmp_path)), RowStore(Store(tmp_path))
    engine = Engine()
    second.values(asks(engine), turns(["a"]))
    first.values(asks(engine), turns(["bb"]))
    assert second.values(asks(engine), turns(["bb"])) == ([2], [False])
    assert engine.calls == [["a"], ["bb"]]


def test_an_answer_stays_in_a_run(tmp_path: Path) -> None:
    """Where two processes asked for one row at once, and were told different things, each goes on with its own."""
    own = RowStore(Store(tmp_path / "own"))
    assert own.values(asks(Engine()), turns(["a"])).values == [1]
    RowStore(Store(tmp_path / "other")).values(Asked("outputs", "s", lambda requests: [0]), turns(["a"]))
    shutil.copytree(tmp_path / "other" / "outputs", tmp_path / "own" / "outputs", dirs_exist_ok=True)
    assert own.values(asks(Engine()), turns(["bb", "a"])).values == [2, 1]


def test_chunks_are_entries_of_the_store(tmp_path: Path) -> None:
    """They are listed, and pruned rows are asked again."""
    store, engine = Store(tmp_path), Engine()
    RowStore(store).values(asks(engine), turns(["a"]))
    (entry,) = entries(store)
    assert entry.stage == "outputs"
    remove(store, entry)
    RowStore(store).values(asks(engine), turns(["a"]))
    assert engine.calls == [["a"], ["a"]]
