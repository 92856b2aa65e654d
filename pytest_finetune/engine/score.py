"""Asking a model how likely it finds given answers."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pytest_finetune.engine.batches import Part, Run, Tick, in_parts
from pytest_finetune.engine.cache import RoomyCache
from pytest_finetune.engine.models import Loaded
from pytest_finetune.engine.template import completions, prompt_tokens, tokens_of
from pytest_finetune.engine.tree import grow, kept, stack
from pytest_finetune.errors import PromptTooLong
from pytest_finetune.protocol import Turns

NODES = {"cpu": 1024, "cuda": 16384}  # tokens a pass, about: more are no faster there
LOGITS = 1 << 26  # logits a pass, 256 MiB of them


class _Row(NamedTuple):
    """A prompt and a choice as tokens, and where the choice begins."""

    ids: list[int]
    start: int


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
    starts, rows = [], []
    for prompt in asked:
        start = [*soft, *prompt_tokens(loaded.tokenizer, prompt)]
        texts = completions(loaded.tokenizer, prompt, choices)
        known |= {text: tokens_of(loaded.tokenizer, text) for text in texts if text not in known}
        starts.append(start)
        rows.append([_Row([*start, *known[text]], len(start)) for text in texts])
    longest = max((len(row.ids) for own in rows for row in own), default=0)
    if longest - len(soft) > loaded.context_tokens:
        raise PromptTooLong(
            f"a prompt and its answer have {longest - len(soft)} tokens, more than the model's context of "
            f"{loaded.context_tokens}. Shorten the prompt, or take fewer shots."
        )
    shares = loaded.spans(longest)
    new = max((sum(len(row.ids) - row.start for row in own) for own in rows), default=1)
    config, kind = loaded.network.config.get_text_config(), loaded.network.device.type

    def ask(part: Part) -> tuple[int, Run[tuple[float, ...]]]:
        read = loaded.read(part.prefix) if shares else RoomyCache()
        longest_rest = max(len(starts[i]) for i in part.rows) - len(part.prefix)
        nodes = longest_rest + new if shares else longest * len(choices)
        size = max(1, min(NODES[kind] // nodes, LOGITS // (new * config.vocab_size)))
        return size, lambda batch: _likelihoods(loaded, read, [rows[i] for i in batch], shares)

    made = in_parts(starts, loaded.virtual_tokens, ask, tick)
    number = {prompt: i for i, prompt in enumerate(asked)}
    return [made[number[prompt]] for prompt in prompts]


def _likelihoods(
    loaded: Loaded, read: RoomyCache, asked: Sequence[Sequence[_Row]], shares: bool
) -> list[tuple[float, ...]]:
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
    chosen = logits[torch.tensor(nodes), torch.tensor(labels)] - logits.logsumexp(-1)[torch.tensor(nodes)]
    nats = [float(part.sum()) for part in torch.split(chosen.cpu(), counts)]
    sizes = [len(own) for own in asked]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [tuple(nats[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
