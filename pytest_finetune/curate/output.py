"""Output: the cleaned rows of a suite as files, beside a report of every row that was found."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_finetune import data
from pytest_finetune.curate import describe
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import CuratedData, Example, to_plain
from pytest_finetune.suite import SuiteSpec


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something already: nothing a user has is written over.

    Raises:
        SuiteError: it does, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SuiteError(f"--out {folder}: is there already and not an empty folder; name a new one")


def write(spec: SuiteSpec, curated: CuratedData, folder: Path) -> None:
    """Write ``train.jsonl``, ``dev.jsonl``, ``heldout.jsonl``, ``report.md`` and ``report.jsonl``.

    Rows keep all the columns of their source. What the user gave is read again and never written to.

    Raises:
        SuiteError: the folder holds something already, or cannot be written.
    """
    given = (*spec.train, *spec.dev, *spec.heldout)
    try:
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, kept in (("train", curated.train), ("dev", curated.dev), ("heldout", curated.heldout)):
            _lines(folder / f"{name}.jsonl", _originals(kept, given))
        _lines(folder / "report.jsonl", map(to_plain, curated.flags))
        (folder / "report.md").write_text("\n".join(_report(spec, curated)) + "\n", encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"--out {folder}: cannot be written: {error.strerror or error}") from error


def _originals(kept: tuple[Example, ...], sources: Iterable[str]) -> Iterator[dict[str, Any]]:
    wanted = {(example.file, example.line) for example in kept}
    files = {example.file for example in kept}
    found = set()
    for file, line, row in data.rows(sources):
        # One file may be named in two splits; a row of it is written once.
        if file in files and (file, line) in wanted and (file, line) not in found:
            found.add((file, line))
            yield row


def _lines(path: Path, rows: Iterable[Any]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            text = json.dumps(row, ensure_ascii=False, default=str)
            # A lone surrogate is no UTF-8, but it has an escape in JSON.
            stream.write((text if _encodes(text) else json.dumps(row, default=str)) + "\n")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _report(spec: SuiteSpec, curated: CuratedData) -> Iterator[str]:
    yield f"# {spec.name}: data"
    yield ""
    yield f"{len(curated.train):,} train, {len(curated.dev):,} dev and {len(curated.heldout):,} held-out rows are left."
    yield "Every row that was found is a line of `report.jsonl`."
    yield ""
    if not curated.findings:
        yield "Nothing was found."
        return
    yield "| check | split | rows | dropped |"
    yield "| --- | --- | --- | --- |"
    counts = Counter((flag.check, flag.split) for flag in curated.flags)
    dropped = Counter((flag.check, flag.split) for flag in curated.flags if flag.dropped)
    for (check, split), count in counts.items():
        yield f"| {check} | {split} | {count:,} | {dropped[check, split]:,} |"
    yield ""
    for finding in curated.findings:
        yield f"- {'**refused** ' if finding.refuses else ''}{describe(finding)}"
