"""Batches: which rows are asked together, and how many of them fit in memory."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch

from pytest_finetune.engine.mishaps import is_short
from pytest_finetune.engine.tree import common
from pytest_finetune.errors import EngineError

T = TypeVar("T")
Tick = Callable[[int, int], None]
Run = Callable[[Sequence[int]], list[T]]
SAME_START = 16  # tokens that rows begin with in common, for which they are read together
FEWEST = 8  # and so many rows: a batch of its own for fewer costs more than their common tokens


class Part(NamedTuple):
    """Rows, by their numbers, that begin with the same tokens."""

    rows: list[int]
    prefix: list[int]


def parts(rows: Sequence[list[int]], virtual_tokens: int) -> list[Part]:
    """Return rows in parts that are read together, those of the longest rows first.

    A part's rows are in an order in which neighbours have most in common; rows that have little in common
    with any make the last part, longest first: one that does not fit in memory shows at once.

    Args:
        rows: token ids.
        virtual_tokens: of a soft prompt, with which all rows begin.
    """
    kinds = alike([row[virtual_tokens:] for row in rows])
    found: dict[int, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: rows[i] if kinds[i] else [-len(rows[i])]):
        found.setdefault(kinds[i], []).append(i)
    ordered = sorted(found.items(), key=lambda item: (item[0] == 0, -max(len(rows[i]) for i in item[1])))
    return [Part(part, _prefix([rows[i] for i in part], virtual_tokens)) for _, part in ordered]


def alike(rows: Sequence[list[int]]) -> list[int]:
    """Return each row's kind: those of one kind begin with the same tokens; of kind 0 are all others."""
    starts = [tuple(row[:SAME_START]) for row in rows]
    counts = Counter(starts)
    numbers = {start: number for number, start in enumerate((s for s in counts if counts[s] >= FEWEST), 1)}
    return [numbers.get(start, 0) for start in starts]


def _prefix(rows: list[list[int]], virtual_tokens: int) -> list[int]:
    """Return what all rows begin with; a row's last token is never of it, since its logits are wanted."""
    shared = min(common(min(rows), max(rows)), min(map(len, rows)) - 1)
    return rows[0][:shared] if virtual_tokens or shared >= SAME_START else []


def in_parts(
    rows: Sequence[list[int]], virtual_tokens: int, ask: Callable[[Part], tuple[int, Run[T]]], tick: Tick
) -> list[T]:
    """Run rows part by part, and return what came of each.

    Args:
        rows: token ids of what is asked.
        virtual_tokens: of a soft prompt, with which all rows begin.
        ask: returns for a part how many rows a batch has, and what runs a batch of row numbers.
        tick: told how many rows are done, of how many.
    """
    made: dict[int, T] = {}
    for part in parts(rows, virtual_tokens):
        size, run = ask(part)
        done = in_batches(part.rows, size, run, partial(_tick, tick, len(made), len(rows)))
        made |= dict(zip(part.rows, done, strict=True))
    return [made[i] for i in range(len(rows))]


def _tick(tick: Tick, before: int, total: int, done: int, _of_part: int) -> None:
    tick(before + done, total)


def in_batches(items: Sequence[int], size: int, run: Run[T], tick: Tick) -> list[T]:
    """Run ``items`` in batches, in order; a batch that does not fit in memory is halved.

    Raises:
        EngineError: a single item does not fit.
    """
    results: list[T] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + size]
        try:
            results += run(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_short(error):
                raise
            if len(batch) == 1:
                raise EngineError(
                    "out of memory on a batch of one row; take a smaller model or shorter rows"
                ) from error
            size = len(batch) // 2
        else:
            tick(len(results), len(items))
            continue
        torch.cuda.empty_cache()  # after the error, whose frames hold what the batch took
    return results
