"""Asking a model how likely it finds given answers."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch

from pytest_finetune.engine.batches import Part, Run, Tick, in_parts
from pytest_finetune.engine.cache import RoomyCache
from pytest_finetune.engine.models import Loaded
from pytest_finetune.engine.template import check_choice, completions, prompt_tokens, tokens_of
from pytest_finetune.engine.tree import grow, kept, stack
from pytest_finetune.protocol import Turns

NODES = {"cpu": 1024, "cuda": 16384}  # tokens a pass, about: more are no faster there
LOGITS = 1 << 26  # logits a pass, 256 MiB of them


class Row(NamedTuple):
    """A prompt and a choice as tokens, and where the choice begins."""

    ids: list[int]
    start: int


class Likelihood(NamedTuple):
    """How likely a choice is, and whether each of its tokens is the likeliest."""

    nats: float
    greedy: bool


@torch.inference_mode()
def score(loaded: Loaded, prompts: Sequence[Turns], choices: Sequence[str], tick: Tick) -> list[tuple[float, ...]]:
    """Return the log-likelihood in nats of every choice (with its end mark) after every prompt.

    The choices after a prompt are one tree, and what several prompts begin with is read once.

    Raises:
        PromptTooLong: a prompt and a choice exceed the model's context.
    """
    if not choices:
        return [() for _ in prompts]
    soft = [loaded.pad] * loaded.virtual_tokens
    asked = list(dict.fromkeys(prompts))
    known: dict[str, list[int]] = {}  # the same few completions come after every prompt
    rows = []
    for prompt in asked:
        start = [*soft, *prompt_tokens(loaded.tokenizer, prompt)]
        texts = completions(loaded.tokenizer, prompt, choices)
        known |= {text: tokens_of(loaded.tokenizer, text) for text in texts if text not in known}
        rows.append([Row([*start, *known[text]], len(start)) for text in texts])
    longest = max((len(row.ids) for own in rows for row in own), default=0)
    check_choice(longest - len(soft), loaded.context_tokens)
    made = likelihoods(loaded, rows, tick)
    number = {prompt: i for i, prompt in enumerate(asked)}
    return [tuple(one.nats for one in made[number[prompt]]) for prompt in prompts]


@torch.inference_mode()
def likelihoods(loaded: Loaded, asked: Sequence[Sequence[Row]], tick: Tick) -> list[list[Likelihood]]:
    """Return how likely choices are.

    Args:
        loaded: the model.
        asked: by prompt its choices, all of which begin with the prompt's tokens (a soft prompt's first).
        tick: told how many prompts are done, of how many.
    """
    starts = [own[0].ids[: own[0].start] for own in asked]
    longest = max((len(row.ids) for own in asked for row in own), default=0)
    shares = loaded.spans(longest)

    def ask(part: Part) -> tuple[int, Run[list[Likelihood]]]:
        read = loaded.read(part.prefix) if shares else RoomyCache()
        new = max(sum(len(row.ids) - row.start for row in asked[i]) for i in part.rows)
        longest_rest = max(len(starts[i]) for i in part.rows) - len(part.prefix)
        nodes = longest_rest + new if shares else longest * max(len(asked[i]) for i in part.rows)
        size = max(1, min(NODES[loaded.network.device.type] // nodes, _logits(loaded) // new))
        return size, lambda batch: _likelihoods(loaded, read, [asked[i] for i in batch], shares)

    return in_parts(starts, loaded.virtual_tokens, ask, tick)


def most(loaded: Loaded) -> int:
    """Return how many tokens of choices a pass takes at most, one choice apart."""
    return min(NODES[loaded.network.device.type], _logits(loaded))


def _logits(loaded: Loaded) -> int:
    return LOGITS // int(loaded.network.config.get_text_config().vocab_size)


def _likelihoods(
    loaded: Loaded, read: RoomyCache, asked: Sequence[Sequence[Row]], shares: bool
) -> list[list[Likelihood]]:
    past = read.get_seq_length()
    trees = asked if shares else [[row] for own in asked for row in own]
    grown = [grow([row.ids[past:-1] for row in own]) for own in trees]  # after a last token nothing is predicted
    batch = stack(grown, loaded.pad, past)
    places: list[tuple[int, int]] = []
    labels: list[int] = []
    counts: list[int] = []
    for number, (own, tree) in enumerate(zip(trees, grown, strict=True)):
        for row, path in zip(own, tree.paths, strict=True):
            first = max(row.start - past, 1)
            places += [(number, node) for node in path[first - 1 :]]
            labels += row.ids[past + first :]
            counts.append(len(path) - first + 1)
    keep, nodes = kept(places, batch.ids.shape)
    logits = loaded.run(batch, keep, read.copied(len(trees), batch.ids.shape[1]) if past else None).float()
    at, right = (torch.tensor(numbers, device=logits.device) for numbers in (nodes, labels))
    chosen = (logits[at, right] - logits.logsumexp(-1)[at]).cpu()
    best = (logits.argmax(-1)[at] == right).cpu()
    parts = zip(torch.split(chosen, counts), torch.split(best, counts), strict=True)
    found = iter([Likelihood(float(nats.sum()), bool(greedy.all())) for nats, greedy in parts])
    return [list(islice(found, len(own))) for own in asked]
