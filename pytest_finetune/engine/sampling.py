"""Which token comes next, and how likely it was."""

from random import Random

import torch

IMPOSSIBLE = -9999.0  # what OpenAI writes for a token of probability 0, since JSON has no infinity


def likeliest(logits: torch.Tensor) -> list[int]:
    """Return the likeliest token of each row of ``logits`` (rows, vocabulary)."""
    tokens: list[int] = logits.argmax(-1).tolist()
    return tokens


def draw(logits: torch.Tensor, temperature: float, top_p: float, random: Random) -> int:
    """Return a token drawn from one row of ``logits`` (vocabulary).

    From the likeliest tokens that have the probability ``top_p`` together (nucleus sampling: Holtzman 2020,
    arXiv 1904.09751), by one number of ``random``, so that no other row's draws move this one's.
    """
    scaled = logits.double().cpu()
    probabilities, tokens = torch.softmax((scaled - scaled.max()) / temperature, -1).sort(descending=True, stable=True)
    sums = probabilities.cumsum(-1)
    kept = max(1, int((sums - probabilities < top_p).sum()))
    place = torch.searchsorted(sums[:kept], random.random() * float(sums[kept - 1]), right=True)
    return int(tokens[min(int(place), kept - 1)])


def likelihoods(logits: torch.Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log-likelihood in nats of ``token`` in one row of ``logits``, and of the ``top`` likeliest tokens."""
    nats = torch.log_softmax(logits.float(), -1).clamp(min=IMPOSSIBLE)
    values, tokens = nats.topk(min(top, len(nats)))
    return float(nats[token]), list(zip(tokens.tolist(), values.tolist(), strict=True))
