"""Answers row by row: what was answered to each request, so that one more row asks for one more answer.

The rows of a subject (a model, an adapter, the settings that change an answer) lie in chunks, which are
entries of the store that never change. Writers only add chunks, so that many need not wait for each other;
a row that two of them hold does no harm, and one that a damaged chunk held is asked again.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pytest_finetune import digest
from pytest_finetune.errors import FinetuneError
from pytest_finetune.protocol import Turns
from pytest_finetune.store import Store

ROWS = "rows.txt"  # in a chunk: a line for each row, the request's name and its value as JSON
NAME = 32  # hexadecimal digits of a request's name
PART = 2000  # requests in one call of the engine: what a killed run loses at most


@dataclass(frozen=True)
class Asked:
    """One kind of question to one subject.

    Args:
        stage: the kind, which is the store's folder.
        subject: digest of all that a value depends on, the request apart.
        ask: asks the engine; returns a plain value for each request.
    """

    stage: str
    subject: str
    ask: Callable[[tuple[Turns, ...]], Sequence[Any]]


class Found(NamedTuple):
    """The values of some requests in their order, and which of them this run asked for."""

    values: list[Any]
    fresh: list[bool]


class _Subject:
    """What is known of one subject: values as JSON by the request's name; a hundred thousand take 30 MB."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.chunks: set[str] = set()  # that were read, or written, by this process
        self.fresh: set[str] = set()  # names of what this run asked
        self.expected: dict[str, Turns] = {}


class RowStore:
    """The rows of one run, over its store.

    ``foresee`` are called before the engine is, and put down with :meth:`expect` what is sure to be needed
    as well, so that one call of the engine answers it all.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.foresee: list[Callable[[], None]] = []
        self._subjects: dict[str, _Subject] = {}

    def values(self, asked: Asked, requests: Sequence[Turns]) -> Found:
        """Return the value of each request; those that nobody knows are asked, equal ones once.

        Raises:
            EngineError, SuiteError: as the engine does, or the store cannot be written.
        """
        names = [_name(request) for request in requests]
        subject = self._subject(asked)
        if missing := {n: r for n, r in zip(names, requests, strict=True) if n not in subject.known}:
            self._make(asked, subject, missing)
        return Found([json.loads(subject.known[n]) for n in names], [n in subject.fresh for n in names])

    def expect(self, asked: Asked, requests: Iterable[Turns]) -> None:
        """Put down requests that will be needed: they go along when this subject must be asked anyway."""
        expected = self._subject(asked).expected
        expected.update((_name(request), request) for request in requests)

    def _subject(self, asked: Asked) -> _Subject:
        key = f"{asked.stage}/{asked.subject}"
        if key not in self._subjects:
            self._subjects[key] = _Subject()
            self._read(asked, self._subjects[key])
        return self._subjects[key]

    def _read(self, asked: Asked, subject: _Subject) -> None:
        """Take in the chunks that other runs and processes have added."""
        for chunk in self.store.group(asked.stage, asked.subject, subject.chunks):
            subject.chunks.add(chunk.name)
            with suppress(FileNotFoundError), (chunk / ROWS).open(encoding="utf-8") as lines:  # pruned meanwhile
                for line in lines:  # of two answers to a row, one run must not take now this, now that
                    subject.known.setdefault(line[:NAME], line[NAME + 1 :].rstrip("\n"))

    def _make(self, asked: Asked, subject: _Subject, missing: dict[str, Turns]) -> None:
        for foresee in self.foresee:
            foresee()
        expected, subject.expected = subject.expected, {}
        with self.store.lock(asked.stage, asked.subject):  # who needs the same rows waits here, and then finds them
            self._read(asked, subject)
            try:
                self._ask(asked, subject, {**expected, **missing})
            except FinetuneError:  # too long, or too large, and it may be one that nobody asked for yet
                if not expected:
                    raise
                self._ask(asked, subject, missing)

    def _ask(self, asked: Asked, subject: _Subject, wanted: dict[str, Turns]) -> None:
        # Longest first: what does not fit in memory shows at once, and rows of one length share a batch.
        order = sorted(wanted.keys() - subject.known.keys(), key=lambda n: (-_characters(wanted[n]), n))
        for start in range(0, len(order), PART):
            part = order[start : start + PART]
            values = asked.ask(tuple(wanted[name] for name in part))
            made = {name: json.dumps(value) for name, value in zip(part, values, strict=True)}
            with self.store.writing(sum(map(len, made.values()))):
                subject.chunks.add(self.store.add(asked.stage, asked.subject, partial(_write, made)))
            subject.known |= made
            subject.fresh.update(made)


def _write(rows: dict[str, str], folder: Path) -> None:
    with (folder / ROWS).open("w", encoding="utf-8") as stream:
        stream.writelines(f"{name} {value}\n" for name, value in rows.items())


def _name(request: Turns) -> str:
    return digest.of([[turn.role, turn.content] for turn in request])[:NAME]


def _characters(request: Turns) -> int:
    return sum(len(turn.content) for turn in request)
