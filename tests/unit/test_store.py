"""The store: nothing half made, nothing damaged is ever served."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.records import Example, Message, Prompt, from_plain, to_plain
from pytest_finetune.store import Store, work_name


def test_made_once(tmp_path: Path) -> None:
    """A value is made the first time only."""
    store = Store(tmp_path / "s")
    made: list[str] = []

    def make() -> list[int]:
        made.append("once")
        return [1, 2]

    for _ in range(3):
        assert store.json("stage", "key", make) == [1, 2]
    assert made == ["once"]
    assert (tmp_path / "s" / "CACHEDIR.TAG").is_file()


@pytest.mark.parametrize("damage", [b"", b"[9]", b"\xff\x00"])
def test_damaged_entry_is_made_again(tmp_path: Path, damage: bytes) -> None:
    """A changed byte makes an entry invisible; it is quarantined and made anew."""
    store = Store(tmp_path)
    store.json("stage", "key", lambda: "good")
    (tmp_path / "stage" / "key" / "value.json").write_bytes(damage)
    assert not store.has("stage", "key")
    assert store.json("stage", "key", lambda: "made again") == "made again"
    assert list((tmp_path / "quarantine").iterdir())


def test_failed_make_leaves_nothing(tmp_path: Path) -> None:
    """When making raises, the error passes and no entry and no work folder stay."""
    store = Store(tmp_path)

    def broken() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.json("stage", "key", broken)
    assert not store.has("stage", "key")
    assert not list(tmp_path.glob("work-*"))


def test_error_of_a_maker_is_its_own(tmp_path: Path) -> None:
    """What a user's metric could not open is not blamed on the store."""

    def broken() -> None:
        raise FileNotFoundError("words.txt")

    with pytest.raises(FileNotFoundError, match=r"words\.txt"):
        Store(tmp_path).json("stage", "key", broken)


def test_only_own_dead_are_cleared(tmp_path: Path) -> None:
    """A folder that a killed process of this machine left is cleared; one of another machine's, whose pids we cannot
    know, stays.
    """
    dead, elsewhere = tmp_path / f"{work_name(2**22 + 1)}x", tmp_path / "work-otherhost-1-x"
    dead.mkdir()
    elsewhere.mkdir()
    Store(tmp_path).json("stage", "key", lambda: 1)
    assert (dead.exists(), elsewhere.exists()) == (False, True)


texts = st.text(max_size=8)
examples = st.builds(
    Example, texts, st.lists(st.builds(Message, texts, texts)).map(tuple), texts, texts, st.integers(), texts
)


@given(st.builds(Prompt, texts, texts, st.lists(examples, max_size=3).map(tuple)))
def test_records_survive_plain_data(prompt: Prompt) -> None:
    """A record is the same after its way through plain data."""
    assert from_plain(Prompt, to_plain(prompt)) == prompt
