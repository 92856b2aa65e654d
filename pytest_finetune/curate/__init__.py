"""Curation: load a suite's rows, check them, drop what must go, cut the dev split."""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from pytest_finetune import data, digest
from pytest_finetune.curate import repeats, rows
from pytest_finetune.curate.balance import balance
from pytest_finetune.curate.knowledge import knowledge
from pytest_finetune.curate.sizing import sizing
from pytest_finetune.curate.tables import Hit, Issue, Table, Tables, counted, load
from pytest_finetune.errors import DataRefused, SuiteError
from pytest_finetune.records import CuratedData, Finding, Flag, from_plain, to_plain
from pytest_finetune.store import Store
from pytest_finetune.suite import Check, SuiteSpec, model_folder

PLACES_SHOWN = 3
PLACES_KEPT = 20  # in a finding, which reports carry; CuratedData.flags has them all
TRAIN_ROWS = 50
DEV_ROWS = 10
DEV_SHARE = 0.1
COUNTED_BY = ("tokenizer.json", "config.json")  # files of a model by which rows are found too long

# In this order, which is suite.schema.json's: a check sees only rows that none before it dropped.
CHECKS: Mapping[str, Callable[[Tables, Check], Iterable[Issue]]] = {
    "encoding": rows.encoding,
    "empty": rows.empty,
    "references": rows.references,
    "truncated": rows.truncated,
    "leakage": repeats.leakage,
    "near_leakage": repeats.near_leakage,
    "conflicts": repeats.conflicts,
    "duplicates": repeats.duplicates,
    "near_duplicates": repeats.near_duplicates,
    "balance": balance,
    "sizing": sizing,
    "knowledge": knowledge,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What the checks and the split came to: the rows that are kept, by their indices in their tables."""

    train: tuple[int, ...]
    dev: tuple[int, ...]
    heldout: tuple[int, ...]
    general: dict[str, tuple[int, ...]]
    replay: dict[str, tuple[int, ...]]
    findings: tuple[Finding, ...]
    flags: tuple[Flag, ...]


class Kept(NamedTuple):
    """A choice of rows that were checked now, and the key that it may be kept under."""

    key: str
    choice: Choice


def keep(store: Store, kept: Kept) -> None:
    """Remember a choice, so that unchanged rows are not checked again."""
    store.json("curated", kept.key, lambda: to_plain(kept.choice))


def curate(
    spec: SuiteSpec, store: Store | None = None, told: Callable[[Kept], None] = lambda kept: None
) -> CuratedData:
    """Return the suite's rows, checked and split; findings that refuse are in it, not raised.

    Args:
        spec: the suite.
        store: what may know the choice of rows that are files; of a hub data set no file's bytes are known.
        told: told of a choice that was made now, under an empty key where it cannot be kept. Nothing is written here.

    Raises:
        SuiteError: a file or row cannot be read; there are too few rows to train, or to choose by.
    """
    known = store is not None and data.is_local(spec.sources)
    key, tables = _key(spec) if known else "", load(spec)
    while known and key != (now := _key(spec)):  # somebody saved a file while it was read
        key, tables = now, load(spec)
    if store is not None and known and store.has("curated", key):
        chosen = from_plain(Choice, store.json("curated", key, dict))
    else:
        chosen = _choose(tables)
        told(Kept(key, chosen))
    return CuratedData(
        tables.train.taken(chosen.train),
        (tables.dev or tables.train).taken(chosen.dev),
        tables.heldout.taken(chosen.heldout),
        {name: tables.general[name].taken(rows) for name, rows in chosen.general.items()},
        {name: tables.replay[name].taken(rows) for name, rows in chosen.replay.items()},
        chosen.findings,
        chosen.flags,
    )


def _key(spec: SuiteSpec) -> str:
    """Return the digest of all that a choice depends on: files' bytes, the suite less its gate, the tokenizer, code."""
    found = [file for file in data.files(spec.sources) if file.is_file()]
    files = [[os.path.relpath(file, spec.folder), digest.of_file(file)] for file in found]
    folder = model_folder(spec.model, spec.folder)
    counted = digest.of_files(folder, COUNTED_BY) if folder else ""
    libraries = digest.versions("rensa", "numpy", "tokenizers", "jsonschema", "datasets")
    return digest.of([_settings(spec), files, counted, libraries, digest.of_package()])


def _choose(tables: Tables) -> Choice:
    spec = tables.spec
    _enough(spec, tables, "")
    findings: list[Finding] = []
    flags: list[Flag] = []
    for name, find in CHECKS.items():
        check = spec.checks[name]
        issues = list(find(tables, check)) if check.on_issue != "off" else []
        for issue in issues:
            found = [_flag(name, hit, check) for hit in issue.hits]
            findings.append(summary(name, issue.message, check, found))
            flags += found
        if _drops(check):
            for table in {hit.table for issue in issues for hit in issue.hits}:
                table.drop({hit.row for issue in issues for hit in issue.hits if hit.table is table})
    if not any(finding.refuses for finding in findings):
        _enough(spec, tables, "".join(f"; {f.dropped} dropped as {f.check}" for f in findings if f.dropped))
    train, dev = (tables.train.alive, tables.dev.alive) if tables.dev else split(tables.train, spec.dev_share)
    return Choice(
        tuple(train),
        tuple(dev),
        tuple(tables.heldout.alive),
        {name: tuple(table.alive) for name, table in tables.general.items()},
        {name: tuple(table.alive) for name, table in tables.replay.items()},
        tuple(findings),
        tuple(flags),
    )


def _settings(spec: SuiteSpec) -> str:
    plain = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in ("file", "gate")}
    return digest.of(to_plain(plain))


