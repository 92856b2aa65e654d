"""Kinds of adapters: how each lies on a base model, and whether it can."""

import enum
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.records import Adapter

ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Kind(enum.Enum):
    """How an adapter lies on a base model."""

    WHOLE = "a model of its own"
    LORA = "layers that are switched off and on"
    BESIDE = "a soft prompt, which changes no layer"
    ALONE = "anything else may change the base, which is then loaded anew for whoever comes next"

    @staticmethod
    def of(adapter: Adapter) -> "Kind":
        """Return an adapter's kind.

        Raises:
            SuiteError: its configuration names none, or one that the engine cannot ask.
        """
        file = Path(adapter.path) / "adapter_config.json"
        if not file.is_file():
            return Kind.WHOLE
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            kind = config["peft_type"]
        except (ValueError, KeyError, TypeError) as error:
            raise SuiteError(f"{file}: it names no peft_type ({one_line(error)}); save the adapter again") from None
        if kind in ("PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"):
            raise SuiteError(f"{file}: peft_type {kind} is not supported; take LORA, PROMPT_TUNING or another")
        if kind == "PROMPT_TUNING":
            return Kind.BESIDE
        # PiSSA and OLoRA overwrite base weights when they are loaded, and trained biases are not switched off.
        plain = config.get("bias", "none") == "none" and not config.get("trainable_token_indices")
        plain = plain and config.get("init_lora_weights", True) in (True, False, "gaussian")
        return Kind.LORA if kind == "LORA" and plain else Kind.ALONE


def mixes(adapter: Adapter) -> bool:
    """Whether rows of an adapter may stand in one batch with rows of others.

    Raises:
        SuiteError: its configuration cannot be read, or its kind cannot share a base model at all.
    """
    kind = Kind.of(adapter)
    if kind is Kind.WHOLE:
        return False
    config = json.loads((Path(adapter.path) / "adapter_config.json").read_text(encoding="utf-8"))
    if kind is Kind.ALONE or config.get("alora_invocation_tokens"):
        raise SuiteError(
            f"adapter {adapter.path}: a {config['peft_type']} of this form may change the base model that others are "
            "served from; serve a LoRA without trained biases or tokens, a soft prompt, or a whole model"
        )
    return kind is Kind.LORA and not config.get("use_dora")


def check_fits(network: Any, adapter: Adapter) -> None:
    """Refuse a LoRA whose tensors are not those that its configuration makes on this model.

    On the model itself, PEFT would leave half an adapter, or skip what it does not find.

    Raises:
        SuiteError: naming the first tensor that is too much, missing, or of another shape.
    """
    if Kind.of(adapter) is not Kind.LORA:
        return
    import peft
    import safetensors

    file = Path(adapter.path) / ADAPTER_WEIGHTS
    try:
        with torch.device("meta"):
            skeleton = transformers.AutoModelForCausalLM.from_config(network.config, trust_remote_code=False)
            tuned = peft.get_peft_model(skeleton, peft.PeftConfig.from_pretrained(adapter.path))
        wanted = {name: list(tensor.shape) for name, tensor in peft.get_peft_model_state_dict(tuned).items()}
        with safetensors.safe_open(file, "pt") as opened:
            held = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise SuiteError(f"adapter {adapter.path} does not fit the base model: {one_line(error)}") from error
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise SuiteError(
                f"adapter {adapter.path} does not fit the base model: {name} has the shape "
                f"{held.get(name, 'none')}, not {wanted.get(name, 'none')}"
            )


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


def one_line(error: BaseException) -> str:
    """Return what a library says in one line, not too long."""
    return " ".join(str(error).split())[:300]
