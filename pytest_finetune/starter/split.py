"""One file of rows, cut into new files to train on and to judge by; the file itself stays as it is."""

from __future__ import annotations

import json
from typing import Any

from pytest_finetune import curate, data
from pytest_finetune.curate.tables import normalise
from pytest_finetune.errors import SuiteError
from pytest_finetune.starter.samples import is_held_out
from pytest_finetune.suite import Fields


def split(source: str, fields: Fields) -> dict[str, str]:
    """Return the text of `train.jsonl` and of `heldout.jsonl`, a fifth of the rows, chosen by what they ask.

    The same question is always on the same side, whatever its answer.

    Raises:
        SuiteError: a row cannot be read, or too few are left to train on.
    """
    names = ("train.jsonl", "heldout.jsonl")
    files: dict[str, list[str]] = {name: [] for name in names}
    for example, (_, _, row) in zip(data.load([source], fields), data.rows([source]), strict=True):
        files[names[is_held_out(normalise(example.text))]].append(_line(row))
    train, heldout = (len(files[name]) for name in names)
    if train < curate.TRAIN_ROWS or not heldout:
        raise SuiteError(
            f"{source}: {train + heldout} rows make {train} to train on and {heldout} to judge by; training needs "
            f"{curate.TRAIN_ROWS} at least: add rows, or name a file of others with --heldout"
        )
    return {name: "".join(lines) for name, lines in files.items()}


def _line(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)  # Parquet has dates, too
    return text.encode(errors="backslashreplace").decode() + "\n"  # a lone surrogate as JSON escapes it
