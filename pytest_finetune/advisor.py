"""Advice by arithmetic: how much memory each method needs, and which one fits."""

import json
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune.errors import SuiteError
from pytest_finetune.methods import METHODS

GIB = 2**30
CUDA_BYTES = 1.4e9
SPREAD = 0.3  # published figures for the same run differ by this much


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory depends on in a decoder-only transformer, counted in elements."""

    layers: int
    hidden: int
    intermediate: int
    key_value: int
    vocabulary: int
    tied: bool

    @property
    def linear(self) -> int:
        """Weights of all linear layers, which LoRA adapts and NF4 quantises."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.key_value
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the output layer where it is not the same."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def lora(self, rank: int) -> int:
        """Trainable weights of LoRA on all linear layers."""
        attention = 2 * 2 * self.hidden + 2 * (self.hidden + self.key_value)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes one method needs in training, as a range."""

    method: str
    low_bytes: float
    high_bytes: float


def shape_of(config: Path) -> Shape:
    """Read the shape off a model's config.json.

    Raises:
        SuiteError: a size is missing in it.
    """
    raw = json.loads(config.read_text())
    raw = raw.get("text_config", raw)
    try:
        head = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
        return Shape(
            layers=raw["num_hidden_layers"],
            hidden=raw["hidden_size"],
            intermediate=raw["intermediate_size"],
            key_value=head * raw.get("num_key_value_heads", raw["num_attention_heads"]),
            vocabulary=raw["vocab_size"],
            tied=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise SuiteError(f"{config}: no {error} in it; memory cannot be estimated") from None


def estimate(
    shape: Shape, method: str, rank: int = 16, virtual_tokens: int = 20, rows: int = 1, tokens: int = 2048
) -> Estimate:
    """Return the memory that training takes on a GPU with activation checkpointing.

    Args:
        shape: the model's.
        method: lora, qlora, prompt or full.
        rank: of LoRA.
        virtual_tokens: of the soft prompt.
        rows: at once on the device.
        tokens: a row.

    Source: weights 2 bytes a parameter (NF4 with double quantisation: 2 / 3.6, Dettmers 2023,
    arXiv 2305.14314); adapter, gradients and AdamW 10 bytes a trainable parameter, 16 for full
    fine-tuning in bfloat16 with float32 state counted as 6; activations after Korthikanti 2022
    (arXiv 2205.05198) with one layer recomputed at a time.
    """
    everything = shape.linear + shape.embedding
    trainable = {
        "lora": shape.lora(rank),
        "qlora": shape.lora(rank),
        "soft_prompt": virtual_tokens * shape.hidden,
        "full": everything,
    }[method]
    quantisable = shape.linear if METHODS[method].quantised else 0
    weights = 2 * (everything - quantisable) + 2 * quantisable / 3.6
    state = 8 * trainable if method == "full" else 10 * trainable
    positions = rows * tokens
    inside = positions * (shape.hidden + 2 * shape.key_value) + 2 * positions * shape.hidden
    inside += 2 * positions * shape.intermediate
    activations = inside * 2 * 1.25 * (2 if method == "full" else 1) + shape.layers * positions * shape.hidden * 2
    total = weights + state + activations + CUDA_BYTES
    return Estimate(method, total * (1 - SPREAD / 2), total * (1 + SPREAD / 2))


def advise(rows: int, memory_bytes: float, estimates: dict[str, Estimate]) -> tuple[str, str]:
    """Return the method to try first, and why.

    Args:
        rows: examples to train on.
        memory_bytes: of the device; 0 where unknown.
        estimates: by method.
    """
    fits = {name for name, e in estimates.items() if not memory_bytes or e.high_bytes <= memory_bytes}
    if rows < 50:
        return "none", f"{rows} examples are too few to train on; put them in the prompt as few-shot examples"
    if "lora" in fits:
        return "lora", "a small LoRA (rank 8 to 16) is the cheapest method that usually reaches full fine-tuning"
    if "qlora" in fits:
        return "qlora", "LoRA's base model does not fit; in 4 bits it does"
    if "soft_prompt" in fits:
        return "soft_prompt", "only a soft prompt fits"
    need = min(e.high_bytes for e in estimates.values()) / GIB
    return "none", f"no method fits; the smallest needs {need:.1f} GiB"
