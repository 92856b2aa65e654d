"""Kinds of adapters: how each lies on a base model, and whether it can."""

import enum
from pathlib import Path
from typing import Any

import torch

from pytest_finetune.engine import mishaps, vetting
from pytest_finetune.engine.vetting import ADAPTER_WEIGHTS
from pytest_finetune.errors import EngineError, SuiteError, one_line
from pytest_finetune.modelfiles import shapes_in
from pytest_finetune.records import Adapter


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
            SuiteError: its folder asks for what no adapter may, or for what the engine cannot ask.
        """
        folder = Path(adapter.path)
        vetting.check_links(folder)
        if not (folder / vetting.ADAPTER_CONFIG).is_file():
            return Kind.WHOLE
        config = vetting.adapter_settings(folder)
        kind = config["peft_type"]
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
    config = vetting.adapter_settings(Path(adapter.path))
    if kind is Kind.ALONE or config.get("alora_invocation_tokens"):
        raise SuiteError(
            f"adapter {adapter.path}: a {config['peft_type']} of this form may change the base model that others are "
            "served from; serve a LoRA without trained biases or tokens, a soft prompt, or a whole model"
        )
    return kind is Kind.LORA and not config.get("use_dora")


def check_fits(network: Any, adapter: Adapter) -> None:
    """Refuse a LoRA whose tensors are not those that its configuration makes on this model.

    On the model itself, PEFT would leave half an adapter.

    Raises:
        EngineError: naming the first tensor that is too much, missing, or of another shape.
        SuiteError: its configuration fits nothing here.
    """
    if Kind.of(adapter) is not Kind.LORA:
        return
    import peft

    config = settings(adapter)
    try:
        with torch.device("meta"):
            tuned = peft.get_peft_model(type(network)(network.config), config)
    except Exception as error:  # whatever peft says of what it does not find
        mishaps.check(error)
        raise SuiteError(f"adapter {adapter.path} does not fit the base model: {one_line(error)}") from error
    check_held(tuned, adapter, "default")


def check_held(tuned: Any, adapter: Adapter, name: str) -> None:
    """Refuse an adapter that has not all tensors of ``name`` on a model, and no others, which PEFT would skip.

    Raises:
        EngineError: naming the first.
    """
    import peft

    if tuned.peft_config[name].peft_type not in (peft.PeftType.LORA, peft.PeftType.PROMPT_TUNING):
        return  # some kinds share tensors, or make them anew, each in its way
    states = peft.get_peft_model_state_dict(tuned, adapter_name=name)
    wanted = {name: tuple(tensor.shape) for name, tensor in states.items()}
    held = shapes_in(Path(adapter.path) / ADAPTER_WEIGHTS)
    for tensor in sorted(wanted.keys() | held.keys()):
        if wanted.get(tensor) != held.get(tensor):
            raise EngineError(
                f"adapter {adapter.path} does not fit the base model: {tensor} has the shape "
                f"{held.get(tensor, 'none')}, not {wanted.get(tensor, 'none')}"
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


def settings(adapter: Adapter) -> Any:
    """Return an adapter's configuration for peft.

    Raises:
        SuiteError: it asks for what no adapter may, or peft cannot use it.
    """
    import peft

    kept = vetting.adapter_settings(Path(adapter.path))
    try:
        return peft.PeftConfig.from_peft_type(**kept, inference_mode=True)
    except Exception as error:  # whatever peft says of values that it has no use for
        raise SuiteError(f"{adapter.path}/{vetting.ADAPTER_CONFIG}: {one_line(error)}; save it again") from error
