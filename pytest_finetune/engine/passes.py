"""Passes over rows of different lengths, each ending at the last position, so that all go on together."""

from collections.abc import Sequence

import torch

from pytest_finetune.engine import mishaps
from pytest_finetune.engine.cache import RoomyCache
from pytest_finetune.engine.models import Loaded
from pytest_finetune.engine.tree import Batch
from pytest_finetune.errors import SuiteError


def read(
    loaded: Loaded, prompts: Sequence[Sequence[int]], whole: Sequence[bool], cache: RoomyCache
) -> list[torch.Tensor]:
    """Read prompts into an empty cache; return the logits after each token of those in ``whole``, else the last.

    Args:
        loaded: the model; with a soft prompt, one prompt at a time.
        prompts: tokens.
        whole: whether the logits after all its tokens are wanted, by prompt.
        cache: where to.

    Returns:
        By prompt, a tensor of the shape (tokens or 1, vocabulary).
    """
    rows = [[loaded.pad] * loaded.virtual_tokens + list(prompt) for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[loaded.pad] * (width - len(row)) + row for row in rows])
    places, starts = torch.arange(width), torch.tensor([[width - len(row)] for row in rows])
    kept = [len(prompt) if every else 1 for prompt, every in zip(prompts, whole, strict=True)]
    keep = places >= width - torch.tensor(kept)[:, None]
    batch = Batch(ids, (places - starts).clamp(min=0), (places >= starts).long())
    return list(torch.split(loaded.run(batch, keep, cache), kept))


def advance(loaded: Loaded, tokens: Sequence[int], lengths: Sequence[int], cache: RoomyCache) -> torch.Tensor:
    """Read one token more of each row; return the logits after it, of the shape (rows, vocabulary).

    Args:
        loaded: the model.
        tokens: one of each row.
        lengths: how many stand before it, a soft prompt's too.
        cache: what was read.
    """
    width, before = cache.get_seq_length() + 1, torch.tensor(lengths)[:, None]
    mask = torch.arange(width) >= width - 1 - before
    ids = torch.tensor(tokens)[:, None]
    return loaded.run(Batch(ids, before, mask.long()), torch.ones_like(ids, dtype=torch.bool), cache)


@torch.inference_mode()
def check_joins(loaded: Loaded, name: str) -> None:
    """Refuse a model whose logits change when its rows are filled up and run together.

    Raises:
        SuiteError: naming the model.
    """
    rows = [[3, 5, 4, 6, 7], [5, 4, 8]]
    refused = f"model {name!r}: answers of its architecture cannot be made several at a time here; serve it otherwise"
    try:
        alone = [read(loaded, [row], [False], RoomyCache())[0] for row in rows]
        together = RoomyCache()
        read(loaded, [row[:-1] for row in rows], [False, False], together)
        after = advance(loaded, [row[-1] for row in rows], [len(row) - 1 for row in rows], together)
    except Exception as error:  # whatever an architecture says to a mask or a cache it does not know
        mishaps.check(error)
        raise SuiteError(refused) from error
    plain = torch.cat(alone).float()
    near = 1e-4 if plain.dtype == loaded.network.dtype else 0.05  # of bfloat16's 8 bits, summed up
    if not float((plain - after.float()).abs().max()) <= near * float(plain.abs().max()):
        raise SuiteError(refused)
