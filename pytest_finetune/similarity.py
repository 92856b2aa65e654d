"""Near-duplicate texts: MinHash and LSH find the candidates, true Jaccard decides.

A text's tokens are its runs of three characters, each paired with all the numbers in the text. Case,
punctuation and white space do not count; a typo or a filler word changes few tokens, another word more,
another number all. benchmarks/results/token_sets.md has other sets: this one is near in 19 of 20 typos
and filler words, and in a quarter of questions with another word.
"""

from __future__ import annotations

import copy
import hashlib
import re
import sys
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import chain, compress, count, pairwise
from operator import ne
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Codes = NDArray[np.uint64]
    Places = NDArray[np.int64]

SEED = 0
EDITED = 0.7  # Jaccard of short texts one small edit apart, about: 998 in 1,000 of them are found
EDITED_WORDS = 4  # a shorter text is changed by any word
SLOTS = 128  # of a MinHash
MISSED = 0.02  # of the pairs that lie just at the threshold
WINDOW = 2  # texts compared at either end of a bucket, so that a crowded one costs no more than another
BLOCK = 1 << 14  # characters handled at once: their arrays stay in the cache
SLACK = 0.1  # three standard deviations of a sketch's estimate of a Jaccard of 0.8
COMPARED = 4  # candidates of a text at most
QUERIES = 1 << 17  # texts whose candidates are looked up at once
PAIRS = 1 << 16  # pairs compared at once: 16 bits for the pair leave 48 for the token and its side
FACTOR = 0x9E3779B97F4A7C15  # odd, its bits well mixed
END = "\ue000"  # of a text, at either end; a private code point, so that it is in no text
SPACE = 32
NUMBERS = re.compile(r"[\d+*/^=<>−×÷-](?:(?<=\d)\d*|(?=\W*\d))")  # and signs before them; a class first is fast
WORDS = re.compile(r"\w+")


class Index:
    """Texts, and which of them are near one another.

    Near are texts of which the Jaccard of their tokens is at least the threshold, and that are not the
    same words in another order. A copy is always found, a pair at the threshold 98 times in 100; in a
    crowd of similar texts each is compared with some, not with all.
    """

    def __init__(self, texts: Sequence[str], threshold: float = 0.8, edits: bool = False) -> None:
        self._threshold, self._edits = threshold, edits
        self._sought = min(threshold, EDITED) if edits else threshold
        self._sketches = _sketch(texts, self._sought)

    def only(self, rows: Sequence[int]) -> Index:
        """Return the index of some of the texts, in this order; nothing is hashed again."""
        part = copy.copy(self)
        part.__dict__.pop("_buckets", None)
        part._sketches = self._sketches.only(rows)
        return part

    def earlier(self) -> dict[int, tuple[int, float]]:
        """Return, for each text near an earlier one, the most similar such one's index, and their Jaccard."""
        import numpy as np

        return self._nearest(self._sketches, np.arange(len(self._sketches.texts), dtype=np.uint64))

    def of(self, queries: Sequence[str] | Index) -> dict[int, tuple[int, float]]:
        """Return, for each query near a text, the most similar such one's index, and their Jaccard.

        Queries may be another index of the same kind, which has hashed its texts already.
        """
        import numpy as np

        asked = queries._sketches if isinstance(queries, Index) else _sketch(queries, self._sought)
        return self._nearest(asked, np.full(len(asked.texts), len(self._sketches.texts), np.uint64))

    @cached_property
    def _buckets(self) -> list[Codes]:
        """For each kind of key, ``key << 32 | place of the text``, sorted."""
        import numpy as np

        places = np.arange(len(self._sketches.texts), dtype=np.uint64)
        return [np.sort(key[self._sketches.rows].astype(np.uint64) << 32 | places) for key in self._sketches.keys]

    def _nearest(self, queries: Sketches, ends: Codes) -> dict[int, tuple[int, float]]:
        """Return the nearest to each query of the texts before its end."""
        nearest: dict[int, tuple[int, float]] = {}
        asked, texts = queries.texts, self._sketches.texts
        for pairs in self._likely(queries, ends):
            for part in _blocks([len(asked[a]) + len(texts[b]) for a, b in pairs]):
                similar = jaccard_of([asked[a] for a, _ in pairs[part]], [texts[b] for _, b in pairs[part]])
                for (a, b), jaccard in zip(pairs[part], similar.tolist(), strict=True):
                    if jaccard > nearest.get(a, (0, 0.0))[1] and self._near(asked[a], texts[b], jaccard):
                        nearest[a] = b, jaccard
        return nearest

    def _near(self, a: str, b: str, jaccard: float) -> bool:
        if jaccard >= self._threshold:
            return not _reordered(a, b)
        return self._edits and _edited(a, b)

    def _likely(self, queries: Sketches, ends: Codes) -> Iterator[list[tuple[int, int]]]:
        """Yield pairs of a query and a text: the few whose sketches agree best, if as well as near texts' do."""
        import numpy as np

        ours, theirs = queries, self._sketches
        for start in range(0, len(queries.texts), QUERIES):
            pairs = self._candidates(queries, ends, start)
            firsts = np.arange(start, start + QUERIES + 1, QUERIES >> 5, dtype=np.uint64) << 32
            for low, high in pairwise(np.searchsorted(pairs, firsts)):
                query, text = (pairs[low:high] >> 32).astype(int), (pairs[low:high] & 0xFFFFFFFF).astype(int)
                row, other = ours.rows[query], theirs.rows[text]
                agreement = np.mean(ours.slots[row] == theirs.slots[other], axis=1)
                agreement += ours.keys[0, row] == theirs.keys[0, other]  # copies before all others
                agreement *= ours.numbers[row] == theirs.numbers[other]
                order = np.lexsort((-agreement, query))
                rank = np.arange(len(query)) - np.searchsorted(query, query)  # their own places, as they are sorted
                kept = np.sort(order[(rank < COMPARED) & (agreement[order] >= self._sought - SLACK)])
                unlike = agreement[kept] < self._threshold - SLACK  # so that only an edit makes them near
                yield [
                    (a, b)
                    for a, b, edited in zip(query[kept].tolist(), text[kept].tolist(), unlike.tolist(), strict=True)
                    if not edited or _edited(ours.texts[a], theirs.texts[b])
                ]

    def _candidates(self, queries: Sketches, ends: Codes, start: int) -> Codes:
        """Return ``query << 32 | a text before its end in the same bucket``, sorted, for ``QUERIES`` from ``start``."""
        import numpy as np

        found = []
        for bucket, keys in zip(self._buckets, queries.keys, strict=True):
            key = keys[queries.rows[start : start + QUERIES]]
            query = np.argsort(key)  # look-ups in order stay in the cache
            lowest = key[query].astype(np.uint64) << 32
            query += start
            first, end = np.searchsorted(bucket, lowest), np.searchsorted(bucket, lowest | ends[query])
            for offset in range(WINDOW):
                for place in (first + offset, end - 1 - offset):
                    inside = (first <= place) & (place < end)
                    found.append(query[inside].astype(np.uint64) << 32 | bucket[place[inside]] & 0xFFFFFFFF)
        return _distinct(np.concatenate(found))


