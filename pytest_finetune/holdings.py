"""What a store holds, when it was last used, and why it must stay."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune import unfinished
from pytest_finetune.ledger import Ledger
from pytest_finetune.remote import MANIFEST
from pytest_finetune.store import QUARANTINE, Store


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``used`` is when it was last, in seconds, give or take a day.

    ``needed`` says why it must stay; empty where it need not.
    """

    stage: str
    key: str
    size_bytes: int
    used: float
    needed: str = ""


def entries(store: Store) -> list[Entry]:
    """Return all entries, what is unfinished and what was set aside, longest unused first.

    Raises:
        EngineError: the ledger, which says what must stay, cannot be read.
    """
    needed = {
        need: f"attempt {entry.attempt} of {entry.suite}"
        for entry in Ledger(store.root).entries()
        for need in entry.needs
    }
    found = []
    for folder, mark in _marks(store.root):
        stage, key = folder.parent.name, folder.name
        with suppress(FileNotFoundError):  # taken, or deleted, this very moment
            at_work = stage == unfinished.FOLDER and not unfinished.is_left(folder)
            why = "the run that writes it" if at_work else needed.get((stage, key), "")
            found.append(Entry(stage, key, _size(folder), mark.stat().st_mtime, why))
    return sorted(found, key=lambda entry: entry.used)


def remove(store: Store, entry: Entry) -> None:
    """Delete one entry.

    Raises:
        EngineError: the store cannot be written.
    """
    with store.work() as gone, store.writing(), suppress(FileNotFoundError):
        # Under its own name a half-deleted one could be seen, or made anew.
        (store.root / entry.stage / entry.key).rename(gone / entry.key)


def _marks(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each entry's folder, and the file or folder whose time is that of its last use."""
    for stage in os.scandir(root):
        if stage.is_dir():
            for entry in os.scandir(stage):
                folder = Path(entry)
                if stage.name in (unfinished.FOLDER, QUARANTINE):
                    yield folder, folder
                elif (folder / MANIFEST).is_file():
                    yield folder, folder / MANIFEST


def _size(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(place, name).stat().st_size
    return size
