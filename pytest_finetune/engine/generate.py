"""Asking a model: greedy answers, and log-likelihoods of given answers, in batches."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
import transformers

from pytest_finetune.engine.models import Loaded
from pytest_finetune.engine.template import prompt_tokens, training_tokens, uses_chat
from pytest_finetune.errors import EngineError, PromptTooLong
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Answers, Conversation, Generation

T = TypeVar("T")
Tick = Callable[[int, int], None]


def generate(loaded: Loaded, prompts: Sequence[Turns], generation: Generation, tick: Tick) -> Answers:
    """Return the greedy answer to each prompt; equal prompts are asked once.

    Where no chat template marks the end, an answer ends at its first blank line.

    Raises:
        PromptTooLong: a prompt leaves no room for ``max_new_tokens``.
    """
    tokenizer, model = loaded.tokenizer, loaded.model
    room = loaded.context_tokens - generation.max_new_tokens
    ids = {prompt: prompt_tokens(tokenizer, prompt) for prompt in dict.fromkeys(prompts)}
    longest = max((len(i) for i in ids.values()), default=0)
    if longest > room:
        raise PromptTooLong(
            f"a prompt of {longest} tokens and {generation.max_new_tokens} new ones exceed the model's "
            f"context of {loaded.context_tokens}. Shorten the prompt, take fewer shots, or lower max_new_tokens."
        )
    settings = transformers.GenerationConfig(
        max_new_tokens=generation.max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=model.generation_config.eos_token_id or tokenizer.eos_token_id,
    )

    def answer(batch: Sequence[Turns]) -> list[tuple[str, int]]:
        read = {"input_ids": [ids[prompt] for prompt in batch]}
        rows = tokenizer.pad(read, padding_side="left", return_tensors="pt").to(model.device)
        with torch.inference_mode():
            out = model.generate(**rows, generation_config=settings)  # (rows, prompt + new)
        new = out[:, rows["input_ids"].shape[1] :]
        lengths = (new != tokenizer.pad_token_id).sum(1).tolist()
        return list(zip(tokenizer.batch_decode(new, skip_special_tokens=True), lengths, strict=True))

    # Longest first: a batch that does not fit in memory shows at once, not after an hour.
    order = sorted(ids, key=lambda prompt: len(ids[prompt]), reverse=True)
    started = time.perf_counter()
    made = dict(zip(order, in_batches(order, generation.batch_size, answer, tick), strict=True))
    seconds = time.perf_counter() - started
    answers = [made[prompt][0].strip() for prompt in prompts]
    return Answers(
        texts=tuple(
            text if uses_chat(tokenizer, prompt) else text.split("\n\n")[0]
            for text, prompt in zip(answers, prompts, strict=True)
        ),
        prompt_tokens=tuple(len(ids[prompt]) + loaded.virtual_tokens for prompt in prompts),
        new_tokens=tuple(made[prompt][1] for prompt in prompts),
        seconds_each=seconds / max(1, len(order)),
    )


def score(
    loaded: Loaded, prompts: Sequence[Turns], choices: Sequence[str], batch_size: int, tick: Tick
) -> list[tuple[float, ...]]:
    """Return the log-likelihood in nats of every choice (with its end mark) after every prompt."""
    pairs = [
        training_tokens(loaded.tokenizer, Conversation(prompt, choice)) for prompt in prompts for choice in choices
    ]
    order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])), reverse=True)

    def likelihood(batch: Sequence[int]) -> list[float]:
        inputs = collate([pairs[i] for i in batch], loaded.tokenizer.pad_token_id, loaded.virtual_tokens)
        labels = inputs.pop("labels")
        with torch.inference_mode():
            logits = loaded.model(**{k: v.to(loaded.model.device) for k, v in inputs.items()}).logits
        kept = labels[:, 1:] != -100  # (rows, positions - 1)
        chosen = labels[:, 1:][kept].to(logits.device)  # (completion tokens)
        nats = -F.cross_entropy(logits.float(), chosen, reduction="none").cpu()
        return [float(part.sum()) for part in torch.split(nats, kept.sum(1).tolist())]

    by_index = dict(zip(order, in_batches(order, batch_size, likelihood, tick), strict=True))
    flat = [by_index[i] for i in range(len(pairs))]
    return [tuple(flat[i : i + len(choices)]) for i in range(0, len(flat), len(choices))]


def collate(pairs: Sequence[tuple[list[int], list[int]]], pad: int, virtual_tokens: int = 0) -> dict[str, torch.Tensor]:
    """Return right-padded inputs whose logits are computed at completion positions only.

    Args:
        pairs: token ids of a prompt and of its completion, a row each.
        pad: id that fills up.
        virtual_tokens: length of a soft prompt, by which peft shifts the logits to the right.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` of shape (rows, positions), and the
        Boolean ``logits_to_keep`` of shape (rows, virtual_tokens + positions).
    """
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids = torch.full((len(pairs), width), pad)
    labels = torch.full((len(pairs), width), -100)
    mask = torch.zeros((len(pairs), width), dtype=torch.long)
    for row, (prompt, completion) in enumerate(pairs):
        start, end = len(prompt), len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        labels[row, start:end] = torch.tensor(completion)
        mask[row, :end] = 1
    keep = torch.zeros((len(pairs), virtual_tokens + width), dtype=torch.bool)
    keep[:, virtual_tokens:-1] = labels[:, 1:] != -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits_to_keep": keep}


def in_batches(items: Sequence[Any], size: int, run: Callable[[Sequence[Any]], list[T]], tick: Tick) -> list[T]:
    """Run ``items`` in batches, in order; a batch that does not fit in memory is halved.

    Raises:
        EngineError: a single item does not fit.
    """
    results: list[T] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + size]
        try:
            results += run(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise EngineError(
                    "out of memory on a batch of one row; take a smaller model or shorter rows"
                ) from error
            size = len(batch) // 2
            torch.cuda.empty_cache()
        tick(len(results), len(items))
    return results
