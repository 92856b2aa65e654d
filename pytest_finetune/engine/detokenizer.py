"""Tokens as text, while they come: whole characters only, and nothing of a stop string."""

from typing import Any

HALF = "\ufffd"  # what a decoder writes for bytes that are no whole character yet


class Detokenizer:
    """The text of one answer.

    ``text`` is what its tokens say so far; ``released`` how much of it may be shown, since no stop
    string can begin there any more; ``stopped`` whether one ended it.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = (), paragraph: bool = False) -> None:
        self.text, self.released, self.stopped = "", 0, False
        self._tokenizer, self._stop, self._paragraph = tokenizer, stop, paragraph
        self._ids: list[int] = []
        self._start = self._read = 0  # of the tokens decoded anew for each next one, and of those after the text

    def push(self, token: int) -> None:
        """Read one more token."""
        self._ids.append(token)
        new = self._unread()
        if new and not new.endswith(HALF):
            self._start, self._read = self._read, len(self._ids)
            self._add(new)

    def end(self) -> None:
        """Read nothing more: all of the text is released, also what is no whole character."""
        if not self.stopped:
            self._add(self._unread())
        if not self.stopped:
            self.released = len(self.text)

    def _unread(self) -> str:
        # What a token says may depend on the one before it: a blank, a half character.
        before = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _add(self, new: str) -> None:
        self.text += new.lstrip() if self._paragraph and not self.text else new
        found = [at for stop in self._stop if (at := self.text.find(stop, self.released)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.released, self.stopped = len(self.text), True
            return
        held = 0
        for stop in self._stop:
            sizes = range(min(len(stop) - 1, len(self.text) - self.released), held, -1)
            held = next((size for size in sizes if self.text.endswith(stop[:size])), held)
        self.released = len(self.text) - held
