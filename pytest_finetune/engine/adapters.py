"""Adapters: what each method makes trainable on a base model, and the files it ships."""

import json
from pathlib import Path
from typing import Any

import torch

from pytest_finetune.engine.models import soft_embeddings
from pytest_finetune.errors import SuiteError, one_line
from pytest_finetune.methods import METHODS
from pytest_finetune.records import Model, Training, TrainSpec

INITIAL = "initial"  # where PiSSA's adapter stands as it was before training, until it ships


def prepare(model: Any, base: Model, settings: Training, work: Path) -> Any:
    """Return the base model made trainable by the method.

    Args:
        model: the loaded base model.
        base: which one it is.
        settings: method, variant and sizes.
        work: a folder that is deleted after training.

    Raises:
        SuiteError: ``target_modules`` names no layer of the model, or one that DoRA cannot adapt;
            LoftQ on the CPU.
    """
    if settings.method == "full":
        return model
    import peft

    if settings.method == "soft_prompt":
        soft = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=settings.virtual_tokens)
        return _soft_prompt_model()(model, soft)
    if METHODS[settings.method].quantised:
        _keep_unpacked(model)
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = settings.target_modules
    lora = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        task_type=peft.TaskType.CAUSAL_LM,
        use_rslora=settings.variant == "rslora",
        use_dora=settings.variant == "dora",
        init_lora_weights="pissa" if settings.variant == "pissa" else True,
    )
    try:
        tuned = peft.get_peft_model(model, lora)
    except ValueError as error:
        raise SuiteError(f"[training] target_modules {list(targets)}: {one_line(error, 200)}") from error
    if settings.variant == "pissa":
        tuned.save_pretrained(work / INITIAL)
    if settings.variant == "dora":
        _check_magnitudes(tuned)
    if settings.variant == "loftq":
        if tuned.device.type == "cpu":  # peft 0.21 computes it on "cuda", whatever the model is on
            raise SuiteError('[training] variant = "loftq" needs a GPU; take another variant, or none')
        peft.replace_lora_weights_loftq(tuned, base.path or None)
    return tuned


def ship(model: Any, spec: TrainSpec, folder: Path, work: Path, weights: dict[str, Any] | None = None) -> None:
    """Write the adapter (or the whole model) such that equal training gives equal bytes.

    PiSSA changes the base model, too; what ships is the equal plain LoRA of twice the rank, which
    any user of the unchanged base model can load (Meng 2024, arXiv 2404.02948, appendix C).

    Args:
        model: as it was trained.
        spec: what it was trained by.
        folder: where to.
        work: the folder that ``prepare`` was given.
        weights: all tensors, where the model holds shards of them.
    """
    if spec.training.method == "full":
        model.save_pretrained(folder, state_dict=weights)
        return
    for config in model.peft_config.values():
        # A path of this machine would make the digest depend on where the run happened.
        config.base_model_name_or_path = spec.model.name
        config.revision = spec.model.revision or None
    if spec.training.variant == "pissa":
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(work / INITIAL))
    else:
        model.save_pretrained(folder, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # peft writes a set, in the order of this process's hashes
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _soft_prompt_model() -> Any:
    """Return the class of a base model with a soft prompt, whose rows hold places for it."""
    import peft

    class SoftPromptModel(peft.PeftModelForCausalLM):  # type: ignore[misc]  # peft ships no usable types
        """peft's own puts the prompt before every row, and knows no mask but one of padding."""

        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            """Run the base model; each row's first tokens are the prompt's."""
            return self.get_base_model()(inputs_embeds=soft_embeddings(self, input_ids), **inputs)

    return SoftPromptModel


def virtual_tokens(settings: Training) -> int:
    """Return the length of the soft prompt that the method puts before the text."""
    return settings.virtual_tokens if settings.method == "soft_prompt" else 0


def _check_magnitudes(tuned: Any) -> None:
    """Refuse layers with a row of zeros: DoRA divides by each row's length (Liu 2024, arXiv 2402.09353)."""
    zero = {
        name.split(".lora_magnitude_vector")[0].rpartition(".")[2]
        for name, weight in tuned.named_parameters()
        if "lora_magnitude_vector" in name and not bool(weight.all())
    }
    if zero:
        raise SuiteError(
            f'[training] variant = "dora": {", ".join(sorted(zero))} have rows of zeros, by whose length it would '
            "divide; name the other layers in target_modules"
        )


def _keep_unpacked(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from packing NF4 weights in an evaluation forward.

    On AVX512-BF16 processors 0.50 packs them for inference and does not unpack them for the next
    backward: every gradient after the first dev loss would be wrong, while the loss looks right.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