@dataclass(frozen=True, slots=True)
class Sketches:
    """What is kept of texts; ``rows`` says where in the arrays a text is, so that a part shares them."""

    texts: Sequence[str]
    rows: Places  # texts
    keys: NDArray[np.uint32]  # one for copies and one a band, rows
    slots: NDArray[np.uint8]  # rows, SLOTS; the lowest byte of each
    numbers: Codes  # rows

    def only(self, places: Sequence[int]) -> Sketches:
        """Return the sketches of some of the texts, in this order."""
        return replace(self, texts=[self.texts[place] for place in places], rows=self.rows[places])


def cut(threshold: float) -> tuple[int, int]:
    """Return into how many bands of how many rows a MinHash is cut, to find most pairs at the threshold.

    Source: Leskovec, Rajaraman & Ullman 2020, Mining of Massive Datasets, section 3.4.2.
    """
    rows = max(r for r in range(1, SLOTS + 1) if r == 1 or (1 - threshold**r) ** (SLOTS // r) <= MISSED)
    return SLOTS // rows, rows


def _sketch(texts: Sequence[str], threshold: float) -> Sketches:
    """Return the MinHash sketches of texts."""
    import numpy as np
    from rensa import RMinHash

    bands, rows = cut(threshold)
    keys = np.zeros((bands + 1, len(texts)), np.uint32)
    kept = np.empty((len(texts), SLOTS), np.uint8)
    numbers = numbers_of(texts)
    for part in _blocks([len(text) for text in texts]):
        tokens, text = tokens_of(texts[part], numbers[part])
        starts = np.searchsorted(text, np.arange(part.stop - part.start + 1)).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(tokens, starts, SLOTS, SEED).to_rows()
        slots = np.fromiter(chain.from_iterable(matrix), np.uint32).reshape(-1, SLOTS)
        kept[part] = slots & 0xFF
        keys[0, part] = [zlib.crc32(t.encode("utf-8", "surrogatepass")) for t in texts[part]]
        for row in range(rows):
            keys[1:, part] = (keys[1:, part] ^ slots.T[row : bands * rows : rows]) * np.uint32(FACTOR >> 32 | 1)
    return Sketches(texts, np.arange(len(texts)), keys, kept, numbers)


def jaccard_of(ours: Sequence[str], theirs: Sequence[str]) -> NDArray[np.float64]:
    """Return the Jaccard of up to ``PAIRS`` pairs of texts, numbers aside; 47 bits of a token are told apart."""
    import numpy as np

    sides = []
    for side, texts in enumerate((ours, theirs)):
        tokens, pair = tokens_of(texts)
        sides.append(pair << 48 | tokens >> 17 << 1 | np.uint64(side))
    both = _distinct(np.concatenate(sides))
    pair = (both >> 48).astype(int)
    sizes = np.bincount(pair)  # of the two sets together: a shared token counts twice
    shared = np.bincount(pair[1:][both[1:] >> 1 == both[:-1] >> 1], minlength=len(sizes))
    return shared / (sizes - shared)


def tokens_of(texts: Sequence[str], numbers: Codes | None = None) -> tuple[Codes, Codes]:
    """Return the hashed tokens of all texts, each with its text's numbers, and for each the text it is of."""
    import numpy as np

    marked = [f"{END} {text.casefold()} {END}" for text in texts]
    codes = _folded()[np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), np.uint32)]
    text = np.repeat(np.arange(len(texts), dtype=np.uint64), [len(m) for m in marked])
    codes, text = codes[codes > 0], text[codes > 0]
    kept = np.append(True, (codes[1:] != SPACE) | (codes[:-1] != SPACE))  # white space folded
    codes, text = codes[kept].astype(np.uint64), text[kept]
    inside = text[:-2] == text[2:]
    tokens, text = (codes[:-2] << 42 | codes[1:-1] << 21 | codes[2:])[inside], text[2:][inside]
    if numbers is not None:
        tokens ^= numbers[text]
    for _ in range(2):  # every bit of a token comes to depend on every other
        tokens *= np.uint64(FACTOR)
        tokens ^= tokens >> 32
    return tokens, text


