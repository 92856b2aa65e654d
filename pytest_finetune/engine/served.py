"""An engine whose answers other software computes: prompts are written as tokens, and models trained, here."""

import abc
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import transformers

from pytest_finetune.engine.batches import Tick
from pytest_finetune.engine.kinds import check_finite
from pytest_finetune.engine.local import LocalEngine
from pytest_finetune.engine.models import load, load_tokenizer
from pytest_finetune.engine.template import (
    answer_in,
    check_choice,
    check_room,
    completions,
    end_marks,
    prompt_tokens,
    tokens_of,
    uses_chat,
)
from pytest_finetune.engines import HARNESS, Capabilities
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Answers, Document, Generation, HarnessTask, Lengths, Model


class ServedEngine(LocalEngine, abc.ABC):
    """What engines that work on tokens have in common; one says how tokens go on, and how likely they are."""

    @abc.abstractmethod
    def continued(
        self, model: Model, adapter: Adapter | None, rows: Sequence[list[int]], limit: int, marks: set[int]
    ) -> list[tuple[str, int]]:
        """Return for each row of tokens the greedy text after it, special tokens left out, and its tokens' number."""

    @abc.abstractmethod
    def nats(
        self, model: Model, adapter: Adapter | None, rows: Sequence[tuple[list[int], int]], tick: Tick
    ) -> list[list[float]]:
        """Return the log-likelihood in nats of each token of a row from a place on."""

    def capabilities(self, model: Model) -> Capabilities:
        """See ``protocol.Engine``."""
        return Capabilities({HARNESS: "runs none; take --finetune-engine=local, or lm-eval's own results as outputs"})

    def harness(self, model: Model, adapter: Adapter | None, task: HarnessTask) -> tuple[Document, ...]:
        """See ``protocol.Engine``: never by the local engine in the place of the one that was asked for."""
        raise SuiteError(f"this takes {HARNESS}, and the engine {self.capabilities(model).lacks[HARNESS]}")

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        """See ``protocol.Engine``; the same text as the local engine's."""
        tokenizer, asked = tokenizer_of(model), list(dict.fromkeys(prompts))
        rows = [prompt_tokens(tokenizer, prompt) for prompt in asked]
        context, limit = context_of(model), generation.max_new_tokens
        longest = max(map(len, rows), default=0)
        check_room(longest, limit, context)
        if not all(rows):
            raise SuiteError("a prompt is empty, and this model has no token to begin with; leave the row out")
        started = time.perf_counter()
        made = self.continued(model, adapter, rows, limit, end_marks(tokenizer, asked[0]) if asked else set())
        seconds = time.perf_counter() - started
        number = {prompt: i for i, prompt in enumerate(asked)}
        texts = [answer_in(text, uses_chat(tokenizer, prompt)) for prompt, (text, _) in zip(asked, made, strict=True)]
        return Answers(
            texts=tuple(texts[number[prompt]] for prompt in prompts),
            prompt_tokens=tuple(len(rows[number[prompt]]) for prompt in prompts),
            new_tokens=tuple(made[number[prompt]][1] for prompt in prompts),
            seconds_each=seconds / max(1, len(asked)),
        )

    def lengths(self, model: Model, prompts: tuple[Turns, ...]) -> Lengths:
        """See ``protocol.Engine``."""
        tokenizer = tokenizer_of(model)
        return Lengths(tuple(len(prompt_tokens(tokenizer, prompt)) for prompt in prompts), context_of(model))

    def score(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], choices: tuple[str, ...]
    ) -> tuple[tuple[float, ...], ...]:
        """See ``protocol.Engine``."""
        tokenizer, context = tokenizer_of(model), context_of(model)
        rows: dict[tuple[Turns, int], tuple[list[int], int]] = {}
        for prompt in dict.fromkeys(prompts):
            start = prompt_tokens(tokenizer, prompt)
            for number, text in enumerate(completions(tokenizer, prompt, choices)):
                rows[prompt, number] = ([*start, *tokens_of(tokenizer, text)], len(start))
        longest = max((len(ids) for ids, _ in rows.values()), default=0)
        check_choice(longest, context)
        told = self.nats(model, adapter, list(rows.values()), self._tick("score"))
        found = {key: sum(nats) for key, nats in zip(rows, told, strict=True)}
        return tuple(tuple(found[prompt, i] for i in range(len(choices))) for prompt in prompts)

    def probe(self, model: Model, adapter: Adapter, prompts: tuple[Turns, ...]) -> float:
        """See ``protocol.Engine``; the change is that of a prompt's own tokens' log-likelihoods."""
        check_finite(adapter)
        rows = [(ids, 1) for prompt in prompts if len(ids := prompt_tokens(tokenizer_of(model), prompt)) > 1]
        before, after = (self.nats(model, who, rows, self._tick("probe")) for who in (None, adapter))
        change = max(
            (abs(x - y) for a, b in zip(before, after, strict=True) for x, y in zip(a, b, strict=True)), default=0.0
        )
        if not change > 0:
            raise self.no_change(adapter)
        return change

    @staticmethod
    def no_change(adapter: Adapter) -> EngineError:
        """Return what is wrong with an adapter that answers as the base model does."""
        return EngineError(
            f"adapter {adapter.digest[:12]} changes nothing: it answers as the base model does. Its weights may be "
            "named for another model or were never trained, or who serves it ignores which adapter is asked."
        )


@lru_cache(maxsize=1)
def tokenizer_of(model: Model) -> Any:
    """Return the model's tokenizer, loaded once."""
    return load_tokenizer(model)


@lru_cache(maxsize=1)
def context_of(model: Model) -> int:
    """Return the longest text the model takes in tokens, as its configuration says.

    Raises:
        SuiteError: it cannot be read.
    """
    config = load(transformers.AutoConfig, model)
    return int(getattr(config.get_text_config(), "max_position_embeddings", 1 << 30))
