"""Lengths in tokens, counted by a model's own tokenizer without torch."""

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from pytest_finetune.protocol import Turns

TURN_TOKENS = 4  # a chat template's marks around one turn, about
BLOCK = 20_000  # rows tokenised at once; what they need in memory is bounded by it


class Lengths:
    """Counts tokens as the model in ``folder`` (with its ``tokenizer.json``) would see them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def available(folder: Path | None) -> bool:
        """Whether lengths of this model can be counted here; a hub id's files may not be on this disk."""
        return folder is not None and (folder / "tokenizer.json").is_file()

    @cached_property
    def context(self) -> int | None:
        """The model's context in tokens, or None where its config.json does not say."""
        found = json.loads((self.folder / "config.json").read_text()).get("max_position_embeddings")
        return found if isinstance(found, int) else None

    def of(self, turns: Sequence[Turns]) -> list[int]:
        """Return the length of each conversation: its contents, and ``TURN_TOKENS`` a turn."""
        return list(chain.from_iterable(self._block(turns[i : i + BLOCK]) for i in range(0, len(turns), BLOCK)))

    @staticmethod
    def surely_within(limit: int, characters: int, turns: int) -> bool:
        """Whether text is short enough in characters: one has four bytes at most, and a token one at least."""
        return 4 * characters + TURN_TOKENS * turns <= limit

    def _block(self, turns: Sequence[Turns]) -> list[int]:
        texts = list({message.content for row in turns for message in row})  # a system prompt once, not with every row
        encoded = self._tokenizer.encode_batch_fast([_encodable(text) for text in texts], add_special_tokens=False)
        counts = dict(zip(texts, map(len, encoded), strict=True))
        return [sum(counts[message.content] + TURN_TOKENS for message in row) for row in turns]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer  # 0.1 s to import

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def _encodable(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, count as question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()
