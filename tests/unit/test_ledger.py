"""The ledger: attempts on the same rows are counted, through new processes and changed sets."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import ledger
from pytest_finetune.errors import EngineError
from pytest_finetune.ledger import Attempt, Ledger

ROWS = tuple(f"row {i}" for i in range(100))


def attempt(subjects: str, rows: tuple[str, ...] = ROWS, question: str = "superiority exact_match") -> Attempt:
    """Return an attempt by some adapter."""
    return Attempt("suite", "held-out", question, rows, subjects, subjects * 8)


def test_each_new_adapter_is_counted_and_an_old_one_keeps_its_number(tmp_path: Path) -> None:
    """The same comparison again is no new attempt, also after others."""
    book = Ledger(tmp_path)
    assert [book.number(attempt(name)) for name in ("a", "b", "a", "c", "b")] == [1, 2, 1, 3, 2]
    assert Ledger(tmp_path).attempts(attempt("a")) == 3
    book.decided(attempt("b"), "FAIL")
    assert [(entry.adapter[0], entry.attempt, entry.outcome) for entry in book.entries()] == [
        ("a", 1, ""), ("b", 2, "FAIL"), ("c", 3, ""),
    ]  # fmt: skip


def test_a_row_more_is_no_fresh_set(tmp_path: Path) -> None:
    """A set that shares half of its rows with one that was judged is as worn; one of fresh rows is not."""
    book = Ledger(tmp_path)
    book.number(attempt("a"))
    assert book.number(attempt("b", (*ROWS, "one more"))) == 2
    assert book.number(attempt("c", ROWS[:30])) == 3
    assert book.number(attempt("a", ROWS[:40])) == 4  # the same adapter, looked at again
    fresh = tuple(f"fresh {i}" for i in range(120))
    assert book.number(attempt("d", (*ROWS, *fresh))) == 1
    assert book.number(attempt("e", fresh)) == 2  # judged with the set before, of which it is a part


def test_questions_are_counted_apart(tmp_path: Path) -> None:
    """Another claim on the same rows is no second attempt at the first."""
    book = Ledger(tmp_path)
    assert book.number(attempt("a")) == 1
    assert book.number(attempt("b", question="level exact_match")) == 1


def test_workers_take_different_numbers(tmp_path: Path) -> None:
    """Threads with a ledger each, at once, get every number once."""
    numbers: list[int] = []

    def work(name: str) -> None:
        numbers.append(Ledger(tmp_path).number(attempt(name)))

    threads = [threading.Thread(target=work, args=(f"adapter {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


@given(st.floats(0.001, 0.2), st.integers(1, 1000))
def test_spending_stays_bounded(alpha: float, attempts: int) -> None:
    """However many attempts, what they spend together stays below alpha pi^2 / 6."""
    assert ledger.alpha_of(alpha, 1) == alpha
    assert alpha <= ledger.alpha_spent(alpha, attempts) < alpha * 1.645


def test_a_damaged_ledger_is_an_error(tmp_path: Path) -> None:
    """A file that is no ledger is said in one line, and never a fresh start."""
    (tmp_path / ledger.FILE).write_bytes(b"not a database, " * 100)
    with pytest.raises(EngineError, match=r"ledger .*file is not a database; move the file away"):
        Ledger(tmp_path).number(attempt("a"))


def test_no_ledger_has_no_entries(tmp_path: Path) -> None:
    """Asking for entries makes no file."""
    assert Ledger(tmp_path).entries() == []
    assert not list(tmp_path.iterdir())
