"""Rows of data files as examples, each with the file and line it stands at."""

import csv
import gc
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pytest_finetune import digest
from pytest_finetune.errors import EngineError, SuiteError, one_line, shortened
from pytest_finetune.records import Example, Message
from pytest_finetune.suite import Fields

Row = tuple[int, dict[str, Any]]  # line, columns
LARGEST_BYTES = 1 << 24  # of a row; no context is as long, and checks take tens of times its memory
HUB_NAME = r"\w[\w.-]*/\w[\w.-]*"


def load(sources: Iterable[str], fields: Fields) -> tuple[Example, ...]:
    """Return the examples of files, folders of files, or hub data sets.

    A row has ``messages`` (the last one the assistant's), or a prompt and a completion column.

    Raises:
        SuiteError: naming the file, the line and what is wrong with it.
    """
    collecting = gc.isenabled()
    gc.disable()  # rows make no circles; looking for some takes a quarter of the time of a million rows
    try:
        return tuple(_example(place, line, row, fields) for place, line, row in rows(sources))
    finally:
        if collecting:
            gc.enable()


def rows(sources: Iterable[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the rows of files, folders or hub data sets as they are: file, line, columns."""
    for source in sources:
        for place, found in _open(source):
            for line, row in found:
                yield place, line, row


def is_local(sources: Iterable[str]) -> bool:
    """Whether loading needs no network."""
    return not any(source.startswith("hub:") for source in sources)


def files(sources: Iterable[str]) -> Iterator[Path]:
    """Yield the files of local sources, in the order in which they are read.

    Raises:
        SuiteError: a folder holds no data file.
    """
    for source in sources:
        path = Path(source)
        found = sorted(p for p in path.rglob("*") if p.suffix in READERS) if path.is_dir() else [path]
        if not found:
            raise SuiteError(f"{path}: the folder holds no {', '.join(READERS)} file")
        yield from found


def _open(source: str) -> Iterator[tuple[str, Iterable[Row]]]:
    if source.startswith("hub:"):
        yield source, _hub(source)
        return
    for file in files([source]):
        if file.suffix not in READERS:
            raise SuiteError(f"{file}: {file.suffix or 'no suffix'} is not one of {', '.join(READERS)}")
        yield str(file), READERS[file.suffix](file)


def _text(file: Path, raw: bytes, line: int = 1) -> str:
    """Return the text of a file's bytes from the given line on."""
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += raw[: error.start].count(b"\n")
        raise SuiteError(f"{file}:{line}: not UTF-8 (byte {raw[error.start]:#04x}); save the file as UTF-8") from None


def _jsonl(file: Path) -> Iterator[Row]:
    empty = True
    with file.open("rb") as stream:  # line by line: a file and its lines would take as much memory as its rows
        for line, raw in enumerate(iter(lambda: stream.readline(LARGEST_BYTES + 1), b""), 1):
            if len(raw) > LARGEST_BYTES:
                raise SuiteError(f"{file}:{line}: a row of more than {LARGEST_BYTES >> 20} MiB; shorten or split it")
            text = _text(file, raw, line)
            if not text.strip():
                continue
            empty = False
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise SuiteError(f"{file}:{line}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise SuiteError(f"{file}:{line}: a row must be a JSON object, not {type(row).__name__}")
            yield line, row
    if empty:
        raise SuiteError(f"{file}: the file has no rows")


def _csv(file: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(file, file.read_bytes()), newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if None in row:
                raise SuiteError(f"{file}:{reader.line_num}: more cells than the header names")
            yield line + 1, row
            line = reader.line_num
    except csv.Error as error:
        raise SuiteError(f"{file}:{reader.line_num}: not CSV: {error}") from None
    if line == 1:
        raise SuiteError(f"{file}: the file has no rows")


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet  # comes with datasets; 0.3 s to import

    try:
        found = pyarrow.parquet.read_table(file, partitioning=None).to_pylist()
    except (OSError, ValueError, LookupError, OverflowError, pyarrow.ArrowException) as error:
        raise SuiteError(f"{file}: not Parquet: {one_line(error, 200)}") from None
    if not found:
        raise SuiteError(f"{file}: the file has no rows")
    yield from enumerate(found, 1)


def _hub(source: str) -> Iterator[Row]:
    """Rows of ``hub:OWNER/NAME@REVISION:SPLIT``; class labels become their names."""
    name, _, rest = source.removeprefix("hub:").partition("@")
    revision, _, split = rest.partition(":")
    # Other names are the library's own readers, or places on this disk; so is one that a folder here has.
    if not (re.fullmatch(HUB_NAME, name) and re.fullmatch("[0-9a-f]{40}", revision) and split) or Path(name).exists():
        raise SuiteError(
            f"{shortened(source)}: write hub:OWNER/NAME@REVISION:SPLIT with a revision of 40 hexadecimal digits, in a "
            "folder where nothing is called OWNER/NAME"
        )
    import datasets  # 1 s to import, and local files never need it

    try:
        found = datasets.load_dataset(name, revision=revision, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        if "LocalEntryNotFoundError" in str(error):  # datasets says it in its text only
            raise EngineError(
                f"{source}: not in the local cache, and the hub gives nothing; run it again later"
            ) from None
        raise SuiteError(f"{source}: cannot be loaded: {one_line(error, 200)}") from error
    labels = {column: f for column, f in found.features.items() if isinstance(f, datasets.ClassLabel)}
    for line, row in enumerate(found, 1):
        yield line, {k: labels[k].int2str(v) if k in labels and v is not None else v for k, v in row.items()}


READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}


def _example(file: str, line: int, row: dict[str, Any], fields: Fields) -> Example:
    place = f"{file}:{line}"
    if "messages" in row:
        messages = _messages(place, row["messages"])
        asked, reference = messages[:-1], messages[-1].content
    else:
        asked = (Message("user", _cell(place, row, fields.prompt)),)
        reference = _cell(place, row, fields.completion)
    cluster = _cell(place, row, fields.cluster) if fields.cluster else ""
    group = _cell(place, row, fields.slice) if fields.slice and fields.slice in row else ""
    name = digest.of([[[m.role, m.content] for m in asked], reference])
    return Example(name, asked, reference, file, line, cluster, group)


def _cell(place: str, row: dict[str, Any], column: str) -> str:
    if column not in row:
        there = shortened(", ".join(map(repr, row))) or "none"
        raise SuiteError(
            f"{place}: the row has no field {column!r} (it has {there}); name the columns in [data] fields"
        )
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)  # Parquet has dates
    raise SuiteError(f"{place}: field {column!r} is {shortened(repr(value))}; it must be text")


def _messages(place: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise SuiteError(f"{place}: 'messages' must be a list of two or more turns")
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise SuiteError(f"{place}: a turn must have a text 'content' and a 'role'")
        if turn.get("role") not in ("system", "user", "assistant"):
            raise SuiteError(f"{place}: role {shortened(repr(turn.get('role')))} is not one of system, user, assistant")
        turns.append(Message(turn["role"], turn["content"]))
    if turns[-1].role != "assistant":
        raise SuiteError(f"{place}: the last turn must be the assistant's, which is the reference")
    return tuple(turns)
