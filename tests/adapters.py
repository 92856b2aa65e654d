"""Adapters of the embedded model with random weights, made without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pytest_finetune import digest

SHAPE = json.loads((digest.PACKAGE / "embedded" / "config.json").read_text())
LAYERS, HIDDEN = SHAPE["num_hidden_layers"], SHAPE["hidden_size"]
MODULES = ("q_proj", "v_proj")


def lora(folder: Path, seed: int, rank: int = 2, size: float = 1.0, **config: Any) -> str:
    """Write a LoRA whose answers are its own; return its digest."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module in MODULES:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, size / HIDDEN**0.5, (rank, HIDDEN))
            tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.5, (HIDDEN, rank))
            if config.get("use_dora"):
                tensors[f"{name}.lora_magnitude_vector"] = random.uniform(0.5, 1.5, HIDDEN)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(MODULES), **config}
    return _written(folder, tensors, settings)


def soft_prompt(folder: Path, seed: int, tokens: int = 5) -> str:
    """Write a soft prompt; return its digest."""
    embeddings = np.random.default_rng(seed).normal(0, 0.5, (tokens, HIDDEN))
    settings = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": tokens,
        "token_dim": HIDDEN,
        "num_transformer_submodules": 1,
        "num_attention_heads": SHAPE["num_attention_heads"],
        "num_layers": LAYERS,
    }
    return _written(folder, {"prompt_embeddings": embeddings}, settings)


def _written(folder: Path, tensors: dict[str, "np.ndarray[Any, Any]"], settings: dict[str, Any]) -> str:
    folder.mkdir(parents=True)
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    document = {"task_type": "CAUSAL_LM", "inference_mode": True, "base_model_name_or_path": "embedded", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return digest.of_files(folder, digest.SHIPPED)
