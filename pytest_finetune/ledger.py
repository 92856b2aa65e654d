"""The verdict ledger: which adapters were judged on which rows, so that trying again spends alpha.

The best of many attempts on one set of rows passes by luck. Attempt k is judged at ``alpha / k**2``: the
first has all of alpha, and however many follow, the chance that one of them passes falsely stays below
``alpha * pi**2 / 6`` (the union bound), 8.2 % for an alpha of 5 %.

An attempt is a folder, ``ledger/00000001``, which appears whole and never changes, its outcome apart. Whoever
adds one renames it to the next number, which only one can, so that no lock is needed.
"""

import base64
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pytest_finetune import digest, disk, sealed
from pytest_finetune.errors import EngineError
from pytest_finetune.records import from_plain, to_plain

T = TypeVar("T")
FOLDER = "ledger"
ATTEMPT, OUTCOME, IMPORTED = "attempt.json", "outcome.json", "imported"
BEFORE = "ledger.sqlite"  # what earlier versions wrote
NAME_BYTES = 8  # of a row's id; two rows of one set collide by chance once in 10^19 pairs
FRESH = 0.5  # rows of which fewer were judged before are a new set


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
    """An attempt as the ledger shows it; ``attempt`` counts those on the same rows, ``needs`` names by stage and key
    the entries of the store that its verdict rests on.
    """

    time: str
    suite: str
    data: str
    question: str
    adapter: str
    outcome: str
    attempt: int
    needs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Outcome:
    outcome: str = ""
    needs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Noted:
    """An attempt as it is written; ``rows`` are the names of its rows, packed and in base64."""

    time: str
    suite: str
    data: str
    question: str
    subjects: str
    adapter: str
    rows: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same attempt as another."""
        return self.question, self.rows, self.subjects


class Ledger:
    """A folder of attempts, shared by runs and processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FOLDER
        self._before = folder / BEFORE
        self._read: list[_Noted] = []  # in order; what is written stays
        self._sets: dict[str, frozenset[bytes]] = {}  # ids by rows, of which many attempts have the same

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.is_dir() or self._before.is_file()

    def number(self, attempt: Attempt) -> int:
        """Return which attempt on these rows this is, from 1; it is counted if it is new.

        Earlier ones count where at least half of today's rows were judged then, so that a row more or
        less makes no fresh set; the same adapter on them is another attempt, as a look at more rows is.

        Raises:
            EngineError: the ledger cannot be read or written.
        """
        self._import()
        own = _noted(attempt)
        self._add(own, _Outcome())
        return self._place(own)

    def decided(self, attempt: Attempt, outcome: str, needs: Iterable[tuple[str, str]] | None = None) -> None:
        """Note what came of an attempt.

        Args:
            attempt: one that was counted.
            outcome: what came of it.
            needs: stage and key of the entries that this rests on; None where they are those of before.

        Raises:
            EngineError: the ledger cannot be read or written.
        """
        if number := self._number(_noted(attempt)):
            before = self._outcome(number)
            after = _Outcome(outcome, before.needs if needs is None else tuple(sorted(needs)))
            if after != before:
                self._decide(number, after)

    def attempts(self, attempt: Attempt) -> int:
        """Return how many attempts there have been on these rows."""
        return len(self._alike(_noted(attempt)))

    def copy(self, folder: Path) -> None:
        """Copy the ledger into a folder, whole also while others write to it.

        Raises:
            EngineError: it cannot be read, or the copy not written.
        """
        copied = Ledger(folder)
        with copied._writing():
            copied.path.mkdir(parents=True, exist_ok=True)  # also of no attempt: it says that there was none
            for number in range(1, len(self._all()) + 1):
                disk.copy(self.path / _name(number), copied.path / _name(number))

    def merge(self, other: "Ledger") -> None:
        """Append what another ledger has and this one lacks, in its order.

        Raises:
            EngineError: one cannot be read, or this one not written.
        """
        self._import()
        for number, noted in enumerate(other._all(), start=1):
            outcome = other._outcome(number)
            own = self._add(noted, outcome)
            if not self._outcome(own).outcome:
                self._decide(own, outcome)

    def entries(self) -> list[Entry]:
        """Return all attempts, oldest first."""
        found = []
        for number, noted in enumerate(self._all(), start=1):
            who, came = (noted.suite, noted.data, noted.question, noted.adapter), self._outcome(number)
            found.append(Entry(noted.time, *who, came.outcome, self._place(noted), came.needs))
        return found

    def outcomes(self, suite: str, adapter: str) -> dict[str, str]:
        """Return by question what an adapter came to when it was last asked it; empty where it was not decided."""
        return {
            f"{noted.data}, {noted.question}": self._outcome(number).outcome
            for number, noted in enumerate(self._all(), start=1)
            if (noted.suite, noted.adapter) == (suite, adapter)
        }

    def _place(self, own: _Noted) -> int:
        return [noted.key for noted in self._alike(own)].index(own.key) + 1

    def _alike(self, own: _Noted) -> list[_Noted]:
        """Return who was asked the same of these rows, in order."""
        today = self._ids(own.rows)
        asked = [noted for noted in self._all() if noted.question == own.question]
        shared = {rows: len(today & self._ids(rows)) >= FRESH * len(today) for rows in {noted.rows for noted in asked}}
        return [noted for noted in asked if shared[noted.rows]]

    def _number(self, own: _Noted) -> int | None:
        return next((i for i, noted in enumerate(self._listed(), start=1) if noted.key == own.key), None)

    def _add(self, own: _Noted, outcome: _Outcome) -> int:
        """Return the number of an attempt, which is added if it is new."""
        while (number := self._number(own)) is None:
            with self._writing():
                self.path.mkdir(parents=True, exist_ok=True)
                half = Path(tempfile.mkdtemp(prefix="half-", dir=self.path))
                try:
                    disk.replace(half / ATTEMPT, sealed.seal(to_plain(own)))
                    disk.replace(half / OUTCOME, sealed.seal(to_plain(outcome)))
                    half.chmod(0o755)
                    if not disk.renamed(half, self.path / _name(len(self._read) + 1)):
                        time.sleep(0.01)  # another took it, and what a network disk lists may be of a moment ago
                finally:
                    shutil.rmtree(half, ignore_errors=True)
        return number

    def _decide(self, number: int, outcome: _Outcome) -> None:
        with self._writing():
            disk.replace(self.path / _name(number) / OUTCOME, sealed.seal(to_plain(outcome)))

    def _all(self) -> list[_Noted]:
        self._import()
        return self._listed()

    def _listed(self) -> list[_Noted]:
        """Read what was added since."""
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        last = max((int(name) for name in names if name.isdecimal()), default=0)
        if last < len(self._read):  # somebody moved the folder away
            self._read = []
        for number in range(len(self._read) + 1, last + 1):
            noted = self._parsed(_Noted, self.path / _name(number) / ATTEMPT)
            self._read.append(replace(noted, rows=sys.intern(noted.rows)))  # the same of many attempts
        return self._read

    def _outcome(self, number: int) -> _Outcome:
        return self._parsed(_Outcome, self.path / _name(number) / OUTCOME)

    def _parsed(self, kind: type[T], file: Path) -> T:
        try:
            found = from_plain(kind, sealed.unseal(file.read_text(encoding="utf-8")))
            if isinstance(found, _Noted):
                self._ids(found.rows)
            return found
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            what = error.strerror if isinstance(error, OSError) else "damaged"
            remedy = f"restore it, or move {self.path} away to start a new one"
            raise EngineError(f"ledger {file}: {what}; {remedy}") from error

    def _ids(self, rows: str) -> frozenset[bytes]:
        if rows not in self._sets:
            ids = base64.b64decode(rows, validate=True)
            self._sets[rows] = frozenset(ids[i : i + NAME_BYTES] for i in range(0, len(ids), NAME_BYTES))
        return self._sets[rows]

    def _import(self) -> None:
        """Take in, once, what an earlier version wrote; that stays as it is."""
        if not self._before.is_file() or (self.path / IMPORTED).exists():
            return
        try:
            with tempfile.TemporaryDirectory() as work:  # SQLite locks what it reads, and finishes what was cut off
                for file in self._before.parent.glob(f"{BEFORE}*"):
                    shutil.copyfile(file, Path(work, file.name))
                with closing(sqlite3.connect(Path(work, BEFORE))) as ledger:
                    found = ledger.execute(
                        "SELECT time, suite, data, question, subjects, adapter, ids, outcome "
                        "FROM attempts JOIN sets ON set_digest = digest ORDER BY number"
                    ).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise EngineError(f"ledger {self._before}: {error}; move the file away to start a new one") from error
        for when, suite, data, question, subjects, adapter, ids, outcome in found:
            rows = base64.b64encode(ids).decode()
            self._add(_Noted(when, suite, data, question, subjects, adapter, rows), _Outcome(outcome))
        with self._writing():
            self.path.mkdir(exist_ok=True)
            disk.replace(self.path / IMPORTED, "")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EngineError(f"ledger {self.path}: {error.strerror or error}; see --finetune-store") from error


def alpha_of(alpha: float, attempt: int) -> float:
    """Return the level at which that attempt is judged."""
    return alpha / attempt**2


def alpha_spent(alpha: float, attempts: int) -> float:
    """Return the chance of a false pass that so many attempts have used up at most."""
    return sum(alpha_of(alpha, attempt) for attempt in range(1, attempts + 1))


def _name(number: int) -> str:
    return f"{number:08}"


def _noted(attempt: Attempt) -> _Noted:
    ids = sorted({bytes.fromhex(digest.of(row))[:NAME_BYTES] for row in attempt.rows})
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = (attempt.suite, attempt.data, attempt.question, attempt.subjects, attempt.adapter)
    return _Noted(now, *told, base64.b64encode(b"".join(ids)).decode())
