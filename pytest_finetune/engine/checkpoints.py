"""Checkpoints: a training run that is stopped goes on where it was, and ships the same weights."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

NOTE = "run.json"  # in a checkpoint: what Trainer does not keep itself


def latest(folder: Path) -> Path | None:
    """Return the last checkpoint in a folder that is whole: its note is written last."""
    while folder.is_dir() and (found := get_last_checkpoint(str(folder))):
        if note(Path(found)) is not None:
            return Path(found)
        _set_aside(Path(found))
    return None


def note(checkpoint: Path) -> dict[str, Any] | None:
    """Return what was noted with a checkpoint; None where nothing is, or nothing that can be read."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((checkpoint / NOTE).read_text(encoding="utf-8"))
        return found
    return None


def write_note(checkpoint: Path, said: dict[str, Any]) -> None:
    """Note with a checkpoint what Trainer does not keep."""
    half = checkpoint / f"{NOTE}.half"
    half.write_text(json.dumps(said), encoding="utf-8")
    half.replace(checkpoint / NOTE)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM ask for a stop, in place of ending the process at once; yields whether it did."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    if threading.current_thread() is not threading.main_thread():  # where Python sets no handler
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _set_aside(checkpoint: Path) -> None:
    """Rename a half-written checkpoint, so that it is none."""
    checkpoint.rename(checkpoint.with_name(f"half-{checkpoint.name}"))
