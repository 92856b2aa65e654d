"""Few-shot examples: fixed ones, label-balanced ones, or those most like the row that is asked."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pytest_finetune.records import Example


def fixed(rows: Sequence[Example], count: int) -> tuple[Example, ...]:
    """Return the first ``count`` rows."""
    return tuple(rows[:count])


def balanced(rows: Sequence[Example], count: int) -> tuple[Example, ...]:
    """Return ``count`` rows of as many different references as there are, earlier ones first."""
    groups: dict[str, list[Example]] = {}
    for example in rows:
        groups.setdefault(example.reference, []).append(example)
    turns = [example for rank in range(count) for same in groups.values() for example in same[rank : rank + 1]]
    return tuple(turns[:count])


class Retriever:
    """Finds the rows of a pool most like a text, by BM25 (Robertson and Zaragoza 2009)."""

    def __init__(self, pool: Sequence[Example]) -> None:
        self.pool = pool

    @cached_property
    def _index(self) -> Any:
        import bm25s  # 0.3 s with scipy, and only prompts with retrieved examples need it

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, which pytest would show
        index = bm25s.BM25()
        index.index(self._tokens([example.text for example in self.pool]), show_progress=False)
        return index

    def nearest(self, texts: Sequence[str], count: int) -> list[tuple[Example, ...]]:
        """Return ``count`` rows for each text, the most alike last, where it stands next to the question."""
        found, _ = self._index.retrieve(self._tokens(texts), k=min(count, len(self.pool)), show_progress=False)
        return [tuple(self.pool[i] for i in row[::-1]) for row in found.tolist()]

    @staticmethod
    def _tokens(texts: Sequence[str]) -> Any:
        import bm25s

        words = r"(?u)\b\w+\b"  # the default drops words of one character, and so every digit
        return bm25s.tokenize(list(texts), token_pattern=words, stopwords=None, return_ids=False, show_progress=False)
