"""What is served, by the names that requests may use."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Adapter
from pytest_finetune.serve.requests import Refused

DIGEST = re.compile("[0-9a-f]{64}")
SHORTEST = 8  # characters of a digest that name it


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter under a name of its own, empty where it has none but its digest."""

    name: str
    adapter: Adapter


def adapter_of(folder: Path) -> Adapter:
    """Return the adapter in a folder, by the digest of the files that ship.

    Raises:
        SuiteError: it is no adapter's folder.
    """
    if not folder.is_dir():
        raise SuiteError(f"adapter {folder}: no such folder")
    if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
        raise SuiteError(
            f"adapter {folder}: neither adapter_config.json nor config.json in it; name an adapter's folder"
        )
    try:
        return Adapter(str(folder), digest.of_files(folder, digest.SHIPPED), "")
    except OSError as error:
        raise SuiteError(f"adapter {folder}: cannot be read: {error.strerror}") from None


class Catalogue:
    """The base model's name, and the adapters."""

    def __init__(self, base: str) -> None:
        self.base, self.created = base, int(time.time())
        self.served: list[Served] = []

    def add(self, name: str, adapter: Adapter) -> None:
        """Serve an adapter.

        Raises:
            SuiteError: its name names something else.
        """
        self.check(name, adapter.digest)
        served = Served("" if name == adapter.digest else name, adapter)
        if served not in self.served:
            self.served.append(served)

    def check(self, name: str, digest: str) -> None:
        """Refuse a name that names something else than this digest already.

        Raises:
            SuiteError: saying what.
        """
        if DIGEST.fullmatch(name) and name != digest:
            raise SuiteError(f"adapter name {name}: the digest is {digest}; take that, or a name that is no digest")
        if name == self.base:
            raise SuiteError(f"adapter name {name!r} is the base model's; take another")
        other = next((one for one in self.served if name in (one.name, one.adapter.digest) and name), None)
        if other and other.adapter.digest != digest:
            raise SuiteError(f"adapter name {name!r} is taken by {other.adapter.digest}; take another, or unload it")

    def remove(self, model: str) -> str:
        """Serve an adapter no longer by a name, or by none where its digest is given.

        Returns:
            Its digest, if it has no name left.

        Raises:
            Refused: there is none.
        """
        digest = self.find(model)
        if not digest:
            raise Refused(400, f"{model!r} is the base model, which stays", "lora_name")
        gone = [one for one in self.served if one.name == model] or [
            one for one in self.served if one.adapter.digest == digest
        ]
        self.served = [one for one in self.served if one not in gone]
        return "" if any(one.adapter.digest == digest for one in self.served) else digest

    def find(self, model: str) -> str:
        """Return the digest of the adapter that a request names, empty for the base model.

        Raises:
            Refused: it names none, or several.
        """
        if model == self.base:
            return ""
        named = {one.adapter.digest for one in self.served if model and model in (one.name, one.adapter.digest)}
        if not named and len(model) >= SHORTEST:
            named = {one.adapter.digest for one in self.served if one.adapter.digest.startswith(model)}
        if len(named) != 1:
            reason = "names several" if named else f"is not served; there are {', '.join(self.names())}"
            raise Refused(404, f"model {model!r} {reason}", "model", "model_not_found")
        return named.pop()

    def names(self) -> list[str]:
        """Return the ids of all models, an adapter's own name before it."""
        own = [f"{one.name}={one.adapter.digest}" if one.name else one.adapter.digest for one in self.served]
        return [self.base, *own]

    def summary(self) -> str:
        """Return in words what is served."""
        count = len({one.adapter.digest for one in self.served})
        return f"{self.base} and {count} adapter{'' if count == 1 else 's'}"

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the entries of ``/v1/models`` by id."""
        entries = {"": self._entry(self.base)}
        for one in self.served:
            entry = entries.setdefault(
                one.adapter.digest, {**self._entry(one.adapter.digest), "parent": self.base, "names": []}
            )
            entry["names"] += [one.name] if one.name else []
        return entries

    def _entry(self, id: str) -> dict[str, Any]:
        return {"id": id, "object": "model", "created": self.created, "owned_by": "pytest-finetune"}
