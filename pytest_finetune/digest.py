"""Digests: what a result depends on, as one short hexadecimal name."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar


class Named(Protocol):
    """What has a name of its own, such as a row of data."""

    @property
    def id(self) -> str:
        """The name."""


N = TypeVar("N", bound=Named)
PACKAGE = Path(__file__).parent
# Of an adapter's folder; a whole model may bring code of its own.
SHIPPED = ("*.safetensors", "adapter_config.json", "config.json", "generation_config.json", "*.py")
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def of(value: object) -> str:
    """Return the sha256 of plain data, written as canonical JSON."""
    return hashlib.sha256(CANONICAL.encode(value).encode()).hexdigest()


def shuffled(purpose: str, items: Iterable[N]) -> list[N]:
    """Return items in an order that each purpose has of its own, and in which one that is added moves no other."""
    return sorted(items, key=lambda item: of([purpose, item.id]))


def of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_files(folder: Path, patterns: Iterable[str]) -> str:
    """Return one digest of the names and bytes of the files in ``folder`` that match ``patterns``."""
    names = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return of([[path.relative_to(folder).as_posix(), of_file(path)] for path in names])


@cache
def of_code(*names: str) -> str:
    """Return a digest of the named source files of this package, so that changed code is a store miss."""
    return of([[name, of_file(PACKAGE / name)] for name in names])


@cache
def of_package() -> str:
    """Return a digest of all source files of this package."""
    return of_files(PACKAGE, ("**/*.py",))


@cache
def versions(*distributions: str) -> dict[str, str]:
    """Return the installed versions of the named libraries, without importing them.

    Not the local label, which says what a version was built for (``+cu130``): the device is named apart.
    """
    return {name: importlib.metadata.version(name).partition("+")[0] for name in distributions}
