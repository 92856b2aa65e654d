"""Loading: base models and adapters, safetensors only, without remote code."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_finetune.engine import mishaps, vetting
from pytest_finetune.engine.cache import RoomyCache
from pytest_finetune.engine.kinds import Kind, check_held, settings
from pytest_finetune.engine.tree import Batch, grow, kept, stack
from pytest_finetune.engine.vetting import ADAPTER_WEIGHTS
from pytest_finetune.errors import EngineError, SuiteError, one_line
from pytest_finetune.records import Adapter, Model


@dataclass
class Loaded:
    """A model, its tokenizer, and the longest text it takes, in tokens.

    ``virtual_tokens`` is the length of its soft prompt, 0 without one.
    """

    model: Any  # transformers and peft models share no useful static type
    tokenizer: Any
    context_tokens: int
    virtual_tokens: int

    @property
    def pad(self) -> int:
        """The id that fills up batches, and stands for a soft prompt's tokens."""
        return int(self.tokenizer.pad_token_id)

    @cached_property
    def network(self) -> Any:
        """The transformers model, an adapter's layers in it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def linear_cost(self) -> float:
        """What the linear layers cost a token, in pairs of a query and a key: see ``tree.groups``.

        A layer of the usual proportions has 12 weights a pair of hidden states, and a pair costs 2 a state.
        """
        return 6.0 * int(self.network.config.get_text_config().hidden_size)

    @cached_property
    def shares(self) -> bool:
        """Whether a pass over a tree gives this model's logits; some architectures read no such mask."""
        rows = [[self.pad] * self.virtual_tokens + ids for ids in ([3, 5, 4, 6, 7], [3, 5, 4, 8], [3, 5, 4, 6, 9, 5])]

        def logits(parts: list[list[list[int]]], past: list[int]) -> torch.Tensor:
            trees = [grow(part) for part in parts]
            batch = stack(trees, self.pad, len(past))
            cache = self.read(past).copied(len(trees), batch.ids.shape[1]) if past else None
            ends = [(number, path[-1]) for number, tree in enumerate(trees) for path in tree.paths]
            keep, numbers = kept(ends, tuple(batch.ids.shape))
            return self.run(batch, keep, cache)[torch.tensor(numbers)].float()

        common = self.virtual_tokens + 2
        with torch.no_grad():  # the first pass makes the buffers of a sharded model, which training goes on to use
            try:
                plain = logits([[row] for row in rows], [])
                whole, apart = logits([rows], []), logits([[row[common:] for row in rows]], rows[0][:common])
            except Exception as error:  # whatever an architecture says to a mask it does not know
                mishaps.check(error)
                return False
        near = 1e-4 if plain.dtype == self.network.dtype else 0.05  # of bfloat16's 8 bits, summed up
        limit = near * float(plain.abs().max())
        return all(float((plain - other).abs().max()) <= limit for other in (whole, apart))

    def spans(self, tokens: int) -> bool:
        """Whether rows of so many tokens may share: every token must see all before it."""
        config = self.network.config.get_text_config()
        windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        return self.shares and all(tokens <= window for window in windows if window)

    def read(self, ids: list[int]) -> RoomyCache:
        """Return the cache of one row that was read."""
        cache = RoomyCache()
        if ids:
            self.run(stack([grow([ids])], self.pad), torch.zeros((1, len(ids)), dtype=torch.bool), cache)
        return cache

    def run(self, batch: Batch, keep: torch.Tensor, cache: RoomyCache | None = None) -> torch.Tensor:
        """Return the logits of the nodes in ``keep`` (trees, nodes), of shape (kept, vocabulary).

        Where there is a soft prompt and no token was read yet, the first ``virtual_tokens`` are its.
        """
        network, device = self.network, self.network.device
        inputs = {"input_ids": batch.ids.to(device)}
        if self.virtual_tokens and (cache is None or cache.get_seq_length() == 0):
            inputs = {"inputs_embeds": soft_embeddings(self.model, inputs["input_ids"])}
        logits: torch.Tensor = network(
            **inputs,
            attention_mask=batch.mask.to(device),
            position_ids=batch.positions.to(device),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep.to(device),
        ).logits
        return logits