def inputs(spec: SuiteSpec, data: CuratedData) -> dict[str, object]:
    """Return by name what the stages after this one go by: the rows, and what the checks do."""
    tables = {"train": data.train, "dev": data.dev, "held-out": data.heldout}
    tables |= {f"general {name}": rows for name, rows in data.general.items()}
    tables |= {f"replay {name}": rows for name, rows in data.replay.items()}
    named: dict[str, object] = {f"{name} rows": [example.id for example in rows] for name, rows in tables.items()}
    named |= {f"[checks.{name}]": [check.on_issue, check.settings] for name, check in spec.checks.items()}
    return named | {"settings of the suite": _settings(spec)}


def refuse(spec: SuiteSpec, curated: CuratedData) -> None:
    """Raise if a finding forbids using the data.

    Raises:
        DataRefused: a line for each such finding, with its first rows.
    """
    refusing = [describe(finding) for finding in curated.findings if finding.refuses]
    if refusing:
        raise DataRefused(f"{spec.file}: data refused: " + "\n  ".join(refusing))


def describe(finding: Finding) -> str:
    """Return a finding in one line, with its first rows."""
    text = f"{finding.check}: {finding.message}" + (f" [{finding.dropped:,} dropped]" if finding.dropped else "")
    shown = ", ".join(finding.rows[:PLACES_SHOWN])
    more = f" and {finding.count - PLACES_SHOWN:,} more" if finding.count > PLACES_SHOWN else ""
    return f"{text} ({shown}{more})" if shown else text


def summary(name: str, message: str, check: Check, flags: list[Flag]) -> Finding:
    """Return what a check found, in words and with its first places: the row it collides with = the row."""
    places = tuple(f"{f.other} = {f.place}" if f.other else f"{f.place} {f.reason}" for f in flags[:PLACES_KEPT])
    return Finding(name, message, places, check.on_issue == "fail", len(flags) * _drops(check), len(flags))


def split(train: Table, share: float | None) -> tuple[list[int], list[int]]:
    """Cut ``share`` of the rows off as the dev split: chosen by digest, so that adding rows moves no other row.

    Rows that repeat one another, nearly or exactly, and rows of one cluster stay on one side.
    """
    count = dev_rows(len(train.alive), share)
    dev: set[int] = set()
    for groups in (_groups(train), ([row] for row in train.alive)):
        dev = _take(sorted(groups, key=lambda rows: _order(train, rows[0])), count, len(train.alive))
        if len(dev) >= min(count, DEV_ROWS):
            break  # else some group is too large to be on one side, and the rows are cut one by one
    return [i for i in train.alive if i not in dev], sorted(dev)


def dev_rows(rows: int, share: float | None) -> int:
    """Return how many of ``rows`` the dev split gets; without a share a tenth, and enough to choose by."""
    return min(rows // 2, round(share * rows) if share else max(DEV_ROWS, round(DEV_SHARE * rows)))


def _flag(name: str, hit: Hit, check: Check) -> Flag:
    return Flag(name, hit.table.name, hit.table.place(hit.row), hit.reason, hit.other, _drops(check))


def _drops(check: Check) -> bool:
    return check.on_issue == "drop"


def _order(train: Table, row: int) -> str:
    return digest.of(["dev", train.examples[row].id])


def _take(groups: Iterable[list[int]], count: int, rows: int) -> set[int]:
    taken: set[int] = set()
    for group in groups:
        size = len(taken) + len(group)
        if size <= count or (len(taken) < DEV_ROWS and 2 * size <= rows):
            taken.update(group)
    return taken


def _groups(train: Table) -> Iterable[list[int]]:
    """Return the rows that belong together, each group in the order of the file."""
    root: dict[int, int] = {}

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = row = root[root[row]]
        return row

    asked: dict[str, int] = {}
    members: dict[str, int] = {}
    for row in train.alive:
        root[row] = row
        twins = [asked.setdefault(train.questions[row], row), train.near.get(row, row)]
        if cluster := train.examples[row].cluster:
            twins.append(members.setdefault(cluster, row))
        for twin in twins:
            if twin != row and twin in root:  # a twin may have been dropped
                low, high = sorted((find(twin), find(row)))
                root[high] = low
    groups: dict[int, list[int]] = {}
    for row in train.alive:
        groups.setdefault(find(row), []).append(row)
    return groups.values()


def _enough(spec: SuiteSpec, tables: Tables, dropped: str) -> None:
    """Refuse what is too little to train on, or to choose a prompt and a checkpoint by."""
    left = len(tables.train.alive)
    if left < TRAIN_ROWS:
        raise SuiteError(
            f"{spec.file}: [data] train has {counted(left, 'usable')}{dropped}; "
            f"fine-tuning needs {TRAIN_ROWS} at least: add rows, or settle for a good prompt"
        )
    if tables.dev and len(tables.dev.alive) < DEV_ROWS:
        raise SuiteError(
            f"{spec.file}: [data] dev names a dev split of {counted(len(tables.dev.alive), 'usable')}{dropped}; "
            f"choosing a prompt needs {DEV_ROWS} at least: add rows, or leave dev out to cut it from train"
        )
    if not tables.dev and (count := dev_rows(left, spec.dev_share)) < DEV_ROWS:
        raise SuiteError(
            f"{spec.file}: [data] dev_share = {spec.dev_share:g} cuts a dev split of {count} rows from {left}{dropped}"
            f"; choosing a prompt needs {DEV_ROWS} at least: raise it to {math.ceil(100 * DEV_ROWS / left) / 100:g}, "
            "or leave it out"
        )
