"""The interface of lm-evaluation-harness to a model that is loaded here.

Texts become tokens as lm-eval's model ``hf`` has it (0.4.13, ``lm_eval/models/huggingface.py``), so that numbers are
those of its command line. Only the passes are ours, which read once what several requests begin with.
"""

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pytest_finetune.engine.batches import Tick
from pytest_finetune.engine.generate import continued, model_end_marks
from pytest_finetune.engine.models import Loaded
from pytest_finetune.engine.score import Row, likelihoods, most
from pytest_finetune.errors import PromptTooLong, SuiteError
from pytest_finetune.records import Generation

MAX_NEW_TOKENS = 256  # of a task that does not say
GREEDY = {"until", "do_sample", "max_gen_toks", "temperature", "top_p", "top_k"}  # what an answer may set, not drawn


class LoadedLM(TemplateLM):  # type: ignore[misc]  # lm-eval ships no usable types
    """A loaded model, and its adapter, as lm-eval asks it.

    Args:
        loaded: the model.
        tick: told how far a kind of requests has come.
    """

    def __init__(self, loaded: Loaded, tick: Tick) -> None:
        super().__init__()
        self.tokenizer, self._loaded, self._tick = loaded.tokenizer, loaded, tick
        self._soft = [loaded.pad] * loaded.virtual_tokens
        # Not beyond the model's context, where lm-eval's `hf` forgets of a soft prompt's tokens.
        self.max_length = resolve_max_length(loaded.network.config, self.tokenizer) - loaded.virtual_tokens

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return a text's tokens, with the special ones that its model begins with, if it does not begin so itself."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **special)
        return ids

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> Any:
        rows = [self._row(context, continuation) for _, context, continuation in requests]
        # Equal ones once, and neighbours by what they begin with.
        distinct = sorted({(tuple(row.ids), row.start) for row in rows})
        groups = _grouped([Row(list(ids), start) for ids, start in distinct], most(self._loaded))
        found = dict(zip(distinct, chain.from_iterable(likelihoods(self._loaded, groups, self._tick)), strict=True))
        return [tuple(found[tuple(row.ids), row.start]) for row in rows]

    def _row(self, context: list[int], continuation: list[int]) -> Row:
        if not 0 < len(continuation) <= self.max_length:
            raise PromptTooLong(
                f"what may follow has {len(continuation)} tokens, and must have from 1 to the model's context of "
                f"{self.max_length}"
            )
        ids = self._soft + [*context, *continuation][-(self.max_length + 1) :]
        return Row(ids, len(ids) - len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood in nats of whole texts, in windows of the model's context."""
        windows = [list(map(make_disjoint_window, self._windows(request.args[0]))) for request in requests]
        asked = [("", *window) for own in windows for window in own]
        nats = iter([nats for nats, _ in self._loglikelihood_tokens(asked)])
        return [sum(next(nats) for _ in own) for own in windows]

    def _windows(self, text: str) -> Any:
        return get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the likeliest text after each context, up to one of its stops."""
        kinds: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            kinds.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(i)
        made: dict[int, str] = {}
        for own in kinds.values():
            contexts = [requests[i].args[0] for i in own]
            made |= dict(zip(own, self._continued(contexts, requests[own[0]].args[1]), strict=True))
        return [made[i] for i in range(len(requests))]

    def _continued(self, contexts: Sequence[str], said: dict[str, Any]) -> list[str]:
        settings = _greedy(normalize_gen_kwargs(said, MAX_NEW_TOKENS))
        limit, tokenizer = settings["max_gen_toks"], self.tokenizer
        end = tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(settings.get("until"), eos=end)
        room = self.max_length - limit
        if room <= 0:
            raise PromptTooLong(f"max_gen_toks = {limit} leaves no room in the model's context of {self.max_length}")
        asked = list(dict.fromkeys(contexts))
        rows = [[*self._soft, *self._encoded(context)[-room:]] for context in asked]
        marks = model_end_marks(self._loaded) | {self.eot_token_id}
        stops = [stop for stop in until if stop]
        # A stop may come in other tokens than its own: as in `hf`, two more are looked at.
        back = 2 + max(len(tokenizer.encode(stop, add_special_tokens=False)) for stop in stops)

        def ended(_: int, tokens: list[int]) -> bool:
            last = tokenizer.decode(tokens[-back:])
            return tokens[-1] in marks or any(stop in last for stop in stops)

        found = continued(self._loaded, rows, Generation(limit), marks, ended, self._tick)
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in found]
        cut = {c: postprocess_generated_text(text, until, None) for c, text in zip(asked, texts, strict=True)}
        return [cut[context] for context in contexts]

    def _encoded(self, context: str) -> list[int]:
        """Return a context's tokens, by the rule that `hf` has for contexts of answers."""
        begins = bool(self.tokenizer.bos_token) and context.startswith(self.tokenizer.bos_token)
        ids: list[int] = self.tokenizer(context, **({"add_special_tokens": False} if begins else {}))["input_ids"]
        if not ids:
            raise SuiteError("a document asks nothing, and this model has no token to begin with; leave it out")
        return ids


def _grouped(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Return sorted rows in groups of one beginning, in each no more tokens that follow it than given, or one row."""
    groups: list[list[Row]] = []
    room = 0
    for row in rows:
        new = len(row.ids) - row.start
        before = groups[-1][0] if groups else None
        if before is None or new > room or before.ids[: before.start] != row.ids[: row.start]:
            groups.append([])
            room = tokens
        groups[-1].append(row)
        room -= new
    return groups


def _greedy(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse settings under which an answer is drawn, or not simply the likeliest."""
    if settings.get("do_sample") or settings.get("temperature"):
        raise SuiteError("its answers are drawn at random (do_sample, temperature), so no verdict could be repeated")
    if others := sorted(settings.keys() - GREEDY):
        raise SuiteError(f"generation_kwargs {others[0]} = {settings[others[0]]!r} is not known here; take it out")
    return settings
