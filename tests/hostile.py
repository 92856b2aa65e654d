"""Models and adapters that ask for more than to be loaded, written as an attacker would."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters

from pytest_finetune import digest

EMBEDDED = digest.PACKAGE / "embedded"
CODE = """
from pathlib import Path

from transformers import LlamaForCausalLM

Path({marker!r}).touch()


class Own(LlamaForCausalLM):
    pass
"""
AUTO_MAP = {"AutoModelForCausalLM": "modeling_own.Own"}


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def pickled(marker: Path) -> bytes:
    """Return a pickle that makes ``marker`` where it is loaded."""
    return pickle.dumps(Touch(marker))


def model(folder: Path, **changes: dict[str, Any]) -> Path:
    """Copy the embedded model, with changes to its JSON files by their names without suffix.

    Returns:
        The folder.
    """
    shutil.copytree(EMBEDDED, folder)
    for name, change in changes.items():
        file = folder / f"{name}.json"
        found = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**found, **change}))
    return folder


def own_code(folder: Path, marker: Path) -> Path:
    """Copy the embedded model with code of its own, which makes ``marker`` where it is imported."""
    model(folder, config={"auto_map": AUTO_MAP})
    (folder / "modeling_own.py").write_text(CODE.format(marker=str(marker)))
    return folder


def adapter(folder: Path, **config: Any) -> Path:
    """Write a LoRA of the embedded model, with changes to its configuration."""
    adapters.lora(folder, 1, **config)
    return folder


def rewritten(file: Path, header: Callable[[dict[str, Any]], dict[str, Any]], data: bytes | None = None) -> None:
    """Write a file of safetensors anew, with another header, and the two bytes ``data`` in place of every number."""
    held = file.read_bytes()
    start = 8 + struct.unpack("<Q", held[:8])[0]
    numbers = held[start:] if data is None else data * (len(held[start:]) // 2)
    safetensors(file, header(json.loads(held[8:start])), numbers)


def safetensors(file: Path, header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> None:
    """Write a file of safetensors by hand; ``length`` is what it says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
