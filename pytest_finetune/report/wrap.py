"""Lines no wider than the terminal: what is too long goes on under its own column."""

import re
import unicodedata
from collections.abc import Iterator


def cells(text: str) -> int:
    """Return the columns that a terminal gives to ``text``."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def wrapped(head: str, text: str, width: int) -> Iterator[str]:
    """Yield ``head`` and ``text``, and the rest of it under its first column.

    Args:
        head: what stands before the text, without anything that a user gave.
        text: what is wrapped, at spaces where there are any but before a per cent sign.
        width: columns of the terminal.
    """
    room = max(width - cells(head), 1)
    words: list[str] = []
    for word in (piece for given in re.split(" (?!%)", text) for piece in _pieces(given, room)):
        if words and cells(" ".join([*words, word])) > room:
            yield (head + " ".join(words)).rstrip(" ")
            head, words = " " * cells(head), []
        if word or words:  # spaces at a break are gone
            words.append(word)
    yield (head + " ".join(words)).rstrip(" ")


def _pieces(word: str, room: int) -> Iterator[str]:
    """Yield a word that is too wide for any line in pieces."""
    if cells(word) <= room:
        yield word
        return
    piece, used = "", 0
    for char in word:
        size = cells(char)
        if piece and used + size > room:
            yield piece
            piece, used = "", 0
        piece, used = piece + char, used + size
    yield piece
