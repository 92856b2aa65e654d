"""The content-addressed store: what a stage made, under the digest of all it depends on.

An entry is a folder with a manifest of its files' sha256, written last; without a valid manifest
it does not exist. Entries appear by one atomic rename, so that no reader sees half of one.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_finetune import digest
from pytest_finetune.errors import EngineError
from pytest_finetune.ledger import Ledger

MANIFEST = "manifest.json"
VALUE = "value.json"
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by pytest-finetune; deleting it forgets the ledger.\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry, as listings show it."""

    stage: str
    key: str
    size_bytes: int
    modified: float


class Store:
    """A folder of entries, shared by runs and processes. ``reused`` tells per stage what was a hit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, int] = {}
        self.reused: dict[str, int] = {}
        self._opened = False

    @property
    def ledger(self) -> Ledger:
        """The verdict ledger, which lives in the store and is never pruned."""
        self._open()
        return Ledger(self.root)

    def json(self, stage: str, key: str, make: Callable[[], Any], rebuild: bool = False) -> Any:
        """Return the plain value under ``key``, made and kept if it is not there."""

        def write(folder: Path) -> None:
            (folder / VALUE).write_text(json.dumps(make()), encoding="utf-8")

        return json.loads((self.folder(stage, key, write, rebuild) / VALUE).read_text(encoding="utf-8"))

    def folder(self, stage: str, key: str, make: Callable[[Path], None], rebuild: bool = False) -> Path:
        """Return the folder under ``key``; ``make`` fills it if it is not there.

        Only one process makes an entry; others wait for it. With ``rebuild`` an entry is made
        anew and takes the old one's place.

        Raises:
            EngineError: the disk is full, or the store cannot be written.
        """
        path = self.root / stage / key
        if not rebuild and self._valid(path):
            self.reused[stage] = self.reused.get(stage, 0) + 1
            return path
        try:
            with self._lock(stage, key):
                if not rebuild and self._valid(path):  # made by another process while this one waited
                    self.reused[stage] = self.reused.get(stage, 0) + 1
                    return path
                self._make(path, make)
        except OSError as error:
            raise EngineError(f"store {self.root}: {error.strerror or error}; see --finetune-store") from error
        self.made[stage] = self.made.get(stage, 0) + 1
        return path

    def has(self, stage: str, key: str) -> bool:
        """Whether a valid entry is there."""
        return self._valid(self.root / stage / key)

    def entries(self) -> Iterator[Entry]:
        """Yield all valid entries, oldest first."""
        manifests = sorted(self.root.glob(f"*/*/{MANIFEST}"), key=lambda p: p.stat().st_mtime)
        for manifest in manifests:
            folder = manifest.parent
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            yield Entry(folder.parent.name, folder.name, size, manifest.stat().st_mtime)

    def remove(self, entry: Entry) -> None:
        """Delete one entry."""
        path = self.root / entry.stage / entry.key
        (path / MANIFEST).unlink(missing_ok=True)  # first: a half-deleted entry must be invisible
        shutil.rmtree(path, ignore_errors=True)

    def _make(self, path: Path, make: Callable[[Path], None]) -> None:
        self._open()
        work = Path(tempfile.mkdtemp(prefix=f"work-{os.getpid()}-", dir=self.root))
        try:
            make(work)
            files = {p.relative_to(work).as_posix(): digest.of_file(p) for p in work.rglob("*") if p.is_file()}
            for name in files:
                _sync(work / name)
            (work / MANIFEST).write_text(json.dumps(files, indent=1, sort_keys=True))
            _sync(work / MANIFEST)
            path.parent.mkdir(exist_ok=True)
            if path.exists():  # damaged, or to be rebuilt: set aside, never served again
                aside = self.root / "quarantine"
                aside.mkdir(exist_ok=True)
                path.rename(Path(tempfile.mkdtemp(prefix=f"{path.name[:12]}-", dir=aside)) / path.name)
            work.chmod(0o755)
            work.rename(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _open(self) -> None:
        """Make the folder, once, and clear what killed runs left half made."""
        if self._opened:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        for name, text in (("CACHEDIR.TAG", TAG), (".gitignore", "*\n")):
            if not (self.root / name).exists():
                (self.root / name).write_text(text)
        for work in self.root.glob("work-*-*"):
            if not _alive(int(work.name.split("-")[1])):
                shutil.rmtree(work, ignore_errors=True)
        self._opened = True

    def _valid(self, path: Path) -> bool:
        try:
            files = json.loads((path / MANIFEST).read_text())
            return all(digest.of_file(path / name) == sha for name, sha in files.items())
        except (OSError, ValueError, AttributeError):
            return False

    @contextmanager
    def _lock(self, stage: str, key: str) -> Iterator[None]:
        from filelock import FileLock  # 0.05 s to import, and a run of hits never needs it

        self._open()
        locks = self.root / "locks"
        locks.mkdir(exist_ok=True)
        with FileLock(locks / f"{stage}-{key}"):
            yield


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a crash cannot leave a manifest without its files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
