"""Asking a model for its greedy answers."""

import time
from collections.abc import Callable, Sequence

import torch
import transformers

from pytest_finetune.engine.batches import Part, Run, Tick, in_parts
from pytest_finetune.engine.cache import RoomyCache
from pytest_finetune.engine.models import Loaded, soft_embeddings
from pytest_finetune.engine.template import BLANK_LINE, answer_in, check_room, end_marks, prompt_tokens, uses_chat
from pytest_finetune.engine.tree import Batch, groups, grow, kept, stack
from pytest_finetune.errors import SuiteError
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Answers, Generation

# A model's own generation config fills in what is not said, and its penalties would change the answer.
GREEDY = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0}
Ended = Callable[[int, list[int]], bool]  # whether the answer to a row (by its number) is complete


@torch.inference_mode()
def generate(loaded: Loaded, prompts: Sequence[Turns], generation: Generation, tick: Tick) -> Answers:
    """Return the greedy answer to each prompt; equal prompts are asked once.

    Where no chat template marks the end, an answer ends at its first blank line.

    Raises:
        PromptTooLong: a prompt leaves no room for ``max_new_tokens``.
    """
    tokenizer, limit = loaded.tokenizer, generation.max_new_tokens
    asked = list(dict.fromkeys(prompts))
    rows = [[loaded.pad] * loaded.virtual_tokens + prompt_tokens(tokenizer, prompt) for prompt in asked]
    longest = max(map(len, rows), default=0)
    check_room(longest - loaded.virtual_tokens, limit, loaded.context_tokens)
    if any(len(row) == loaded.virtual_tokens for row in rows):
        raise SuiteError("a prompt is empty, and this model has no token to begin with; leave the row out")
    marks = model_end_marks(loaded)
    marks |= {mark for prompt in asked[:1] for mark in end_marks(tokenizer, prompt)}
    chat = [uses_chat(tokenizer, prompt) for prompt in asked]

    def text(i: int, tokens: list[int]) -> str:
        whole: str = tokenizer.decode(tokens, skip_special_tokens=True)
        return answer_in(whole, chat[i])

    def ended(i: int, tokens: list[int]) -> bool:
        if tokens[-1] in marks:
            return True
        return not chat[i] and BLANK_LINE in tokenizer.decode(tokens, skip_special_tokens=True).lstrip()

    started = time.perf_counter()
    made = continued(loaded, rows, generation, marks, ended, tick)
    seconds = time.perf_counter() - started
    number = {prompt: i for i, prompt in enumerate(asked)}
    texts = [text(i, made[i]) for i in range(len(asked))]
    return Answers(
        texts=tuple(texts[number[prompt]] for prompt in prompts),
        prompt_tokens=tuple(len(rows[number[prompt]]) for prompt in prompts),
        new_tokens=tuple(len(made[number[prompt]]) for prompt in prompts),
        seconds_each=seconds / max(1, len(asked)),
    )


@torch.inference_mode()
def continued(
    loaded: Loaded, rows: Sequence[list[int]], generation: Generation, marks: set[int], ended: Ended, tick: Tick
) -> list[list[int]]:
    """Return the likeliest tokens after each row, an end mark too.

    Args:
        loaded: the model.
        rows: token ids, a soft prompt's first.
        generation: new tokens at most, and rows a batch.
        marks: tokens that end an answer.
        ended: whether an answer is complete, these marks included; some architectures ask it of none.
        tick: told how many rows are done, of how many.
    """
    limit = generation.max_new_tokens
    shares = loaded.spans(max(map(len, rows), default=0) + limit)

    def ask(part: Part) -> tuple[int, Run[list[int]]]:
        if not shares:
            # What fills up a row would stand before a soft prompt.
            size = 1 if loaded.virtual_tokens else generation.batch_size
            return size, lambda batch: _plainly(loaded, [rows[i] for i in batch], limit, marks)
        read = loaded.read(part.prefix)

        def answers(batch: Sequence[int]) -> list[list[int]]:
            rest = [rows[i][len(part.prefix) :] for i in batch]
            return _greedy(loaded, read, rest, limit, lambda i, tokens: ended(batch[i], tokens))

        return generation.batch_size, answers

    return in_parts(rows, loaded.virtual_tokens, ask, tick)


