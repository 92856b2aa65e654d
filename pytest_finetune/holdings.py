"""What a store holds, when it was last used, and why it must stay."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune import disk, unfinished
from pytest_finetune.ledger import Ledger
from pytest_finetune.remote import MANIFEST
from pytest_finetune.store import DAY_SECONDS, QUARANTINE, RESULTS, WORK, Store

LOST_SECONDS = 7 * DAY_SECONDS  # after which another machine's half-made entry is nobody's


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry; ``used`` is when it was last, in seconds, give or take a day.

    ``stage`` is empty of what is half made; ``needed`` says why it must stay, and is empty where it need not.
    """

    stage: str
    key: str
    size_bytes: int
    used: float
    needed: str = ""


def entries(store: Store) -> list[Entry]:
    """Return all entries, what is half made, unfinished or was set aside, longest unused first.

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
        stage, key = "" if folder.parent == store.root else folder.parent.name, folder.name
        with suppress(FileNotFoundError):  # taken, or deleted, this very moment
            why = "the run that writes it" if _is_at_work(folder, store.root) else needed.get((stage, key), "")
            found.append(Entry(stage, key, disk.size(folder), mark.stat().st_mtime, why))
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
        if stage.name.startswith(WORK):
            yield Path(stage), Path(stage)
        elif stage.is_dir():
            for entry in os.scandir(stage):
                folder = Path(entry)
                if stage.name in (unfinished.FOLDER, QUARANTINE, RESULTS):
                    yield folder, folder
                elif (folder / MANIFEST).is_file():
                    yield folder, folder / MANIFEST


def _is_at_work(folder: Path, root: Path) -> bool:
    """Whether a run writes to what is half made or unfinished, as far as that can be known."""
    if folder.parent == root:
        host, pid = folder.name.split("-")[1:3]
        here = host == unfinished.HOST
        return unfinished.is_alive(int(pid)) if here else time.time() - unfinished.touched(folder) < LOST_SECONDS
    return folder.parent.name == unfinished.FOLDER and not unfinished.is_left(folder)
