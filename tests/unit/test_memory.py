"""Memory by arithmetic: shapes from headers, and estimates against published and counted numbers."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from llamas import PUBLISHED

from pytest_finetune import digest, memory
from pytest_finetune.errors import SuiteError
from pytest_finetune.memory import GIB, Load, Shape
from pytest_finetune.methods import METHODS

EMBEDDED = digest.PACKAGE / "embedded"
# GiB at rank 16, one row of 2,048 tokens, activation checkpointing, no logits; bfloat16 throughout.
BFLOAT16_GIB = {
    "lora": (2.5, 4.6, 16.3, 17.1, 136),
    "qlora": (2.0, 2.8, 7.5, 7.7, 43.8),
    "soft_prompt": (2.4, 4.5, 16.0, 16.7, 134),
}
COLUMNS = ("Qwen2.5-0.5B", "Qwen2.5-1.5B", "Qwen2.5-7B", "Llama-3.1-8B", "Llama-3.1-70B")
TABLE = [(m, n, g) for m, line in BFLOAT16_GIB.items() for n, g in zip(COLUMNS, line, strict=True)]
LOAD = Load(rows=1, tokens=2048, rank=16, dev_rows=1, device="cuda", checkpointing=True)


@cache
def published(name: str) -> Shape:
    """Return a published model's shape."""
    model = PUBLISHED[name]
    return memory.shape_from(model.config, model.tensors(biases=name.startswith("Qwen")))