def soft_embeddings(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the embeddings of ``ids`` (rows, tokens), each row's first tokens a soft prompt's."""
    embedded = model.get_base_model().get_input_embeddings()(ids)
    prompt = model.get_prompt(batch_size=len(ids)).to(embedded.dtype)
    return torch.cat([prompt, embedded[:, prompt.shape[1] :]], dim=1)


def choose_device(wanted: str) -> torch.device:
    """Return the device asked for; ``auto`` takes a GPU where there is one.

    Raises:
        SuiteError: a GPU is asked for that torch does not see.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SuiteError(f"--finetune-device={wanted}: torch {torch.__version__} sees no GPU. Use auto or cpu.")
    return device


def load(kind: Any, model: Model, **options: Any) -> Any:
    """Return what transformers' ``from_pretrained`` makes of a model's files, once they are vetted.

    Args:
        kind: ``AutoConfig``, ``AutoTokenizer`` or ``AutoModelForCausalLM``.
        model: which one.
        options: more for ``from_pretrained``.

    Raises:
        SuiteError: they ask for what they may not, or nothing can be made of them.
    """
    vetting.vet(model)
    source, revision = (model.path, None) if model.path else (model.name, model.revision)
    try:
        return kind.from_pretrained(source, revision=revision, trust_remote_code=model.remote_code, **options)
    except Exception as error:  # whatever a library says to files that it cannot read
        mishaps.check(error)
        raise SuiteError(f"model {model.name!r} cannot be loaded: {one_line(error)}") from error


def load_tokenizer(model: Model) -> Any:
    """Return the model's tokenizer, set up to pad.

    Raises:
        SuiteError: the folder or hub id holds none that can be loaded.
    """
    tokenizer = load(transformers.AutoTokenizer, model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    model: Model, device: torch.device, for_training: str = "", placement: dict[str, Any] | None = None
) -> Any:
    """Return the base model on ``device``.

    Args:
        model: which one; quantised ones are held in NF4 with double quantisation.
        device: where to.
        for_training: the method that will train it. Full fine-tuning needs float32 master
            weights; otherwise a GPU holds bfloat16 and a CPU float32 (bfloat16 is slower there).
        placement: how it is laid out over several processes, in place of whole on ``device``.

    Raises:
        SuiteError: the folder or hub id holds no model that can be loaded.
        EngineError: weights are missing, which would be made up.
    """
    half = device.type == "cuda" and for_training != "full" and torch.cuda.is_bf16_supported()
    dtype = torch.bfloat16 if half else torch.float32
    options: dict[str, Any] = {}
    if model.quantised:
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    found, told = load(
        transformers.AutoModelForCausalLM,
        model,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        **({"device_map": {"": device}} if placement is None else placement),
        **options,
    )
    if placement is None and (missing := sorted(told["missing_keys"])):  # of a sharded one, each rank has its part
        raise EngineError(
            f"model {model.path or model.name}: its weights have no {missing[0]} ({len(missing)} missing), which would "
            "be made up at random; download or train it again"
        )
    return found


def attach(base: Any, adapter: Adapter, device: torch.device, others: Any = None) -> Any:
    """Return ``base`` with a PEFT adapter on it, beside the ``others`` that are on it already.

    Raises:
        SuiteError: the folder is not an adapter in safetensors, or fits nothing here.
        EngineError: it has not the tensors that its configuration makes on the base model.
    """
    import peft  # 5 s of CPU, and the base model alone does not need it

    if not (Path(adapter.path) / ADAPTER_WEIGHTS).is_file():
        raise SuiteError(f"adapter {adapter.path}: no {ADAPTER_WEIGHTS}; pickled weights are not loaded")
    config, place = settings(adapter), {"torch_device": str(device)}
    tuned = others
    try:
        if tuned is None:
            tuned = peft.PeftModel.from_pretrained(base, adapter.path, adapter.digest, config=config, **place)
        else:
            tuned.add_adapter(adapter.digest, config)  # by whose configuration the weights are loaded
            tuned.load_adapter(adapter.path, adapter.digest, **place)
    except Exception as error:  # whatever a library says to files that it cannot read, or that do not fit
        mishaps.check(error)
        raise SuiteError(f"adapter {adapter.path} does not fit the base model: {one_line(error)}") from error
    check_held(tuned, adapter, adapter.digest)
    return tuned


def context_tokens(model: Any) -> int:
    """Return the longest text the model takes, in tokens."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 30))


class Models:
    """The one base model held for measuring, with the adapters on it that were asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._model: Model | None = None
        self._tokenizer: Any = None
        self._base: Any = None
        self._loaded: dict[str, Loaded] = {}  # by the adapter's digest
        self._lora: Any = None  # the base model with all LoRAs on it
        self._alone = ""  # digest of an adapter that has the base to itself

    def get(self, model: Model, adapter: Adapter | None = None) -> Loaded:
        """Return the base model, or the adapter on it, ready to be measured.

        Raises:
            SuiteError: the model or the adapter cannot be loaded.
        """
        digest = adapter.digest if adapter else ""
        if self._model != model or self._alone not in ("", digest):
            self.release()
        if digest not in self._loaded:
            kind = Kind.of(adapter) if adapter else Kind.BESIDE
            try:
                self._load(model, adapter, kind)
            except BaseException:
                if kind in (Kind.LORA, Kind.ALONE):
                    self.release()  # half an adapter may be on the base
                raise
        if self._lora is not None:
            if asked := digest in self._lora.peft_config:
                self._lora.base_model.set_adapter(digest, inference_mode=True)
            self._lora.base_model._enable_adapter_layers(enabled=asked)
        return self._loaded[digest]

    @contextlib.contextmanager
    def mixed(self, model: Model, digests: Sequence[str]) -> Iterator[Loaded]:
        """Lend the base model; meanwhile each row of a batch runs through its own LoRA, or none where it is empty.

        Args:
            model: which one.
            digests: of adapters that ``mixes`` and were got before, by row.
        """
        loaded = self.get(model)
        if not any(digests):
            yield loaded
            return
        self._lora.base_model._enable_adapter_layers(enabled=True)
        with self._lora._enable_peft_forward_hooks(adapter_names=[name or "__base__" for name in digests]):
            yield loaded

    def drop(self, digest: str) -> None:
        """Let go of one adapter's weights."""
        self._loaded.pop(digest, None)
        if self._lora is None or digest not in self._lora.peft_config:
            return
        if len(self._lora.peft_config) == 1:  # without any, PEFT's layers take no further one
            self._lora.unload()
            self._lora = None
        else:
            self._lora.delete_adapter(digest)

    def release(self) -> None:
        """Let go of the weights, so that training has the memory."""
        self._model = self._base = self._lora = None
        self._loaded, self._alone = {}, ""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, model: Model, adapter: Adapter | None, kind: Kind) -> None:
        if kind is Kind.ALONE:
            self.release()
        if self._model is None:
            self._tokenizer = load_tokenizer(model)
            self._base, self._model = load_base(model, self.device), model
        network = self._base
        if adapter and kind is Kind.WHOLE:
            whole = replace(model, digest=adapter.digest, path=adapter.path)
            network = load_base(whole, self.device)
        elif adapter and kind is Kind.LORA:
            network = self._lora = attach(self._base, adapter, self.device, self._lora)
        elif adapter:
            network = attach(self._base, adapter, self.device)
        if adapter and kind is Kind.ALONE:
            self._alone = adapter.digest
        network.eval()
        virtual = int(getattr(getattr(network, "active_peft_config", None), "num_virtual_tokens", None) or 0)
        loaded = Loaded(network, self._tokenizer, context_tokens(network) - virtual, virtual)
        self._loaded[adapter.digest if adapter else ""] = loaded
