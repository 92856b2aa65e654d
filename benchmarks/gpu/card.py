"""The card that a race runs on, its peak, and an 8B-shaped Llama with random weights."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import EMBEDDED
from benchmarks.race import TOKENIZER
from pytest_finetune import device

# Published dense bfloat16 peaks in FLOP/s: NVIDIA's data sheets, without sparsity. The first name that fits.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
TINY = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@dataclass(frozen=True)
class Card:
    """A device, what it is called, its peak in FLOP/s, and where that figure is from."""

    device: str
    name: str
    peak: float
    source: str


def card(tiny: bool, program: str) -> Card:
    """Return the GPU, or with ``tiny`` the CPU; leave with one line where neither is meant."""
    if tiny:
        return Card("cpu", "CPU", _measured_peak("cpu", torch.float32, 512), "measured, a float32 product")
    # Both: the driver may show a card that this build of torch cannot use.
    if device.choose("auto") == "cpu" or not torch.cuda.is_available():
        sys.exit(f"{program}: torch {torch.__version__} sees no GPU; run it where there is one, or --tiny on the CPU")
    name = torch.cuda.get_device_name()
    published = next((peak for part, peak in PEAKS.items() if part in name), None)
    if published:
        return Card("cuda", name, published, "published, dense bfloat16")
    return Card("cuda", name, _measured_peak("cuda", torch.bfloat16, 8192), "measured, a bfloat16 product")


def llama(folder: Path, sizes: dict[str, int], on: Card) -> Path:
    """Write a Llama of random bfloat16 weights with the embedded model's tokenizer; return its folder."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **sizes, max_position_embeddings=8192, bos_token_id=None, eos_token_id=4, pad_token_id=0
    )
    transformers.utils.logging.disable_progress_bar()
    torch.set_default_dtype(torch.bfloat16)  # never as float32, which would not fit beside the rest
    try:
        with torch.device(on.device):
            model = transformers.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    known = len(transformers.AutoTokenizer.from_pretrained(EMBEDDED))
    with torch.no_grad():
        model.lm_head.weight[known:] = 0  # ids without a text are never the greedy answer
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(EMBEDDED / name, folder)
    return folder


def release() -> None:
    """Give back the GPU memory that nothing holds any more, and forget the peak."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes(on: Card) -> int:
    """Return the peak of the GPU's allocator, 0 on the CPU."""
    return int(torch.cuda.max_memory_allocated()) if on.device == "cuda" else 0


def synchronised(on: Card) -> float:
    """Return the time when the device has done all it was told."""
    if on.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def versions() -> str:
    """Return the installed versions of what may take part."""
    import importlib.metadata

    found: list[str] = []
    for name in ("torch", "transformers", "peft", "bitsandbytes", "trl", "vllm", "flash_attn", "liger_kernel"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _measured_peak(where: str, dtype: torch.dtype, size: int) -> float:
    a: Any = torch.randn(size, size, device=where, dtype=dtype)
    repeats, best = 10, 0.0
    for _ in range(3):
        if where == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ a
        if where == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 * repeats / (time.perf_counter() - started))
    return best
