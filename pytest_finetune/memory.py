"""Memory of training by arithmetic: a model's shape from its files, and what each method holds at its peak."""

import re
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from pytest_finetune.errors import SuiteError
from pytest_finetune.methods import METHODS
from pytest_finetune.modelfiles import INDEX, shapes_in, shards, table

GIB = 2**30
NF4_BYTES = 4.127 / 8  # a weight with double quantisation: Dettmers 2023, section 3
PROCESS_BYTES = {"cpu": 0.5 * GIB, "cuda": 1.4e9}  # torch and peft imported; a CUDA context
LAZY_BYTES = 28 * 2**20  # the model's code, kernels and their workspaces, which the first steps load
SPREAD = 0.15  # published figures of the same run differ by 30 %
HEAP = {"cpu": 1.3, "cuda": 0.0}  # freed and kept by glibc, a byte of activations: benchmarks/results/memory.md
IN_A_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory depends on in a decoder-only transformer, counted in elements.

    ``linear`` are the weights of all linear layers in its blocks, which LoRA adapts and NF4
    quantises, ``widths`` the sum of their inputs and outputs, ``largest`` the largest of them.
    """

    parameters: int
    linear: int
    widths: int
    largest: int
    layers: int
    hidden: int
    intermediate: int
    query: int
    key_value: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Load:
    """What one step works on: ``rows`` at once, each of up to ``tokens``, of which ``completion_tokens`` are taught.

    ``device`` is ``cpu`` or ``cuda``; ``dev_rows`` are the dev split's, 0 for none; ``shared_tokens`` is what
    rows begin with in common, which the engine computes once where a batch has it. ``checkpointing`` says that
    activations are computed anew for the backward pass.
    """

    rows: int = 8
    tokens: int = 2048
    completion_tokens: int = 0
    rank: int = 8
    virtual_tokens: int = 20
    dev_rows: int = 64
    device: str = "cpu"
    checkpointing: bool = False
    shared_tokens: int = 0

    def positions(self, rows: int, virtual: int, sharing: bool) -> int:
        """Return the tokens that a pass over rows computes."""
        shared = self.shared_tokens + virtual if sharing else 0
        return shared + rows * (self.tokens + virtual - shared)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that one method holds at its peak, and the range they are to be expected in.

    Gradients come as activations go, so ``total`` counts the larger of the two. ``added`` is what
    training adds to the process: ``TrainingCurve.peak_bytes`` measures it. ``low`` is for batches that
    share what rows begin with in common; all else is for rows that share nothing.
    """

    method: str
    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    process: float
    total: float
    added: float
    low: float
    high: float


def shape_of(folder: Path) -> Shape:
    """Read a model's shape off its config.json and the headers of its safetensors; no weight is read.

    Raises:
        SuiteError: a file is missing or damaged, or the config lacks a size.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise SuiteError(f"{folder}: no config.json in it; name a model's folder, or embedded")
    return shape_from(table(path), tensors(folder), path)


def shape_from(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], place: Path = Path("config.json")) -> Shape:
    """Return the shape from a config and the shapes of the tensors by name."""
    config = config.get("text_config", config)
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        head = config.get("head_dim") or hidden // heads
        if config.get("tie_word_embeddings"):
            shapes = {name: shape for name, shape in shapes.items() if name != "lm_head.weight"}
        linear = [shape for name, shape in shapes.items() if len(shape) == 2 and IN_A_LAYER.search(name)]
        return Shape(
            parameters=sum(map(prod, shapes.values())),
            linear=sum(map(prod, linear)),
            widths=sum(map(sum, linear)),
            largest=max(map(prod, linear), default=0),
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            query=head * heads,
            key_value=head * (config.get("num_key_value_heads") or heads),
            vocabulary=config["vocab_size"],
        )
    except KeyError as error:
        raise SuiteError(
            f"{place}: no {error} in it; memory is estimated for decoders such as Llama and Qwen"
        ) from None
    except (TypeError, ZeroDivisionError) as error:
        raise SuiteError(f"{place}: a size in it is no number above 0 ({error}); download the model again") from None


def tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by name, from the headers of a model's safetensors.

    Raises:
        SuiteError: there is no such file, a shard is missing, or a header is damaged.
    """
    index = folder / INDEX
    files = [folder / name for name in shards(index)] if index.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise SuiteError(f"{folder}: no *.safetensors in it; download the model's weights")
    return {name: shape for file in files for name, shape in shapes_in(file).items()}


def estimate(shape: Shape, method: str, load: Load) -> Estimate:
    """Return the memory that the engine takes to train, at its peak.

    Args:
        shape: the model's.
        method: a key of ``METHODS``.
        load: what one step works on; LoRA's dropout is taken to be 0.

    Source: weights, gradients and AdamW after Rajbhandari 2020 (arXiv 1910.02054), section 3.1;
    activations counted as autograd saves them (``torch.autograd.graph.saved_tensors_hooks``), in
    the manner of Korthikanti 2022 (arXiv 2205.05198), section 4.
    """
    apart, sharing = (_held(shape, method, load, sharing) for sharing in (False, bool(load.shared_tokens)))
    process = PROCESS_BYTES[load.device]
    return replace(
        apart,
        low=process + sharing.added * (1 - SPREAD),
        high=process + apart.added * (1 + SPREAD) + HEAP[load.device] * (apart.activations + apart.logits),
    )


