"""Curation: load a suite's rows, refuse what must not be trained on or judged by, cut the dev split."""

from collections.abc import Iterable
from pathlib import Path

from pytest_finetune import data, digest
from pytest_finetune.errors import DataRefused, SuiteError
from pytest_finetune.metrics.structured import json_valid
from pytest_finetune.metrics.text import normalise
from pytest_finetune.records import CuratedData, Example, Finding
from pytest_finetune.suite import SuiteSpec

PLACES_SHOWN = 3


def curate(spec: SuiteSpec) -> CuratedData:
    """Return the suite's rows, checked and split; findings that refuse are in it, not raised.

    Raises:
        SuiteError: a file or row cannot be read.
    """
    train = data.load(spec.train, spec.fields)
    heldout = data.load(spec.heldout, spec.fields)
    general = {g.name: data.load(g.data, g.fields) for g in spec.general}
    replay = {g.name: data.load(g.replay, g.fields) for g in spec.general if g.replay}
    findings = [
        *_empty(train, heldout),
        *_references(spec, (*train, *heldout)),
        *_leaks("held-out", train, heldout),
        *(finding for name in replay for finding in _leaks(f"general {name}", replay[name], general[name])),
        *_duplicates("train", train),
        *_duplicates("held-out", heldout),
    ]
    unique = tuple({_key(example): example for example in reversed(train)}.values())[::-1]
    if len(unique) < 2:
        raise SuiteError(f"{spec.file}: [data] train has {len(unique)} distinct row; a dev split and training need two")
    dev, rest = split(unique, spec.dev_share)
    return CuratedData(rest, dev, heldout, general, replay, tuple(findings))


def refuse(spec: SuiteSpec, curated: CuratedData) -> None:
    """Raise if a finding forbids using the data.

    Raises:
        DataRefused: with each finding and its first rows.
    """
    refusing = [finding for finding in curated.findings if finding.refuses]
    if refusing:
        raise DataRefused(f"{spec.file}: data refused: " + "; ".join(describe(finding) for finding in refusing))


def describe(finding: Finding) -> str:
    """Return a finding in one line, with its first rows."""
    shown = ", ".join(finding.rows[:PLACES_SHOWN])
    more = f" and {len(finding.rows) - PLACES_SHOWN} more" if len(finding.rows) > PLACES_SHOWN else ""
    return f"{finding.check}: {finding.message} ({shown}{more})"


def split(rows: Iterable[Example], share: float) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Cut ``share`` of the rows off, chosen by digest, so that adding rows moves no other row."""
    ordered = list(rows)
    count = max(1, round(share * len(ordered)))  # share is at most a half: one row stays
    chosen = {e.id for e in sorted(ordered, key=lambda e: digest.of(["dev", e.id]))[:count]}
    dev = tuple(e for e in ordered if e.id in chosen)
    rest = tuple(e for e in ordered if e.id not in chosen)
    return dev, rest


def _key(example: Example) -> str:
    return normalise(example.text).casefold()


def _place(example: Example) -> str:
    return f"{Path(example.file).name}:{example.line}"


def _leaks(name: str, train: Iterable[Example], judged: Iterable[Example]) -> list[Finding]:
    seen = {_key(example): example for example in train}
    rows = tuple(f"{_place(e)} = {_place(seen[_key(e)])}" for e in judged if _key(e) in seen)
    message = f"{len(rows)} {name} rows are also trained on; a score on them proves nothing. Remove them from train"
    return [Finding("leakage", message, rows, refuses=True)] if rows else []


def _duplicates(name: str, examples: tuple[Example, ...]) -> list[Finding]:
    first: dict[str, Example] = {}
    repeated: list[str] = []
    conflicting: list[str] = []
    for example in examples:
        earlier = first.setdefault(_key(example), example)
        if earlier is not example:
            same = normalise(earlier.reference) == normalise(example.reference)
            (repeated if same else conflicting).append(f"{_place(example)} = {_place(earlier)}")
    found = []
    if repeated:
        effect = "counted once" if name == "train" else "they count twice in the verdict"
        found.append(
            Finding("duplicates", f"{len(repeated)} {name} rows repeat another; {effect}", tuple(repeated), False)
        )
    if conflicting:
        message = f"{len(conflicting)} {name} rows ask the same and answer differently; decide which is right"
        found.append(Finding("conflicts", message, tuple(conflicting), refuses=True))
    return found


def _references(spec: SuiteSpec, examples: tuple[Example, ...]) -> list[Finding]:
    found = []
    if spec.labels:
        rows = tuple(f"{_place(e)} {e.reference!r}" for e in examples if e.reference not in spec.labels)
        if rows:
            message = f"{len(rows)} references are not among [answer] labels"
            found.append(Finding("references", message, rows, refuses=True))
    if spec.answer_schema:
        rows = tuple(_place(e) for e in examples if not json_valid(e.reference, "", spec.answer_schema))
        if rows:
            message = f"{len(rows)} references do not validate against [answer] schema"
            found.append(Finding("references", message, rows, refuses=True))
    return found


def _empty(*splits: tuple[Example, ...]) -> list[Finding]:
    rows = tuple(_place(e) for examples in splits for e in examples if not e.text.strip() or not e.reference.strip())
    return [Finding("empty", f"{len(rows)} rows have an empty prompt or reference", rows, True)] if rows else []
