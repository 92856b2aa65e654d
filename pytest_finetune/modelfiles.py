"""Model files: what those of a model or an adapter say, as JSON, and no tensor of them."""

import itertools
import json
import re
import struct
from math import prod
from pathlib import Path
from typing import Any

from pytest_finetune.errors import SuiteError, one_line

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"[\w.-]+\.safetensors")
MOST_TABLE_BYTES = 64 << 20  # of JSON that is no header
MOST_HEADER_BYTES = 100_000_000  # as safetensors' own reader has it


def table(file: Path) -> dict[str, Any]:
    """Return a table of JSON.

    Raises:
        SuiteError: the file is none, or too large.
    """
    try:
        if not file.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        if file.stat().st_size > MOST_TABLE_BYTES:
            raise ValueError(f"it is larger than {MOST_TABLE_BYTES >> 20} MiB")
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds {str(found)[:50]!r}")
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error, 150)
        raise SuiteError(f"{file}: not a JSON object ({reason}); save or download it again") from None
    return found


def shards(index: Path) -> list[str]:
    """Return the names of a model's files of weights, as its index has them.

    Raises:
        SuiteError: one is elsewhere, or pickled.
    """
    places = table(index).get("weight_map")
    names: list[Any] = list(places.values()) if isinstance(places, dict) else [places]
    for name in names:
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise SuiteError(f"{index}: {str(name)[:80]!r} is no *.safetensors beside it; download the model again")
    return sorted(set(names))


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a file by name.

    Source: the format, github.com/huggingface/safetensors#format: 8 bytes little-endian length, JSON.

    Raises:
        SuiteError: it is missing, or its header is damaged.
    """
    try:
        if not file.exists():
            raise FileNotFoundError
        if not file.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, MOST_HEADER_BYTES):
                raise ValueError(f"its header of {length} bytes is longer than the file, or than any")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
        places = sorted(tuple(map(int, entry["data_offsets"])) for entry in header.values())
        missing = max((end for _, end in places), default=0) + 8 + length
        if missing > size:
            raise ValueError(f"it should have {missing} bytes and has {size}")
        if any(end > start for (_, end), (start, _) in itertools.pairwise(places)):
            raise ValueError("its tensors lie over each other")
        for name, (start, end) in ((name, entry["data_offsets"]) for name, entry in header.items()):
            if not 0 <= prod(shapes[name]) <= 2 * (end - start):  # the smallest number has 4 bits
                raise ValueError(f"{name[:50]} cannot be of shape {list(shapes[name])[:8]}")
    except FileNotFoundError:
        raise SuiteError(f"{file}: a shard of the model is missing; download it again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        reason = one_line(error, 120)
        raise SuiteError(f"{file}: no valid safetensors header ({reason}); download the model again") from None
    return shapes