def _held(shape: Shape, method: str, load: Load, sharing: bool) -> Estimate:
    """Return what is held at the peak, without a range."""
    cuda, full, lora = load.device == "cuda", method == "full", method in ("lora", "qlora")
    virtual = load.virtual_tokens if method == "soft_prompt" else 0
    trained = shape.parameters if full else shape.widths * load.rank if lora else virtual * shape.hidden
    held = 2 if cuda and method in ("lora", "soft_prompt") else 4  # qlora: peft casts what is not NF4 to float32
    base: float = held * shape.parameters
    if METHODS[method].quantised:
        base += (NF4_BYTES - held) * shape.linear
    weights = base + (0 if full else 4 * trained)
    positions = load.positions(load.rows, virtual, sharing)
    inside = positions * _layer_bytes(shape, method, load, positions if sharing else load.tokens)
    saved: float = shape.layers * inside
    if load.checkpointing:
        saved = inside + shape.layers * positions * shape.hidden * held
    if full and cuda:
        saved += 2 * shape.parameters  # autocast's bfloat16 copies
    width = 2 if cuda else 4
    temporaries = width * (3 * shape.intermediate * positions + (METHODS[method].quantised and shape.largest))
    # log-softmax, and the gradients of it and of the loss; then the output layer's own gradient or copy
    logits = 3.0 * 4 * load.rows * load.completion_tokens * shape.vocabulary
    logits += shape.vocabulary * shape.hidden * (4 if full else 2 if cuda and lora and held == 4 else 0)
    moving = (saved + max(0.0, temporaries - logits), logits)
    moving = max(moving, _evaluation(shape, method, load, sharing), key=sum)
    steady, gradients = weights + 8 * trained, 4 * trained
    added = steady + max(gradients, sum(moving)) + LAZY_BYTES
    process = PROCESS_BYTES[load.device]
    return Estimate(
        method=method,
        weights=weights,
        gradients=gradients,
        optimiser=8 * trained,
        activations=moving[0],
        logits=moving[1],
        process=process + LAZY_BYTES,
        total=process + added,
        added=added,
        low=process + added,
        high=process + added,
    )


def _layer_bytes(shape: Shape, method: str, load: Load, keys: int) -> float:
    """Bytes that one layer saves for the backward pass, a position, which may attend to so many ``keys``."""
    hidden, query, inner = shape.hidden, shape.query, shape.intermediate
    # Rows of several lengths need a mask, and with it SDPA gets the keys and values of every head.
    attention = 4 * query + keys if load.rows > 1 else 2 * query + 2 * shape.key_value
    lora = 7 * load.rank if method in ("lora", "qlora") else 0
    if load.device == "cpu":
        saved = 2 * hidden + attention + 3 * inner + lora  # residual stream; attention; gate, its SiLU, up
        if method != "soft_prompt":
            saved += 2 * hidden + inner  # inputs of layers that are trained
        if method == "full":
            saved += 2 * hidden  # inputs of the norms' weights
        return 4 * saved
    # Norms work in float32; NF4 layers answer in the float32 of their input, others in bfloat16.
    saved = 8 * hidden + 2 * attention + (12 if method == "qlora" else 6) * inner + 2 * lora
    if method != "soft_prompt":
        saved += 2 * (5 * hidden + inner)  # each linear layer keeps its own cast of its input
    if lora:
        saved += 2 * query  # of the attention's output too
    if method == "full":
        saved += 8 * hidden
    return saved


def _evaluation(shape: Shape, method: str, load: Load, sharing: bool) -> tuple[float, float]:
    """Bytes of activations and logits on the dev split: one layer at a time, no gradients.

    Its loss comes in batches of 32 rows, or as large as training's; then up to 64 rows are answered,
    whose keys and values are kept.
    """
    virtual = load.virtual_tokens if method == "soft_prompt" else 0
    width = 2 if load.device == "cuda" and method != "qlora" else 4
    inside = (5 if method in ("lora", "qlora") else 3) * shape.intermediate + 3 * shape.hidden + load.tokens
    rows = min(load.dev_rows, max(load.rows, 32))
    logits = 2.0 * 4 * rows * load.completion_tokens * shape.vocabulary
    activations = max(0.0, load.positions(rows, virtual, sharing) * inside * width - logits)
    answered_rows = min(load.dev_rows, 64)
    asked = load.positions(answered_rows, virtual, sharing) - answered_rows * load.completion_tokens
    answered = asked * width * (inside + 2.0 * shape.layers * shape.key_value)
    return max((activations, logits), (answered, 0.0), key=sum)
