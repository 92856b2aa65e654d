"""The pointers `current` and `previous` beside a suite's releases, moved so that a crash leaves no doubt.

A move is a line of `history.jsonl`, and the links follow it: what was written down and not yet done, the next
command does. Servers that read `current` see the old release or the new one, and never none.
"""

import getpass
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pytest_finetune.errors import SuiteError, shortened
from pytest_finetune.records import from_json

HISTORY, LOCK = "history.jsonl", ".lock"
CURRENT, PREVIOUS = "current", "previous"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


@dataclass(frozen=True, slots=True)
class Move:
    """One move of `current`.

    Args:
        before: the digest that it led to, empty for none; `previous` leads there now.
        after: the digest that it leads to.
        why: the command.
        forced: what spoke against it, and the reason that was given for doing it all the same; empty for nothing.
        by: who ran the command.
        time: when.
    """

    before: str
    after: str
    why: str
    forced: str = ""
    by: str = field(default_factory=_user)
    time: str = field(default_factory=_now)


class Pointers:
    """The pointers of one suite's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else move them meanwhile, and finish what a process that was killed began.

        Raises:
            SuiteError: the folder cannot be written, or somebody moved them by hand.
        """
        from filelock import FileLock

        try:
            with FileLock(self.folder / LOCK):
                self._follow()
                yield
        except OSError as error:
            raise SuiteError(f"{self.folder}: cannot be written: {error.strerror or error}") from error

    @property
    def current(self) -> str:
        """The digest that serves, empty for none."""
        return self._leads(CURRENT)

    @property
    def previous(self) -> str:
        """The digest that served before, empty for none."""
        return self._leads(PREVIOUS)

    def move(self, after: str, why: str, forced: str = "") -> None:
        """Lead `current` to another release, and `previous` to where `current` led; only while locked."""
        move = Move(self.current, after, why, forced)
        with (self.folder / HISTORY).open("ab") as file:
            file.write(json.dumps(asdict(move)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._follow()

    def history(self) -> list[Move]:
        """Return all moves, oldest first.

        Raises:
            SuiteError: the file is damaged.
        """
        path = self.folder / HISTORY
        told = path.read_bytes() if path.is_file() else b""
        try:
            return [from_json(Move, line) for line in told[: told.rfind(b"\n") + 1].splitlines()]
        except ValueError as error:
            raise SuiteError(f"{path}: a line is no move: {shortened(str(error))}; restore the file") from None

    def _follow(self) -> None:
        """Lead both to where the last line of the history says."""
        self._cut()
        moves = self.history()
        if not moves:
            if self.current:
                raise SuiteError(f"{self.folder}: there is {CURRENT} and no {HISTORY}; move the link away")
            return
        last = moves[-1]
        if self.current not in (last.before, last.after):
            raise SuiteError(
                f"{self.folder / CURRENT}: leads to {self.current or 'nothing'}, and {HISTORY} says {last.after}: "
                "somebody moved it by hand; lead it back there"
            )
        self._lead(CURRENT, last.after)
        if last.before:
            self._lead(PREVIOUS, last.before)

    def _cut(self) -> None:
        """Cut off a last line that was not written whole: its move never began."""
        path = self.folder / HISTORY
        told = path.read_bytes() if path.is_file() else b""
        whole = told.rfind(b"\n") + 1
        if whole < len(told):
            os.truncate(path, whole)

    def _leads(self, name: str) -> str:
        link = self.folder / name
        if not link.is_symlink():
            if link.exists():
                raise SuiteError(f"{link}: is no link; move it away")
            return ""
        return str(link.readlink())

    def _lead(self, name: str, target: str) -> None:
        if self._leads(name) == target:
            return
        new = self.folder / f".{name}"
        new.unlink(missing_ok=True)  # of a process that was killed
        new.symlink_to(target)
        new.replace(self.folder / name)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
