"""The engine over a server of OpenAI's API: vLLM, SGLang, llama.cpp, our own, or a paid one for the baseline.

Servers silently ignore what they do not know: ``echo``, ``logprobs``, the name of an adapter. So nothing is
believed that was not probed with a question whose answer is known.
"""

import math
import secrets
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pytest_finetune.engine.batches import Tick
from pytest_finetune.engine.requests import Api, Refused
from pytest_finetune.engine.served import ServedEngine, tokenizer_of
from pytest_finetune.engines import ADAPTERS, LIKELIHOODS, TEXTS, TRAINING, Capabilities, EngineSpec
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.protocol import OnProgress, Turns
from pytest_finetune.records import PLAIN, Adapter, Answers, Generation, Lengths, Model

UNKNOWN = "pytest-finetune-asks-for-no-such-model"
DIGEST = 64  # hexadecimal digits, which are what adapters are called by
NO_SUCH_ROUTE = (401, 403, 404, 405)
LOADING = (
    "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True (vLLM), or with --adapters-from and the store's folder "
    "(pytest-finetune serve), or name an adapter that it has in [engine] adapter"
)
LOADED = "already been loaded"  # as vLLM says it, with status 400
UNLIMITED = 1 << 30


class EndpointEngine(ServedEngine):
    """Measures at a server, and trains here."""

    def __init__(self, spec: EngineSpec, device: str, report: OnProgress) -> None:
        super().__init__(device, report)
        self.spec = spec
        self.api = Api(spec)
        self._known: dict[Model, Capabilities] = {}

    def capabilities(self, model: Model) -> Capabilities:
        """See ``protocol.Engine``.

        Raises:
            SuiteError: the server does not have the base model.
            EngineError: it cannot be reached.
        """
        if model not in self._known:
            self._known[model] = Capabilities({**super().capabilities(model).lacks, **self._probed(model)})
        return self._known[model]

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        """See ``protocol.Engine``."""
        if model.has_files:
            return super().generate(model, adapter, prompts, generation)
        if adapter or any(prompt[0].role == PLAIN for prompt in prompts):
            self._need(model, ADAPTERS if adapter else TEXTS)
        asked = list(dict.fromkeys(prompts))
        bodies = [
            {
                "model": self._name(model),
                "messages": [{"role": turn.role, "content": turn.content} for turn in prompt],
                "max_tokens": generation.max_new_tokens,
                "temperature": 0,
            }
            for prompt in asked
        ]
        started = time.perf_counter()
        made = [
            _choice(answer, "message") for answer in self.api.post("/chat/completions", bodies, self._tick("generate"))
        ]
        seconds = time.perf_counter() - started
        found = dict(zip(asked, made, strict=True))
        return Answers(
            texts=tuple(str(found[prompt].said.get("content") or "").strip() for prompt in prompts),
            prompt_tokens=tuple(found[prompt].read for prompt in prompts),
            new_tokens=tuple(found[prompt].made for prompt in prompts),
            seconds_each=seconds / max(1, len(asked)),
        )

    def lengths(self, model: Model, prompts: tuple[Turns, ...]) -> Lengths:
        """See ``protocol.Engine``; of a model whose files are elsewhere nothing is known before it is asked."""
        return super().lengths(model, prompts) if model.has_files else Lengths((0,) * len(prompts), UNLIMITED)

    def continued(
        self, model: Model, adapter: Adapter | None, rows: Sequence[list[int]], limit: int, marks: set[int]
    ) -> list[tuple[str, int]]:
        """See ``served.ServedEngine``."""
        more = {"stop_token_ids": sorted(marks)} if marks and self._is_vllm else {}
        bodies = [self._body(model, adapter, row, max_tokens=limit, **more) for row in rows]
        made = [_choice(answer, "text") for answer in self.api.post("/completions", bodies, self._tick("generate"))]
        return [(str(one.said), one.made) for one in made]

    def nats(
        self, model: Model, adapter: Adapter | None, rows: Sequence[tuple[list[int], int]], tick: Tick
    ) -> list[list[float]]:
        """See ``served.ServedEngine``."""
        self._need(model, LIKELIHOODS)
        bodies = [self._scored(model, adapter, ids) for ids, _ in rows]
        answers = self.api.post("/completions", bodies, tick)
        found = []
        for (ids, start), answer in zip(rows, answers, strict=True):
            told = _choice(answer, "text").logprobs
            if not _fits(told, ids) or not all(map(math.isfinite, told[start : len(ids)])):
                raise SuiteError(
                    f"{self.spec}: told {len(told)} log-likelihoods of {len(ids)} tokens, or some that are no numbers; "
                    "it cannot score what it was asked"
                )
            found.append(told[start : len(ids)])
        return found

    def probe(self, model: Model, adapter: Adapter, prompts: tuple[Turns, ...]) -> float:
        """See ``protocol.Engine``; where no log-likelihoods are to be had, the share of answers that changed."""
        self._need(model, ADAPTERS)
        if LIKELIHOODS not in self.capabilities(model).lacks:
            return super().probe(model, adapter, prompts)
        before, after = (self.generate(model, who, prompts, Generation()).texts for who in (None, adapter))
        if before == after:
            raise self.no_change(adapter)
        return sum(a != b for a, b in zip(before, after, strict=True)) / len(prompts)

    def _need(self, model: Model, what: str) -> None:
        if why := self.capabilities(model).lacks.get(what):
            raise SuiteError(f"this takes {what}, and {self.spec} {why}")

    def _probed(self, model: Model) -> dict[str, str]:
        name, served = self._name(model), self._served
        if name not in served:
            listed = ", ".join(sorted(served)[:5]) or "none"
            raise SuiteError(
                f"{self.spec}: has no model {name!r}, but {listed}; name the one to ask in [engine] model of the suite"
            )
        if not model.has_files:
            nowhere = (
                f"has {model.name!r} to itself: no file of it is here; give its folder, or its hub id and revision"
            )
            alone = f'{nowhere}, or take method = "prompt"'
            return {TRAINING: alone, ADAPTERS: alone, LIKELIHOODS: nowhere, TEXTS: nowhere}
        lacks: dict[str, str] = {}
        if not self.spec.adapter and (why := self._loads_none()):
            lacks[ADAPTERS] = why
        if self._answers_for_unknown(model):
            lacks[ADAPTERS] = (
                f"answers for models that it does not have ({UNKNOWN!r}), so for any adapter with the base"
            )
        if why := self._lacks_likelihoods(model):
            lacks[LIKELIHOODS] = why
        return lacks

    def _loads_none(self) -> str:
        """Return why the server cannot load an adapter, found out before one is trained for it."""
        if any(len(name) == DIGEST for name in self._served):  # somebody else loads them there
            return ""
        try:
            self.api.post("/load_lora_adapter", [{}])
        except Refused as refused:
            return f"loads none ({refused}); {LOADING}" if refused.status in NO_SUCH_ROUTE else ""
        return ""

    def _answers_for_unknown(self, model: Model) -> bool:
        body = {**self._body(model, None, _two(model), max_tokens=1), "model": UNKNOWN}
        try:
            self.api.post("/completions", [body])
        except (Refused, EngineError):  # some break on it
            return False
        return True

    def _lacks_likelihoods(self, model: Model) -> str:
        """Return why the server cannot tell how likely tokens are; the two that are asked are known to come back."""
        ids = _two(model)
        try:
            (answer,) = self.api.post("/completions", [self._scored(model, None, ids)])
        except Refused as refused:
            return f"refuses `echo` with `logprobs` ({refused})"
        one = _choice(answer, "text")
        text = tokenizer_of(model).decode(ids)
        if not str(one.said).startswith(text):
            return f"ignores `echo`: asked for {text!r} again, it said {one.said!r:.60}"
        if not _fits(one.logprobs, ids) or not math.isfinite(one.logprobs[1]) or one.logprobs[1] > 0:
            return f"ignores `logprobs`: of {len(ids)} tokens it told {one.logprobs!r:.60}"
        return ""

    def _body(self, model: Model, adapter: Adapter | None, ids: list[int], **more: Any) -> dict[str, Any]:
        return {"model": self._name(model, adapter), "prompt": ids, "temperature": 0, **more}

    def _scored(self, model: Model, adapter: Adapter | None, ids: list[int]) -> dict[str, Any]:
        # A cache of prefixes makes vLLM's likelihoods depend on what was asked before (vllm-project/vllm#42019):
        # a salt of its own keeps a request out of it.
        more = {"cache_salt": secrets.token_hex(16)} if self._is_vllm else {}
        return self._body(model, adapter, ids, max_tokens=1, echo=True, logprobs=1, **more)

    def _name(self, model: Model, adapter: Adapter | None = None) -> str:
        """Return how the server calls who is asked; an adapter that it does not have is loaded under its digest."""
        if adapter is None:
            return self.spec.model or model.name
        if self.spec.adapter:
            return self.spec.adapter
        if adapter.digest not in self._served:
            self._load(adapter)
        return adapter.digest

    def _load(self, adapter: Adapter) -> None:
        asked = {"lora_name": adapter.digest, "lora_path": adapter.path}
        try:
            self.api.post("/load_lora_adapter", [asked])
        except Refused as refused:
            if LOADED not in str(refused):
                raise SuiteError(f"adapter {adapter.path}: {refused}; {LOADING}") from None
        self.__dict__.pop("_served", None)
        if adapter.digest not in self._served:
            raise SuiteError(f"{self.spec}: said that it loaded {adapter.digest}, and does not list it in /models")

    @cached_property
    def _served(self) -> dict[str, str]:
        """The models that the server lists, and who says to own them."""
        try:
            return {str(one["id"]): str(one.get("owned_by")) for one in self.api.get("/models")["data"]}
        except (KeyError, TypeError, AttributeError):
            raise SuiteError(f"{self.spec}: /models is no list of models; name an OpenAI-compatible server") from None

    @property
    def _is_vllm(self) -> bool:
        return "vllm" in self._served.values()


class _Choice:
    """What a server answered to one request."""

    def __init__(self, answer: Any, key: str) -> None:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        self.said: Any = choice[key]
        self.read, self.made = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        told = (choice.get("logprobs") or {}).get("token_logprobs") or []
        self.logprobs = [math.nan if nats is None else float(nats) for nats in told]


def _choice(answer: Any, key: str) -> _Choice:
    try:
        return _Choice(answer, key)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SuiteError(f"endpoint: an answer is not of OpenAI's form ({type(error).__name__}: {error})") from None


def _fits(told: list[float], ids: list[int]) -> bool:
    """Whether these are of just the tokens that were asked, with or without the new one: a server may add its own."""
    return len(told) - len(ids) in (0, 1)


def _two(model: Model) -> list[int]:
    """Return two tokens to ask about."""
    ids: list[int] = tokenizer_of(model)("a b c d", add_special_tokens=False)["input_ids"]
    return ids[:2]
