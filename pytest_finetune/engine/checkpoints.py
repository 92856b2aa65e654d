"""Checkpoints: a training run that is stopped goes on where it was, and ships the same weights."""

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pytest_finetune import digest, disk, sealed

NOTE = "run.json"  # in a checkpoint: what Trainer does not keep itself
STATE = "trainer_state.json"


def latest(folder: Path) -> Path | None:
    """Return the last checkpoint in a folder to go on from; what is damaged or half written is removed.

    A checkpoint counts that is whole, byte for byte, and whose best one so far is there and whole as well.
    """
    whole: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        if is_whole(path):
            whole[int(path.name.partition("-")[2])] = path
        else:
            shutil.rmtree(path)
    for step in sorted(whole, reverse=True):
        if (json.loads((whole[step] / STATE).read_text())["best_global_step"] or step) in whole:
            return whole[step]
        shutil.rmtree(whole.pop(step))
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether every byte of a checkpoint is as it was written."""
    with suppress(OSError, ValueError):
        return bool(note(checkpoint)["files"] == _digests(checkpoint))
    return False


def note(checkpoint: Path) -> dict[str, Any]:
    """Return what was noted with a checkpoint.

    Raises:
        OSError: there is no note.
        ValueError: it is damaged.
    """
    noted: dict[str, Any] = sealed.unseal((checkpoint / NOTE).read_text(encoding="utf-8"))
    return noted


def write_note(checkpoint: Path, said: dict[str, Any]) -> None:
    """Note with a checkpoint what Trainer does not keep, and the digest of each file; without it there is none."""
    files = _digests(checkpoint)
    for name in files:
        disk.sync(checkpoint / name)
    disk.replace(checkpoint / NOTE, sealed.seal({**said, "files": files}))


def _digests(checkpoint: Path) -> dict[str, str]:
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != NOTE)
    return {path.relative_to(checkpoint).as_posix(): digest.of_file(path) for path in files}


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