def _greedy(loaded: Loaded, read: RoomyCache, rows: Sequence[list[int]], limit: int, ended: Ended) -> list[list[int]]:
    """Return the new tokens of each row, its end mark too.

    Rows are read as trees; so are answers, whose tokens each attend to their own row's way only. Rows
    that ended leave the batch, and so do trees of which all rows did.

    Args:
        loaded: the model.
        read: what all rows begin with, as one row that was read.
        rows: token ids of the rest of each row.
        limit: new tokens at most.
        ended: whether an answer is complete.
    """
    past = read.get_seq_length()
    own = groups(rows, loaded.linear_cost, past, limit)
    trees = [grow([rows[i] for i in part]) for part in own]
    batch = stack(trees, loaded.pad, past)
    filled, widest = past + batch.ids.shape[1], max(map(len, own))
    cache = read.copied(len(trees), filled - past + limit * widest) if past else RoomyCache()
    sees = torch.zeros((len(trees), widest, filled + limit * widest), dtype=torch.bool)
    sees[:, :, :past] = True
    for number, tree in enumerate(trees):
        for place, path in enumerate(tree.paths):
            sees[number, place, torch.tensor(path) + past] = True
    made: list[list[int]] = [[] for _ in rows]
    going = [[(i, place) for place, i in enumerate(part)] for part in own]  # by tree: row, and its place in `sees`
    keep, kept_at = kept([(n, path[-1]) for n, tree in enumerate(trees) for path in tree.paths], batch.ids.shape)
    tokens = loaded.run(batch, keep, cache).argmax(-1).tolist()
    tokens = [tokens[number] for number in kept_at]
    while True:
        new = iter(tokens)
        for i, _ in (one for part in going for one in part):
            made[i].append(next(new))
        left = [
            [one for one in part if not (len(made[one[0]]) == limit or ended(one[0], made[one[0]]))] for part in going
        ]
        if not any(left):
            return made
        alive = [number for number, part in enumerate(left) if part]
        if 4 * len(alive) <= 3 * len(left):
            cache.take(torch.tensor(alive))
            left, sees = [left[number] for number in alive], sees[alive]
        widest = max(map(len, left))
        if left != going:
            places = torch.zeros((len(left), widest), dtype=torch.long)
            for number, part in enumerate(left):
                places[number, : len(part)] = torch.tensor([place for _, place in part], dtype=torch.long)
            sees = sees.gather(1, places[:, :, None].expand(-1, -1, sees.shape[2]))
            going = [[(i, place) for place, (i, _) in enumerate(part)] for part in left]
        ids = torch.full((len(going), widest), loaded.pad)
        positions = torch.zeros_like(ids)
        for number, part in enumerate(going):
            ids[number, : len(part)] = torch.tensor([made[i][-1] for i, _ in part], dtype=torch.long)
            lengths = [past + len(rows[i]) + len(made[i]) - 1 for i, _ in part]
            positions[number, : len(part)] = torch.tensor(lengths, dtype=torch.long)
        asked = torch.arange(widest) < torch.tensor([[len(part)] for part in going])
        own_places = torch.arange(widest)
        sees[:, own_places, filled + own_places] = True  # without a row, too: to attend to nothing gives NaN
        filled += widest
        logits = loaded.run(Batch(ids, positions, sees[:, None, :, :filled]), asked, cache)
        tokens = logits.argmax(-1).tolist()


def _plainly(loaded: Loaded, rows: Sequence[list[int]], limit: int, marks: set[int]) -> list[list[int]]:
    """Return the new tokens of each row by transformers' own generation, which any architecture has."""
    tokenizer = loaded.tokenizer
    settings = transformers.GenerationConfig(
        max_new_tokens=limit, do_sample=False, pad_token_id=loaded.pad, eos_token_id=sorted(marks) or None, **GREEDY
    )
    inputs = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt").to(loaded.network.device)
    known = inputs["input_ids"].shape[1]
    if loaded.virtual_tokens:  # not by peft's own generation, whose caching transformers 5.24 breaks
        inputs["inputs_embeds"], known = soft_embeddings(loaded.model, inputs.pop("input_ids")), 0
    out = loaded.network.generate(**inputs, generation_config=settings)  # (rows, known + new)
    new: list[list[int]] = out[:, known:].tolist()
    ends = [next((at + 1 for at, token in enumerate(row) if token in marks), len(row)) for row in new]
    return [row[:end] for row, end in zip(new, ends, strict=True)]


def model_end_marks(loaded: Loaded) -> set[int]:
    """Return the tokens after which the model itself says nothing more."""
    marks = loaded.network.generation_config.eos_token_id or loaded.tokenizer.eos_token_id
    return set(marks) if isinstance(marks, list) else {marks} - {None}