@cache
def _folded() -> NDArray[np.uint32]:
    """Return what each code point counts as: itself, a space, or 0 where it is left out."""
    import numpy as np

    folded = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    for code in range(0x20000):  # above it there are ideographs, and nothing to fold
        category = unicodedata.category(chr(code))
        if category == "Cf" or chr(code) in "'’":
            folded[code] = 0
        elif category == "Cc" or category[0] in "PZ":
            folded[code] = SPACE
    return folded


def numbers_of(texts: Sequence[str]) -> Codes:
    """Return 64 bits for the numbers of each text in their order, 0 where it has none."""
    import numpy as np

    found = (" ".join(NUMBERS.findall(text)).encode() for text in texts)
    digests = (int.from_bytes(hashlib.blake2b(f, digest_size=8).digest()) if f else 0 for f in found)
    return np.fromiter(digests, np.uint64, len(texts))


@lru_cache(1 << 12)
def _words(text: str) -> list[str]:
    return WORDS.findall(text.casefold())


def _reordered(a: str, b: str) -> bool:
    """Whether two texts have the same words in another order."""
    ours, theirs = _words(a), _words(b)
    return ours != theirs and sorted(ours) == sorted(theirs)


def _distinct(values: Codes) -> Codes:
    """Return the distinct values, sorted; numpy's own unique hashes them and takes four times as long."""
    import numpy as np

    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def _edited(a: str, b: str) -> bool:
    """Whether two texts are one small edit apart: a word more, or a word misspelt."""
    fewer, more = _words(a), _words(b)
    if len(fewer) > len(more):
        fewer, more = more, fewer
    if len(fewer) < EDITED_WORDS or len(more) > len(fewer) + 1 or fewer == more:
        return False
    at = next(compress(count(), map(ne, fewer, more)), len(fewer))  # the first word that differs
    if len(fewer) < len(more):
        return fewer[at:] == more[at + 1 :]
    return fewer[at + 1 :] == more[at + 1 :] and _misspelt(fewer[at], more[at])


def _misspelt(a: str, b: str) -> bool:
    """Whether two words are one letter apart (more, other), or two letters swapped."""
    shortest = min(len(a), len(b))
    for _ in range(2):  # leave out what they begin with alike, then what they end with
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        a, b = a[same:][::-1], b[same:][::-1]
    return shortest > 2 and (max(len(a), len(b)) == 1 or a == b[::-1])


def _blocks(lengths: Sequence[int]) -> Iterator[slice]:
    """Cut a sequence into slices of about ``BLOCK`` characters and at most ``PAIRS`` items."""
    import numpy as np

    if not lengths:
        return
    block = np.cumsum(lengths) // BLOCK
    cuts = {0, len(lengths), *range(0, len(lengths), PAIRS), *(np.flatnonzero(np.diff(block)) + 1).tolist()}
    for start, stop in pairwise(sorted(cuts)):
        yield slice(start, stop)
