"""The verdict ledger: which adapters were judged on which rows, so that trying again spends alpha.

The best of many attempts on one set of rows passes by luck. Attempt k is judged at ``alpha / k**2``: the
first has all of alpha, and however many follow, the chance that one of them passes falsely stays below
``alpha * pi**2 / 6`` (the union bound), 8.2 % for an alpha of 5 %.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytest_finetune import digest
from pytest_finetune.errors import EngineError

FILE = "ledger.sqlite"
NAME_BYTES = 8  # of a row's id; two rows of one set collide by chance once in 10^19 pairs
FRESH = 0.5  # rows of which fewer were judged before are a new set
TABLES = """
CREATE TABLE IF NOT EXISTS sets (digest TEXT PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, suite TEXT NOT NULL, data TEXT NOT NULL, question TEXT NOT NULL,
    set_digest TEXT NOT NULL REFERENCES sets, subjects TEXT NOT NULL, adapter TEXT NOT NULL,
    outcome TEXT NOT NULL DEFAULT '', UNIQUE (question, set_digest, subjects)
);
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One adapter, judged on one set of rows.

    Args:
        suite: the suite's name, for people.
        data: the data set's name, for people.
        question: what is asked of these rows: the kind of claim and the metric's name.
        rows: ids of the rows.
        subjects: digest of who is compared, and by what: models, prompts, settings, the metric's code.
        adapter: digest of the adapter, for people.
    """

    suite: str
    data: str
    question: str
    rows: tuple[str, ...]
    subjects: str
    adapter: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An attempt as the ledger shows it; ``attempt`` counts those on the same rows."""

    time: str
    suite: str
    data: str
    question: str
    adapter: str
    outcome: str
    attempt: int


class Ledger:
    """A file of attempts, shared by runs and processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def number(self, attempt: Attempt) -> int:
        """Return which attempt on these rows this is, from 1; it is counted if it is new.

        Earlier ones count where at least half of today's rows were judged then, so that a row more or
        less makes no fresh set; the same adapter on them is another attempt, as a look at more rows is.

        Raises:
            EngineError: the ledger cannot be read or written.
        """
        name = digest.of(sorted(attempt.rows))
        with self._open() as ledger:
            ledger.execute("BEGIN IMMEDIATE")  # two workers must not take one number
            ledger.execute("INSERT OR IGNORE INTO sets VALUES (?, ?)", (name, _packed(attempt.rows)))
            ledger.execute(
                "INSERT OR IGNORE INTO attempts (time, suite, data, question, set_digest, subjects, adapter) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (_now(), attempt.suite, attempt.data, attempt.question, name, attempt.subjects, attempt.adapter),
            )
            place = self._places(ledger, attempt.question, name).index((attempt.subjects, name)) + 1
            ledger.commit()
        return place

    def decided(self, attempt: Attempt, outcome: str) -> None:
        """Note what came of an attempt."""
        key = (attempt.question, digest.of(sorted(attempt.rows)), attempt.subjects)
        with self._open() as ledger:
            ledger.execute(
                "UPDATE attempts SET outcome = ? WHERE question = ? AND set_digest = ? AND subjects = ?",
                (outcome, *key),
            )
            ledger.commit()

    def attempts(self, attempt: Attempt) -> int:
        """Return how many attempts there have been on these rows."""
        with self._open() as ledger:
            return len(self._places(ledger, attempt.question, digest.of(sorted(attempt.rows))))

    def copy(self, folder: Path) -> None:
        """Copy the ledger into a folder, whole also while others write to it.

        Raises:
            EngineError: it cannot be read, or the copy not written.
        """
        with self._open() as ledger, Ledger(folder)._open() as copied:
            ledger.backup(copied)

    def merge(self, other: "Ledger") -> None:
        """Append the attempts of another ledger that are missing here, in their order.

        Raises:
            EngineError: one of them cannot be read or written.
        """
        with other._open() as theirs, self._open() as ours:
            ours.executemany("INSERT OR IGNORE INTO sets VALUES (?, ?)", theirs.execute("SELECT * FROM sets"))
            columns = "time, suite, data, question, set_digest, subjects, adapter, outcome"
            rows = theirs.execute(f"SELECT {columns} FROM attempts ORDER BY number")
            ours.executemany(
                f"INSERT INTO attempts ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (question, set_digest, subjects) DO UPDATE SET outcome = excluded.outcome",
                rows,
            )
            ours.commit()

    def entries(self) -> list[Entry]:
        """Return all attempts, oldest first."""
        if not self.path.is_file():
            return []
        with self._open() as ledger:
            found = ledger.execute(
                "SELECT time, suite, data, question, adapter, outcome, set_digest, subjects FROM attempts "
                "ORDER BY number"
            ).fetchall()
            return [
                Entry(*told, self._places(ledger, told[3], name).index((who, name)) + 1)  # type: ignore[call-arg]  # of a row
                for *told, name, who in found
            ]

    def outcomes(self, suite: str, adapter: str) -> dict[str, str]:
        """Return by question what an adapter came to when it was last asked it; empty where it was not decided."""
        if not self.path.is_file():
            return {}
        with self._open() as ledger:
            found = ledger.execute(
                "SELECT data, question, outcome FROM attempts WHERE suite = ? AND adapter = ? ORDER BY number",
                (suite, adapter),
            )
            return {f"{data}, {question}": outcome for data, question, outcome in found}

    def _places(self, ledger: sqlite3.Connection, question: str, name: str) -> list[tuple[str, str]]:
        """Return who was judged on these rows and on which set of them, in order."""
        (own,) = ledger.execute("SELECT ids FROM sets WHERE digest = ?", (name,)).fetchone()
        today = _unpacked(own)
        found = ledger.execute(
            "SELECT subjects, set_digest, ids FROM attempts JOIN sets ON set_digest = digest WHERE question = ? "
            "ORDER BY number",
            (question,),
        )
        shared = {name: True}
        places = []
        for subjects, other, ids in found:
            if other not in shared:
                shared[other] = len(today & _unpacked(ids)) >= FRESH * len(today)
            if shared[other]:
                places.append((subjects, other))
        return places

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as ledger:
                ledger.executescript(TABLES)
                yield ledger
        except sqlite3.Error as error:
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            remedy = "move the file away to start a new one" if damaged else "see --finetune-store"
            raise EngineError(f"ledger {self.path}: {error}; {remedy}") from error


def alpha_of(alpha: float, attempt: int) -> float:
    """Return the level at which that attempt is judged."""
    return alpha / attempt**2


def alpha_spent(alpha: float, attempts: int) -> float:
    """Return the chance of a false pass that so many attempts have used up at most."""
    return sum(alpha_of(alpha, attempt) for attempt in range(1, attempts + 1))


def _packed(rows: Sequence[str]) -> bytes:
    return b"".join(sorted({bytes.fromhex(digest.of(row))[:NAME_BYTES] for row in rows}))


def _unpacked(ids: bytes) -> set[bytes]:
    return {ids[i : i + NAME_BYTES] for i in range(0, len(ids), NAME_BYTES)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
