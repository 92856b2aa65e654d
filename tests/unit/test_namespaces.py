"""Namespaces: what is not merged reads the store of the default branch, and writes to one of its own."""

from pathlib import Path

import pytest

from pytest_finetune.errors import StoreWarning
from pytest_finetune.ledger import Attempt, Ledger
from pytest_finetune.remote import Remote
from pytest_finetune.store import Store

ROWS = tuple(f"row {i}" for i in range(100))


def namespace(main: Path, name: str) -> Store:
    """Open the store of a pull request."""
    read = Remote(f"file://{main}", "--finetune-store-from", takes=False)
    return Store(main / "namespaces" / name, read, before=Ledger(main))


def attempt(subjects: str) -> Attempt:
    """Return an attempt by some adapter."""
    return Attempt("suite", "held-out", "superiority exact_match", ROWS, subjects, subjects * 8)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file, those of namespaces apart."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith("namespaces/")}


@pytest.mark.attack(4)
def test_what_a_pull_request_writes_is_not_read(tmp_path: Path) -> None:
    """A poisoned entry of each kind, whole and under the right key, serves no run but its own."""
    poisoned = namespace(tmp_path, "7")
    poisoned.json("probe", "k", lambda: "poison")
    poisoned.json("adapter", "k", lambda: "poison", rebuild=True)
    poisoned.add("outputs", "group", lambda folder: (folder / "chunk").touch())
    poisoned.note("fingerprint", lambda before: "poison")
    poisoned.ledger.decided(attempt("a"), "PASS")
    assert tree(tmp_path) == {}
    for store in (Store(tmp_path), namespace(tmp_path, "8")):
        assert store.json("probe", "k", lambda: "good") == "good"
        assert store.json("adapter", "k", lambda: "good") == "good"
        assert not list(store.group("outputs", "group"))
        assert store.noted("fingerprint") is None
        assert store.ledger.entries() == []
    assert poisoned.json("probe", "k", lambda: "good") == "poison"


@pytest.mark.attack(4)
def test_a_pull_request_reads_what_was_merged(tmp_path: Path) -> None:
    """It makes nothing that is there, whole; what it makes, makes anew or finds damaged leaves all there as it was."""
    main = Store(tmp_path)
    for key in ("whole", "damaged", "anew"):
        main.json("probe", key, lambda: "merged")
    (tmp_path / "probe" / "damaged" / "value.json").write_text('"mergee"')
    before = tree(tmp_path)
    own = namespace(tmp_path, "7")
    assert own.json("probe", "whole", lambda: "own") == "merged"
    assert own.json("probe", "anew", lambda: "own", rebuild=True) == "own"
    assert own.json("probe", "new", lambda: "own") == "own"
    with pytest.warns(StoreWarning, match=r"--finetune-store-from=.*probe/damaged/value\.json: is not what"):
        assert own.json("probe", "damaged", lambda: "own") == "own"
    assert tree(tmp_path) == before


@pytest.mark.attack(4)
def test_attempts_that_were_merged_count(tmp_path: Path) -> None:
    """A pull request's attempts come after those in the default branch's ledger, which gets none of them."""
    merged = Store(tmp_path).ledger
    assert merged.number(attempt("a")) == 1
    merged.decided(attempt("a"), "FAIL")
    for name in ("7", "7", "8"):
        own = namespace(tmp_path, name).ledger
        assert own.number(attempt("b")) == 2
        assert own.number(attempt("a")) == 1
        assert [entry.outcome for entry in own.entries()] == ["FAIL", ""]
    assert merged.number(attempt("c")) == 2
    assert [entry.adapter[0] for entry in Ledger(tmp_path).entries()] == ["a", "c"]
