"""Loading: base models and adapters, safetensors only, without remote code."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.records import Adapter, Model

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass
class Loaded:
    """A model in evaluation mode, its tokenizer, and the longest text it takes, in tokens.

    ``virtual_tokens`` is the length of its soft prompt, 0 without one.
    """

    model: Any  # transformers and peft models share no useful static type
    tokenizer: Any
    context_tokens: int
    virtual_tokens: int


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


def load_tokenizer(model: Model) -> Any:
    """Return the model's tokenizer, set up to pad."""
    source, revision = (model.path, None) if model.path else (model.name, model.revision)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(model: Model, device: torch.device, for_training: str = "") -> Any:
    """Return the base model on ``device``.

    Args:
        model: which one; quantised ones are held in NF4 with double quantisation.
        device: where to.
        for_training: the method that will train it. Full fine-tuning needs float32 master
            weights; otherwise a GPU holds bfloat16 and a CPU float32 (bfloat16 is slower there).

    Raises:
        SuiteError: the folder or hub id holds no model that can be loaded.
    """
    source, revision = (model.path, None) if model.path else (model.name, model.revision)
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
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise SuiteError(f"model {model.name!r} cannot be loaded: {_one_line(error)}") from error


def attach(base: Any, adapter: Adapter, device: torch.device, trainable: bool = False) -> Any:
    """Return ``base`` with a PEFT adapter on it.

    Raises:
        SuiteError: the folder is not an adapter in safetensors, or does not fit the base model.
    """
    import peft  # 5 s of CPU, and the base model alone does not need it

    if not (Path(adapter.path) / ADAPTER_WEIGHTS).is_file():
        raise SuiteError(f"adapter {adapter.path}: no {ADAPTER_WEIGHTS}; pickled weights are not loaded")
    try:
        return peft.PeftModel.from_pretrained(base, adapter.path, is_trainable=trainable, torch_device=str(device))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise SuiteError(f"adapter {adapter.path} does not fit the base model: {_one_line(error)}") from error


def context_tokens(model: Any) -> int:
    """Return the longest text the model takes, in tokens."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 30))


class Models:
    """The one base model held for measuring, with at most one adapter on it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._model: Model | None = None
        self._base: Any = None
        self._attached: tuple[str, Any] | None = None
        self._tokenizer: Any = None

    def get(self, model: Model, adapter: Adapter | None = None) -> Loaded:
        """Return the base model, or the adapter on it, ready to be measured."""
        if self._model != model:
            self.release()
            self._tokenizer = load_tokenizer(model)
            self._base, self._model = load_base(model, self.device), model
        wanted = adapter.digest if adapter else ""
        if self._attached and self._attached[0] != wanted:
            self._detach()
        current = self._base
        if adapter:
            if not self._attached:
                self._attached = (wanted, self._load(model, adapter))
            current = self._attached[1]
        current.eval()
        virtual = int(getattr(getattr(current, "active_peft_config", None), "num_virtual_tokens", None) or 0)
        return Loaded(current, self._tokenizer, context_tokens(current) - virtual, virtual)

    def release(self) -> None:
        """Let go of the weights, so that training has the memory."""
        self._model = self._base = self._attached = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self, model: Model, adapter: Adapter) -> Any:
        if (Path(adapter.path) / "adapter_config.json").is_file():
            return attach(self._base, adapter, self.device)
        whole = Model(model.name, adapter.digest, path=adapter.path, quantised=model.quantised)
        return load_base(whole, self.device)

    def _detach(self) -> None:
        assert self._attached is not None
        attached = self._attached[1]
        if attached is not self._base and hasattr(attached, "get_base_model"):
            tuner = attached.base_model
            self._base = tuner.unload() if hasattr(tuner, "unload") else attached.get_base_model()
        self._attached = None


def check_finite(adapter: Adapter) -> None:
    """Refuse an adapter with NaN or infinity in its weights, which PEFT would load silently.

    Raises:
        EngineError: naming the first such tensor.
    """
    import safetensors.torch

    for path in sorted(Path(adapter.path).glob("*.safetensors")):
        for name, tensor in safetensors.torch.load_file(path).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise EngineError(f"adapter {path.name}: {name} holds NaN or infinity; train it again")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
