"""The ledger: attempts on the same rows are counted, through new processes and changed sets."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writers import at_once

from pytest_finetune import digest, ledger
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


def test_writers_without_locks_take_different_numbers(tmp_path: Path) -> None:
    """Processes that add attempts at once, where locks do nothing, get every number once; of equal ones one counts."""
    code = """
from pytest_finetune.ledger import Attempt, Ledger
rows = tuple(f"row {i}" for i in range(100))
for i in range(6):
    for who in ("all", sys.argv[1] + str(os.getpid())):
        attempt = Attempt("suite", "held-out", "q", rows, f"{who} {i}", who)
        print(Ledger(Path(sys.argv[1])).number(attempt))
        Ledger(Path(sys.argv[1])).decided(attempt, "PASS")
"""
    said = [out.split() for out in at_once(code, str(tmp_path))]
    shared, own = {number for out in said for number in out[::2]}, [number for out in said for number in out[1::2]]
    assert (len(shared), len(own)) == (6, 48)
    assert {int(number) for number in (*shared, *own)} == set(range(1, 55))
    entries = Ledger(tmp_path).entries()
    assert [(entry.attempt, entry.outcome) for entry in entries] == [(number, "PASS") for number in range(1, 55)]
    assert not list(tmp_path.glob("ledger/half-*"))


@given(st.floats(0.001, 0.2), st.integers(1, 1000))
def test_spending_stays_bounded(alpha: float, attempts: int) -> None:
    """However many attempts, what they spend together stays below alpha pi^2 / 6."""
    assert ledger.alpha_of(alpha, 1) == alpha
    assert alpha <= ledger.alpha_spent(alpha, attempts) < alpha * 1.645


def _garbage(ledger: Path) -> str:
    (ledger / "00000001" / "attempt.json").write_bytes(b"\xff garbage")
    return r"00000001/attempt.json: damaged"


def _cut_off(ledger: Path) -> str:
    file = ledger / "00000002" / "attempt.json"
    file.write_text(file.read_text()[:-40])
    return r"00000002/attempt.json: damaged"


def _other_rows(ledger: Path) -> str:
    file = ledger / "00000001" / "attempt.json"
    file.write_text(file.read_text().replace('"rows": "', '"rows": "!'))
    return r"00000001/attempt.json: damaged"


def _gone(ledger: Path) -> str:
    shutil.rmtree(ledger / "00000001")
    return r"00000001/attempt.json: No such file"


def _outcome_gone(ledger: Path) -> str:
    (ledger / "00000002" / "outcome.json").unlink()
    return r"00000002/outcome.json: No such file"


@pytest.mark.parametrize("damage", [_garbage, _cut_off, _other_rows, _gone, _outcome_gone])
def test_a_damaged_ledger_is_an_error(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    """A file that is damaged or gone is said in one line, and never a fresh start, nor a number that was given."""
    for name in "ab":
        Ledger(tmp_path).number(attempt(name))
    said = damage(tmp_path / "ledger")
    with pytest.raises(EngineError, match=rf"^ledger .*{said}.*; restore it, or move .*ledger away"):
        Ledger(tmp_path).entries()


OLD = """
CREATE TABLE sets (digest TEXT PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE attempts (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, suite TEXT NOT NULL, data TEXT NOT NULL, question TEXT NOT NULL,
    set_digest TEXT NOT NULL REFERENCES sets, subjects TEXT NOT NULL, adapter TEXT NOT NULL,
    outcome TEXT NOT NULL DEFAULT '', UNIQUE (question, set_digest, subjects)
);
"""


def test_what_an_earlier_version_wrote_counts(tmp_path: Path) -> None:
    """Attempts in a file of SQLite are taken in once, before any new one, and the file stays as it is."""
    ids = b"".join(sorted(bytes.fromhex(digest.of(row))[:8] for row in ROWS))
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as old:
        old.executescript(OLD)
        old.execute("INSERT INTO sets VALUES ('s', ?)", (ids,))
        for name, outcome in (("a", "FAIL"), ("b", "")):
            told = ("2026-01-01T00:00:00+00:00", "suite", "held-out", attempt(name).question, "s", name, name * 8)
            old.execute("INSERT INTO attempts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", (*told, outcome))
        old.commit()
    before = (tmp_path / "ledger.sqlite").read_bytes()
    book = Ledger(tmp_path)
    assert book.outcomes("suite", "a" * 8) == {f"held-out, {attempt('a').question}": "FAIL"}
    assert [book.number(attempt(name)) for name in ("c", "b", "a")] == [3, 2, 1]
    assert [(e.time[:4], e.outcome) for e in Ledger(tmp_path).entries()][:2] == [("2026", "FAIL"), ("2026", "")]
    assert (tmp_path / "ledger.sqlite").read_bytes() == before
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, " * 100)
    assert len(Ledger(tmp_path).entries()) == 3  # it is not read again


def test_a_damaged_file_of_before_is_an_error(tmp_path: Path) -> None:
    """A file that is no ledger is said in one line, and never a fresh start."""
    (tmp_path / ledger.BEFORE).write_bytes(b"not a database, " * 100)
    with pytest.raises(EngineError, match=r"ledger .*file is not a database; move the file away"):
        Ledger(tmp_path).number(attempt("a"))


def test_ledgers_are_merged(tmp_path: Path) -> None:
    """What another ledger has is appended in its order, once, with what came of it; a copy has all of it."""
    one, other = Ledger(tmp_path / "one"), Ledger(tmp_path / "other")
    for book, names in ((one, "ab"), (other, "cbd")):
        for name in names:
            book.number(attempt(name))
    other.decided(attempt("b"), "PASS", [("adapter", "key")])
    other.decided(attempt("c"), "FAIL")
    for _ in range(2):
        one.merge(other)
        told = [(e.adapter[0], e.attempt, e.outcome, e.needs) for e in one.entries()]
        assert told == [
            ("a", 1, "", ()), ("b", 2, "PASS", (("adapter", "key"),)), ("c", 3, "FAIL", ()), ("d", 4, "", ()),
        ]  # fmt: skip
    one.decided(attempt("b"), "PASS")
    (tmp_path / "one" / "ledger" / "half-x").mkdir()  # of a writer that was killed
    (tmp_path / "one" / "ledger" / "00000001" / "x.half").touch()
    one.copy(tmp_path / "copy")
    assert not [path for path in (tmp_path / "copy").rglob("*") if "half" in path.name]
    assert Ledger(tmp_path / "copy").entries() == one.entries()


def test_a_ledger_that_is_moved_away_starts_anew(tmp_path: Path) -> None:
    """Also for who has read it."""
    book = Ledger(tmp_path)
    assert [book.number(attempt(name)) for name in "ab"] == [1, 2]
    book.path.rename(tmp_path / "away")
    assert book.number(attempt("b")) == 1


def test_no_ledger_has_no_entries(tmp_path: Path) -> None:
    """Asking for entries makes no file."""
    assert Ledger(tmp_path).entries() == []
    assert not list(tmp_path.iterdir())