def write(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end := end + 2 * prod(shape)]}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def test_shape_is_the_files() -> None:
    """The parameters read off the header are those of the tensors in the file, and the config's sizes agree."""
    shape = memory.shape_of(EMBEDDED)
    config = json.loads((EMBEDDED / "config.json").read_text())
    with safetensors.safe_open(EMBEDDED / "model.safetensors", "numpy") as weights:
        sizes = [prod(weights.get_slice(name).get_shape()) for name in weights.keys()]  # noqa: SIM118  # no mapping
    assert shape.parameters == sum(sizes)
    attention = 4 * config["hidden_size"] * shape.query
    assert shape.linear == shape.layers * (attention + 3 * shape.hidden * shape.intermediate)
    assert shape.layers == config["num_hidden_layers"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published(name: str) -> None:
    """The count is the one that the model's authors publish, to the last."""
    assert published(name).parameters == PUBLISHED[name].parameters


def test_sharded_model(tmp_path: Path) -> None:
    """A model in shards counts as the same model in one file; other files beside it do not count."""
    shapes = memory.tensors(EMBEDDED)
    names = sorted(shapes)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        write(tmp_path / file, {name: shapes[name] for name in part})
    write(tmp_path / "adapter_model.safetensors", {"other": (9, 9)})
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((EMBEDDED / "config.json").read_text())
    assert memory.shape_of(tmp_path) == memory.shape_of(EMBEDDED)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(SuiteError, match=r"b\.safetensors: a shard of the model is missing"):
        memory.shape_of(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raw: raw[:4], "no valid safetensors header"),
        (lambda raw: struct.pack("<Q", 2**60) + raw[8:], "longer than the file"),
        (lambda raw: raw[:8] + b"\xff" + raw[9:], "no valid safetensors header"),
        (lambda raw: raw[:-1], "should have 2958456 bytes and has 2958455"),
        (lambda raw: struct.pack("<Q", 2) + b"[]", "no valid safetensors header"),
        (lambda raw: struct.pack("<Q", 9) + b'{"a": 12}', "no valid safetensors header"),
    ],
)
def test_damaged_weights(spoil: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    """A file that is cut off or garbled is one line that names it and the remedy."""
    (tmp_path / "config.json").write_text((EMBEDDED / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(spoil((EMBEDDED / "model.safetensors").read_bytes()))
    with pytest.raises(SuiteError, match=said) as caught:
        memory.shape_of(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'model.safetensors'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{}", "no 'num_attention_heads' in it"),
        ("[]", "not a JSON object"),
        ("{", "not a JSON object"),
        ('{"num_attention_heads": 0, "hidden_size": 1}', "no number above 0"),
        ('{"num_attention_heads": "4", "hidden_size": 1}', "no number above 0"),
    ],
)
def test_damaged_config(config: str, said: str, tmp_path: Path) -> None:
    """A config that lacks a size is one line that names the file."""
    (tmp_path / "config.json").write_text(config)
    write(tmp_path / "model.safetensors", {"a": (1,)})
    with pytest.raises(SuiteError, match=said) as caught:
        memory.shape_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_model(tmp_path: Path) -> None:
    """A folder without a config, or without weights, says which of the two."""
    with pytest.raises(SuiteError, match=r"no config\.json in it"):
        memory.shape_of(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SuiteError, match=r"no \*\.safetensors in it"):
        memory.shape_of(tmp_path)


@pytest.mark.parametrize(("method", "name", "gib"), TABLE)
def test_gpu_arithmetic(method: str, name: str, gib: float) -> None:
    """Estimates for a GPU lie within 15 % of the usual bfloat16 arithmetic.

    QLoRA does so less what peft's ``prepare_model_for_kbit_training`` adds, which casts all that
    is not NF4 to float32: those weights, the output layer's bfloat16 copy of them, the residual
    stream, and one layer's gate, SiLU and up.
    """
    shape = published(name)
    total = memory.estimate(shape, method, LOAD).total
    if method == "qlora":
        positions = LOAD.rows * LOAD.tokens
        total -= 2 * (shape.parameters - shape.linear) + 2 * shape.vocabulary * shape.hidden
        total -= 2 * positions * (shape.layers * shape.hidden + 3 * shape.intermediate)
    assert total / GIB == pytest.approx(gib, rel=0.15)


@pytest.mark.parametrize("name", list(PUBLISHED)[1:])
def test_full_fine_tuning_keeps_float32(name: str) -> None:
    """Every weight takes 16 to 18 bytes with float32 master weights, before the process itself."""
    shape = published(name)
    assert 16 <= memory.estimate(shape, "full", LOAD).added / shape.parameters <= 18


loads = st.builds(
    Load,
    rows=st.integers(1, 64),
    tokens=st.integers(512, 4096),
    completion_tokens=st.integers(0, 512),
    rank=st.integers(1, 256),
    virtual_tokens=st.integers(1, 100),
    dev_rows=st.integers(0, 80),
    device=st.sampled_from(["cpu", "cuda"]),
    checkpointing=st.booleans(),
)
FIELDS = ("rows", "tokens", "completion_tokens", "rank", "virtual_tokens", "dev_rows")


@given(loads, st.sampled_from(list(METHODS)), st.sampled_from(list(PUBLISHED)), st.sampled_from(FIELDS))
def test_more_takes_no_less(load: Load, method: str, name: str, field: str) -> None:
    """One more row, token, rank or virtual token never takes less memory, and the range holds the total."""
    shape = published(name)
    more: dict[str, Any] = {field: getattr(load, field) + 1}
    if field == "completion_tokens":
        more["tokens"] = load.tokens + 1
    before, after = memory.estimate(shape, method, load), memory.estimate(shape, method, replace(load, **more))
    assert after.total >= before.total
    assert before.low <= before.total <= before.high
    assert before.total == pytest.approx(before.added + memory.PROCESS_BYTES[load.device])


@given(loads, st.sampled_from(list(PUBLISHED)))
def test_methods_keep_their_order(load: Load, name: str) -> None:
    """Checkpointing never costs, LoRA never takes more than full fine-tuning, nor QLoRA's weights than LoRA's."""
    shape = published(name)
    found = {method: memory.estimate(shape, method, replace(load, checkpointing=True)) for method in METHODS}
    plain = {method: memory.estimate(shape, method, replace(load, checkpointing=False)) for method in METHODS}
    assert all(found[method].total <= plain[method].total for method in METHODS)
    assert found["qlora"].weights < found["lora"].weights
    assert found["soft_prompt"].optimiser < found["full"].optimiser


def test_estimate_is_what_autograd_saves(tmp_path: Path) -> None:
    """On the CPU the activations counted are those that autograd saves for the backward pass, within 5 %."""
    import torch

    from pytest_finetune.engine.adapters import prepare
    from pytest_finetune.engine.models import load_base
    from pytest_finetune.engine.tree import collate
    from pytest_finetune.records import Model, Training

    load = Load(rows=4, tokens=96, completion_tokens=0, dev_rows=0)
    for method in ("lora", "full", "soft_prompt"):
        training = Training(method=method)
        base = load_base(Model("embedded", "", str(EMBEDDED)), torch.device("cpu"), method)
        model = prepare(base, Model("embedded", "", str(EMBEDDED)), training, tmp_path).train()
        virtual = training.virtual_tokens if method == "soft_prompt" else 0
        inputs = collate([([5] * (virtual + 94 - row), [7] * 3) for row in range(4)], [1.0] * 4, 0, 0)
        for name in ("weights", "nodes", "labels"):
            del inputs[name]
        own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        saved: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, saved: dict[int, torch.Tensor] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(**inputs).logits.sum()
        found = sum(t.untyped_storage().nbytes() for address, t in saved.items() if address not in own)
        shape = memory.shape_of(EMBEDDED)
        counted = shape.layers * 4 * (96 + virtual) * memory._layer_bytes(shape, method, load, load.tokens)
        assert counted == pytest.approx(found, rel=0.05), method
