"""Tables: the rows of a suite's splits, with what checks compare them by, normalised once."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from pytest_finetune import data
from pytest_finetune.records import Example
from pytest_finetune.similarity import Index
from pytest_finetune.suite import Fields, SuiteSpec


def normalise(text: str) -> str:
    """Return what two texts must share to be the same: NFKC, white space folded, case folded."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).split()).casefold()


class Table:
    """The rows of one split; ``alive`` are the indices of those that no check has dropped.

    ``near`` leads from a row to an earlier one that it nearly repeats.
    """

    def __init__(self, name: str, examples: Sequence[Example], folder: str) -> None:
        self.name = name
        self.examples = examples
        self.folder = folder
        self.alive = list(range(len(examples)))
        self.near: dict[int, int] = {}
        self.index: tuple[float, dict[int, int], Index] | None = None  # threshold, place of a row in it

    @cached_property
    def questions(self) -> list[str]:
        """What each row asks, normalised."""
        return [normalise(example.text) for example in self.examples]

    @cached_property
    def answers(self) -> list[int]:
        """A digest of each row's normalised reference."""
        digests: dict[str, int] = {}  # labels are few: each is digested once
        return [digests.get(e.reference) or digests.setdefault(e.reference, _digest(e)) for e in self.examples]

    def place(self, row: int) -> str:
        """Return where a row stands, such as ``train.jsonl:12``, seen from the suite's folder."""
        return place(self.examples[row], self.folder)

    def drop(self, rows: set[int]) -> None:
        """Leave rows out from here on."""
        self.alive = [row for row in self.alive if row not in rows]

    def taken(self, rows: Iterable[int]) -> tuple[Example, ...]:
        """Return the rows of these indices."""
        return tuple(self.examples[row] for row in rows)


@dataclass
class Tables:
    """All rows of a suite; ``dev`` is None where it is to be cut from train."""

    spec: SuiteSpec
    train: Table
    heldout: Table
    dev: Table | None = None
    general: dict[str, Table] = field(default_factory=dict)
    replay: dict[str, Table] = field(default_factory=dict)

    @property
    def task(self) -> list[Table]:
        """The tables of the task itself."""
        return [table for table in (self.train, self.dev, self.heldout) if table]

    @property
    def judged(self) -> list[Table]:
        """The tables that the gate judges by."""
        return [self.heldout, *self.general.values()]

    @property
    def trained(self) -> list[Table]:
        """The tables that training sees."""
        return [table for table in (self.train, self.dev, *self.replay.values()) if table]

    def pairs(self) -> Iterator[tuple[Table, Table]]:
        """Yield the tables that must share no question; of a shared one the first table's row goes."""
        yield self.train, self.heldout
        if self.dev:
            yield self.dev, self.heldout
            yield self.train, self.dev
        for name, replay in self.replay.items():
            if name in self.general:  # of one with outputs the rows are not at hand as they were asked
                yield replay, self.general[name]


def place(example: Example, folder: str) -> str:
    """Return where a row stands, such as ``train.jsonl:12``, seen from ``folder``."""
    file = example.file if example.file.startswith("hub:") else os.path.relpath(example.file, folder)
    return f"{file}:{example.line}"


def load(spec: SuiteSpec) -> Tables:
    """Read all rows of a suite.

    Raises:
        SuiteError: a file or row cannot be read.
    """
    folder = str(spec.folder)

    def table(name: str, sources: tuple[str, ...], fields: Fields = spec.fields) -> Table:
        return Table(name, data.load(sources, fields), folder)

    return Tables(
        spec,
        train=table("train", spec.train),
        heldout=table("held-out", spec.heldout),
        dev=table("dev", spec.dev) if spec.dev else None,
        general={g.name: table(f"general {g.name}", g.data, g.fields) for g in spec.general if g.data},
        replay={g.name: table(f"replay {g.name}", g.replay, g.fields) for g in spec.general if g.replay},
    )


@dataclass(frozen=True, slots=True)
class Hit:
    """One row that a check found: why, and the place of the row it collides with (or nothing)."""

    table: Table
    row: int
    reason: str
    other: str = ""


@dataclass(frozen=True, slots=True)
class Issue:
    """What a check found, in words, and the rows; rows of a check that drops are left out."""

    message: str
    hits: Sequence[Hit] = ()


def counted(number: int, what: str) -> str:
    """Return ``1 train row`` or ``2 train rows``."""
    return f"{number:,} {what} row{'' if number == 1 else 's'}"


def _digest(example: Example) -> int:
    text = normalise(example.reference).encode(errors="surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest())
