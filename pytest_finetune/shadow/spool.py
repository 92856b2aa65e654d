"""The spool: one SQLite file that holds what was mirrored, and goes on from wherever a process was killed.

Each record is written whole in one transaction of a write-ahead log, so a killed process leaves none by half.
"""

import json
import sqlite3
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.shadow.exchange import Exchange, Pair, Reply, Side

VERSION = 1
BUSY_SECONDS = 30.0
TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS exchanges (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, conversation TEXT NOT NULL, candidate TEXT NOT NULL,
    path TEXT NOT NULL, asked TEXT NOT NULL, asked_digest TEXT NOT NULL, request TEXT, redacted INTEGER NOT NULL,
    served TEXT NOT NULL, waiting INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting ON exchanges (number) WHERE waiting;
CREATE TABLE IF NOT EXISTS replies (
    number INTEGER PRIMARY KEY AUTOINCREMENT, exchange INTEGER NOT NULL REFERENCES exchanges, side TEXT NOT NULL,
    status INTEGER NOT NULL, error TEXT NOT NULL, first_seconds REAL NOT NULL, seconds REAL NOT NULL,
    text TEXT NOT NULL, text_digest TEXT NOT NULL, characters INTEGER NOT NULL, tool_calls TEXT NOT NULL,
    finish TEXT NOT NULL, answer_id TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    valid INTEGER, refused INTEGER NOT NULL, UNIQUE (exchange, side)
);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS scores (
    metric TEXT NOT NULL, exchange INTEGER NOT NULL REFERENCES exchanges, primary_score REAL NOT NULL,
    candidate_score REAL NOT NULL, PRIMARY KEY (metric, exchange)
);
CREATE TABLE IF NOT EXISTS moves (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, candidate TEXT NOT NULL, share REAL NOT NULL, why TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS purged (candidate TEXT PRIMARY KEY, number INTEGER NOT NULL);
PRAGMA user_version = {VERSION};
COMMIT;
"""
EXCHANGE = [field.name for field in fields(Exchange) if field.name != "number"]
REPLY = [field.name for field in fields(Reply)]
FLAGS = ("valid", "refused")
TEXTS = ("asked", "request", "text", "tool_calls")


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the canary: from then on that share of conversations is the candidate's."""

    time: float
    candidate: str
    share: float
    why: str


class Spool:
    """A file of exchanges and replies. Every thread opens one of its own.

    Args:
        path: the file; it is made where there is none.
        create: whether it may be made.

    Raises:
        SuiteError: there is no such file, or it is no spool.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        self.path = path
        if not create and not path.is_file():
            raise SuiteError(f"{path}: no spool there; `pytest-finetune shadow --spool {path}` makes one")
        with self._named():
            if not path.exists():
                path.touch(0o600)  # nobody else's to read; the files beside it are made alike
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            both = "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
            version, known = self._db.execute(both).fetchone()
            if version not in (0, VERSION) or (version == 0 and known):
                raise SuiteError(f"{path}: no spool of this version; name another file with --spool")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # whole after any kill; a power cut may lose the last ones
            self._db.execute("PRAGMA secure_delete = ON")  # what is purged is overwritten
            if not version:
                self._db.executescript(TABLES)  # all or none: a file without its version is taken for somebody else's

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # --- writing -----------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all that is written inside, or nothing of it."""
        with self._named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def add(self, exchange: Exchange, replies: dict[Side, Reply], waiting: bool = False) -> int:
        """Write an exchange with the replies that there are; return its number.

        Args:
            exchange: its own number does not count.
            replies: by side.
            waiting: whether the candidate is to be asked.
        """
        request = None if exchange.request is None else json.dumps(exchange.request)
        values = [getattr(exchange, name) for name in EXCHANGE]
        values[EXCHANGE.index("request")] = request
        with self._named():
            cursor = self._db.execute(
                f"INSERT INTO exchanges ({', '.join(EXCHANGE)}, waiting) VALUES ({_marks(len(EXCHANGE) + 1)})",
                (*values, waiting),
            )
        number = cursor.lastrowid
        assert number
        for side, reply in replies.items():
            self._insert(number, side, reply)
        return number

    def reply(self, number: int, side: Side, reply: Reply) -> None:
        """Write a side's reply to an exchange that waits for it; of one that was purged meanwhile nothing is kept."""
        with self.transaction():
            if self._db.execute("UPDATE exchanges SET waiting = 0 WHERE number = ? AND waiting", (number,)).rowcount:
                self._insert(number, side, reply)

    def _insert(self, number: int, side: Side, reply: Reply) -> None:
        with self._named():
            self._db.execute(
                f"INSERT OR IGNORE INTO replies (exchange, side, {', '.join(REPLY)}) VALUES ({_marks(len(REPLY) + 2)})",
                (number, side, *astuple(reply)),
            )

    def count(self, names: Iterable[str]) -> None:
        """Add one to each of the named counts, as often as it is named."""
        with self._named():
            self._db.executemany(
                "INSERT INTO counts VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
                [(name,) for name in names],
            )

    def score(self, metric: str, scores: dict[int, tuple[float, float]]) -> None:
        """Keep what pairs scored, the primary's first, by the number of the exchange.

        Scores outlive the texts they are of, so that a verdict loses no pair to the purge; ``metric`` names all that
        they depend on.
        """
        with self._named():
            self._db.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)",
                [(metric, number, *both) for number, both in scores.items()],
            )

    def move(self, move: Move) -> None:
        """Note a move of the canary."""
        with self._named():
            self._db.execute("INSERT INTO moves (time, candidate, share, why) VALUES (?, ?, ?, ?)", astuple(move))

    def purge(self, before: float, conversation: str = "", numbers_too: bool = False) -> int:
        """Delete texts; return of how many exchanges.

        Args:
            before: unix time; of exchanges that came earlier.
            conversation: digest of the only one meant; empty: all.
            numbers_too: delete the exchanges whole, so that no verdict counts them.
        """
        which = "time < ? AND (? = '' OR conversation = ?)"
        own = f"exchange IN (SELECT number FROM exchanges WHERE {which})"
        args = (before, conversation, conversation)
        with self.transaction():
            if numbers_too:  # yet each candidate was an attempt, and stays one
                firsts = f"SELECT candidate, min(number) FROM exchanges WHERE {which} GROUP BY candidate"
                self._db.execute(f"INSERT OR IGNORE INTO purged {firsts}", args)
                self._db.execute(f"DELETE FROM scores WHERE {own}", args)
                self._db.execute(f"DELETE FROM replies WHERE {own}", args)
                done = self._db.execute(f"DELETE FROM exchanges WHERE {which}", args).rowcount
            else:
                self._db.execute(f"UPDATE replies SET text = '', tool_calls = '' WHERE {own}", args)
                emptied = "UPDATE exchanges SET asked = '', request = NULL, waiting = 0 WHERE request IS NOT NULL"
                done = self._db.execute(f"{emptied} AND {which}", args).rowcount
        with self._named():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log holds what was deleted, too
        return done

    # --- reading -----------------------------------------------------------------------------

    def waiting(self, candidate: str, after: int, limit: int) -> list[Exchange]:
        """Return exchanges that a candidate is to be asked, oldest first, from the one after that number on."""
        rows = self._all(
            f"SELECT number, {', '.join(EXCHANGE)} FROM exchanges WHERE waiting AND candidate = ? AND number > ? "
            "ORDER BY number LIMIT ?",
            candidate,
            after,
            limit,
        )
        return [self._exchange(row) for row in rows]

    def backlog(self, candidate: str) -> int:
        """Return how many exchanges wait for a candidate."""
        return int(self._all("SELECT count(*) FROM exchanges WHERE waiting AND candidate = ?", candidate)[0][0])

    def pairs(self, candidate: str = "") -> Iterator[Pair]:
        """Yield exchanges that both sides answered, in the order in which they were completed."""
        rows = self._all(
            f"SELECT e.number, {_columns('e', EXCHANGE)}, {_columns('a', REPLY)}, {_columns('b', REPLY)} "
            "FROM exchanges e JOIN replies a ON a.exchange = e.number AND a.side = 'primary' "
            "JOIN replies b ON b.exchange = e.number AND b.side = 'candidate' "
            "WHERE ? = '' OR e.candidate = ? ORDER BY max(a.number, b.number)",
            candidate,
            candidate,
        )
        width = len(EXCHANGE) + 1
        for row in rows:
            sides = row[width : width + len(REPLY)], row[width + len(REPLY) :]
            yield Pair(self._exchange(row[:width]), *map(_reply, sides))

    def served(self, side: Side, candidate: str, since: float) -> list[tuple[Exchange, Reply]]:
        """Return the exchanges that a side answered to users while this candidate was beside it, since a time.

        Their texts are left out: the canary looks at them often, and at the numbers only.
        """
        rows = self._all(
            f"SELECT e.number, {_columns('e', EXCHANGE, TEXTS)}, {_columns('a', REPLY, TEXTS)} "
            "FROM exchanges e JOIN replies a ON a.exchange = e.number AND a.side = ? "
            "WHERE e.served = ? AND e.candidate = ? AND e.time >= ? ORDER BY a.number",
            side,
            side,
            candidate,
            since,
        )
        width = len(EXCHANGE) + 1
        return [(self._exchange(row[:width]), _reply(row[width:])) for row in rows]

    def answers(self, side: Side, candidate: str, since: float) -> int:
        """Return how many exchanges a side answered to users while this candidate was beside it, since a time."""
        query = "SELECT count(*) FROM exchanges WHERE served = ? AND candidate = ? AND time >= ?"
        return int(self._all(query, side, candidate, since)[0][0])

    def scored(self, metric: str) -> dict[int, tuple[float, float]]:
        """Return the scores that are kept of a metric, the primary's first, by the number of the exchange."""
        rows = self._all("SELECT exchange, primary_score, candidate_score FROM scores WHERE metric = ?", metric)
        return {number: (one, other) for number, one, other in rows}

    def candidates(self) -> list[str]:
        """Return who was shadowed here, in the order of their first exchanges."""
        both = "SELECT candidate, number FROM exchanges UNION ALL SELECT candidate, number FROM purged"
        return [
            name for (name,) in self._all(f"SELECT candidate FROM ({both}) GROUP BY candidate ORDER BY min(number)")
        ]

    def counts(self) -> dict[str, int]:
        """Return what was counted, by name."""
        return dict(self._all("SELECT name, value FROM counts ORDER BY name"))

    def moves(self, candidate: str) -> list[Move]:
        """Return the canary's moves of a candidate, oldest first."""
        rows = self._all("SELECT time, candidate, share, why FROM moves WHERE candidate = ? ORDER BY number", candidate)
        return [Move(*row) for row in rows]

    def share(self, candidate: str) -> float:
        """Return which share of conversations is a candidate's."""
        moves = self.moves(candidate)
        return moves[-1].share if moves else 0.0

    def totals(self, candidate: str) -> dict[str, int]:
        """Return how many replies a candidate gave, by error."""
        rows = self._all(
            "SELECT a.error, count(*) FROM replies a JOIN exchanges e ON e.number = a.exchange "
            "WHERE a.side = 'candidate' AND e.candidate = ? GROUP BY a.error ORDER BY a.error",
            candidate,
        )
        return dict(rows)

    def _all(self, query: str, *args: Any) -> list[tuple[Any, ...]]:
        with self._named():
            return self._db.execute(query, args).fetchall()

    def _exchange(self, row: Sequence[Any]) -> Exchange:
        values = dict(zip(("number", *EXCHANGE), row, strict=True))
        request = values.pop("request")
        redacted, served = bool(values.pop("redacted")), values.pop("served")
        assert served in get_args(Side)
        return Exchange(**values, request=json.loads(request) if request else None, redacted=redacted, served=served)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say of what SQLite or the disk refuses which file it is about."""
        try:
            yield
        except OSError as error:
            raise EngineError(
                f"spool {self.path}: {error.strerror or error}; name another file with --spool"
            ) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise EngineError(
                    f"spool {self.path}: {error}; is the disk full, or the file another user's?"
                ) from error
            raise SuiteError(f"spool {self.path}: {error}; name another file with --spool") from error


def days_ago(days: float) -> float:
    """Return the unix time of so many days ago."""
    return time.time() - days * 86400


def _reply(row: Sequence[Any]) -> Reply:
    values = dict(zip(REPLY, row, strict=True))
    values |= {name: None if values[name] is None else bool(values[name]) for name in FLAGS}
    return Reply(**values)


def _columns(table: str, names: Sequence[str], but: Container[str] = ()) -> str:
    return ", ".join("''" if name in but else f"{table}.{name}" for name in names)


def _marks(count: int) -> str:
    return ", ".join("?" * count)
