"""The content-addressed store: what a stage made, under the digest of all it depends on.

An entry is a folder with a manifest of its files' sha256, written last; without a valid manifest
it does not exist. Entries appear by one atomic rename, so that no reader sees half of one. Locks only
spare work that two would do: where they do nothing, as on many network disks, all of this holds.
"""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pytest_finetune import digest, disk, sealed, unfinished
from pytest_finetune.errors import EngineError
from pytest_finetune.ledger import BEFORE, Ledger
from pytest_finetune.ledger import FOLDER as LEDGER
from pytest_finetune.remote import MANIFEST, Remote

VALUE = "value.json"
BLOCK = 4096  # bytes, of which a disk gives out whole ones
FULL = {errno.ENOSPC, errno.EDQUOT}
LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # a disk that has no locks
DECIDED = {"verdict", "settled", "curated"}  # stages that every machine decides anew: no evidence, and not shared
PASSING = {"settled", "curated"}  # stages that only save time: no verdict rests on them
RESULTS = "results"  # of cells, whose evidence is linked to entries
QUARANTINE = "quarantine"
KEPT_ASIDE = 100  # damaged entries, for whoever wants to know what happened to them
WORK = "work-"
DAY_SECONDS = 86400.0
TAG_FILE = "CACHEDIR.TAG"
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Made by pytest-finetune; deleting it forgets the ledger.\n"


class Store:
    """A folder of entries, shared by runs and processes.

    Args:
        root: the folder.
        remotes: have what other machines made, and take what is made here.
        before: a ledger whose attempts count here, too.
    """

    def __init__(self, root: Path, *remotes: Remote, before: Ledger | None = None) -> None:
        self.root = root
        self.remotes = remotes
        self.used: set[tuple[str, str]] = set()  # stage and key of all entries that were read or made
        self._opened = False
        self._ledger = Ledger(root)
        self._before = before

    @property
    def ledger(self) -> Ledger:
        """The verdict ledger, which lives in the store and is never pruned."""
        with self.writing():
            self._open()
        if self._before:
            self._ledger.merge(self._before)
            self._before = None
        return self._ledger

    def json(self, stage: str, key: str, make: Callable[[], Any], rebuild: bool = False) -> Any:
        """Return the plain value under ``key``, made and kept if it is not there."""

        def write(folder: Path) -> None:
            value = json.dumps(make())
            with self.writing(len(value)):
                (folder / VALUE).write_text(value, encoding="utf-8")

        return json.loads((self.folder(stage, key, write, rebuild) / VALUE).read_text(encoding="utf-8"))

    def folder(self, stage: str, key: str, make: Callable[[Path], None], rebuild: bool = False) -> Path:
        """Return the folder under ``key``; ``make`` fills it if it is not there.

        Only one process makes an entry; others wait for it. With ``rebuild`` an entry is made
        anew and takes the old one's place.

        Raises:
            EngineError: the disk is full, or the store cannot be written.
        """
        path = self.root / stage / key
        old = _inode(path) if rebuild else None
        if self._serves(path, old) or (not rebuild and self._pulled(path)):
            self._use(path)
            return path
        self._use(path)
        with self.lock(stage, key):
            if not self._serves(path, old):  # another process may have made it while this one waited
                self._make(path, make, old)
                self._push(path, anew=rebuild)
        return path

    def add(self, stage: str, group: str, make: Callable[[Path], None]) -> str:
        """Make one more entry of a group and return its key, which is of its own: no writer waits for another.

        Raises:
            EngineError: the disk is full, or the store cannot be written.
        """
        key = f"{group}-{os.urandom(8).hex()}"
        self._make(self.root / stage / key, make)
        self._push(self.root / stage / key)
        self.used.add((stage, key))
        return key

    def group(self, stage: str, group: str, but: Container[str] = ()) -> Iterator[Path]:
        """Yield the folders of a group's valid entries, except those whose keys are in ``but``."""
        keys = {path.name for path in (self.root / stage).glob(f"{group}-*")}
        if stage not in DECIDED:
            keys.update(key for remote in self.remotes for key in remote.keys(stage, group))
        for path in (self.root / stage / key for key in sorted(keys) if key not in but):
            if self._valid(path) or self._pulled(path):
                self._use(path)
                yield path

    def note(self, name: str, change: Callable[[Any], Any]) -> None:
        """Replace what is noted under ``name`` (plain data, None at first); notes are no entries, and never pruned."""
        with self.lock("notes", name), self.writing():
            path = self.root / "notes" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            disk.replace(path, sealed.seal(change(self.noted(name))))

    def noted(self, name: str) -> Any:
        """Return what is noted under ``name``; None where nothing is, or nothing that can be read."""
        try:
            return sealed.unseal((self.root / "notes" / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def has(self, stage: str, key: str) -> bool:
        """Whether a valid entry is there."""
        path = self.root / stage / key
        return self._valid(path) or self._pulled(path)

    @contextmanager
    def unfinished(self, key: str) -> Iterator[Path]:
        """Yield the folder in which what is made under ``key`` may keep how far it has come; no other process has it.

        Raises:
            EngineError: the store cannot be written.
        """
        with unfinished.held(self.root.resolve() / unfinished.FOLDER, key) as folder:
            yield folder

    @property
    def rested_on(self) -> set[tuple[str, str]]:
        """Stage and key of all that a verdict rests on which is decided now."""
        return {(stage, key) for stage, key in self.used if stage not in PASSING}

    @contextmanager
    def work(self) -> Iterator[Path]:
        """Yield a folder of this disk, which is gone afterwards.

        Raises:
            EngineError: the store cannot be written.
        """
        with self.writing():
            self._open()
            work = Path(tempfile.mkdtemp(prefix=work_name(os.getpid()), dir=self.root))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _use(self, path: Path) -> None:
        """Note that an entry is used, in its manifest's time, so that what nobody uses can be told."""
        self.used.add((path.parent.name, path.name))
        with suppress(OSError):  # it is about to be made; or the store can only be read
            if time.time() - (path / MANIFEST).stat().st_mtime > DAY_SECONDS:
                os.utime(path / MANIFEST)

    def _make(self, path: Path, make: Callable[[Path], None], old: int | None = None) -> None:
        with self.work() as work:
            make(work)  # what it raises is no fault of the store
            with self.writing():
                self._publish(work, path, old)

    def _pulled(self, path: Path) -> bool:
        """Take an entry that is not here from a remote, if it is there and whole."""
        if not self.remotes or path.parent.name in DECIDED:
            return False
        with self.work() as work:
            found = any(remote.pull(path.parent.name, path.name, work) for remote in self.remotes)
            if found:
                with self.writing():
                    self._publish(work, path, None)
        return found

    def _push(self, path: Path, anew: bool = False) -> None:
        if path.parent.name not in DECIDED:
            for remote in self.remotes:
                remote.push(path.parent.name, path.name, path, anew)

    def _publish(self, work: Path, path: Path, old: int | None) -> None:
        """Give a folder its name, unless another process was faster; ``old`` is the inode of what it replaces."""
        files = {p.relative_to(work).as_posix(): digest.of_file(p) for p in work.rglob("*") if p.is_file()}
        for name in files:
            disk.sync(work / name)
        (work / MANIFEST).write_text(json.dumps(files, indent=1, sort_keys=True))
        disk.sync(work / MANIFEST)
        path.parent.mkdir(exist_ok=True)
        work.chmod(0o755)
        while not disk.renamed(work, path):
            with suppress(FileNotFoundError), disk.opened(path) as found:  # which stays itself if the name is another's
                if self._serves(path, old):
                    return
                whole = self._valid(path)
                aside = self._set_aside(path.name, found)  # damaged, or to be rebuilt: never served again
                if whole:
                    shutil.rmtree(aside, ignore_errors=True)

    def _set_aside(self, key: str, found: int) -> Path:
        """Empty a folder: a rename takes an empty one's place, so that no valid entry ever goes without its name."""
        quarantine = self.root / QUARANTINE
        quarantine.mkdir(exist_ok=True)
        for oldest in sorted(quarantine.iterdir(), key=unfinished.touched)[: 1 - KEPT_ASIDE]:
            shutil.rmtree(oldest, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{key[:12]}-", dir=quarantine))
        for name in os.listdir(found):  # of a handle, which no path is
            with suppress(FileNotFoundError):  # another process moves them, too
                os.rename(name, aside / name, src_dir_fd=found)
        return aside

    def _open(self) -> None:
        """Make the folder, once, and clear what killed runs left half made."""
        if self._opened:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        for name, text in ((TAG_FILE, TAG), (".gitignore", "*\n")):
            if not (self.root / name).exists():
                (self.root / name).write_text(text)
        for work in self.root.glob(f"{WORK}{unfinished.HOST}-*-*"):
            if not unfinished.is_alive(int(work.name.split("-")[2])):
                shutil.rmtree(work, ignore_errors=True)
        self._opened = True

    def _serves(self, path: Path, but: int | None = None) -> bool:
        """Whether a valid entry is there, and not the one with the inode ``but``."""
        return _inode(path) != but and self._valid(path)

    def _valid(self, path: Path) -> bool:
        try:
            files = json.loads((path / MANIFEST).read_text())
            return bool(files) and all(digest.of_file(path / name) == sha for name, sha in files.items())
        except (OSError, ValueError, AttributeError):
            return False

    @contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """Let one process at a time make what belongs to ``key``; one that dies frees it.

        Raises:
            EngineError: the store cannot be written.
        """
        from filelock import FileLock  # 0.05 s to import, and a run of hits never needs it

        with self.writing():
            self._open()
            (self.root / "locks").mkdir(exist_ok=True)
            # Not the fallback by files that exist: those of a machine that is gone would lock forever.
            lock = FileLock(self.root / "locks" / f"{stage}-{key}", fallback_to_soft=False)
            try:
                lock.acquire()
            except OSError as error:
                if error.errno not in LOCKLESS:
                    raise
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self, need: int = BLOCK) -> Iterator[None]:
        """Say of what the disk refuses that it is the store's.

        Args:
            need: how many bytes are written at least.

        Raises:
            EngineError: the disk is full, or the store cannot be written.
        """
        try:
            yield
        except OSError as error:
            said = disk.lacks(self.root, need) if error.errno in FULL else ""
            raise EngineError(f"store {self.root}: {said or error.strerror or error}; see --finetune-store") from error


def is_writable(root: Path) -> bool:
    """Whether a store can be made, or written, in a folder."""
    above = next(place for place in (root, *root.parents) if place.exists())
    return os.access(above, os.W_OK)


def borrow(root: Path, folder: Path) -> None:
    """Make a folder a store's that knows the attempts and the notes of one which can only be read."""
    folder.mkdir()
    for known in (*root.glob(LEDGER), *root.glob("notes")):
        disk.copy(known, folder / known.name)
    for known in root.glob(f"{BEFORE}*"):
        shutil.copyfile(known, folder / known.name)


def work_name(pid: int) -> str:
    """Return what the names of a process's unfinished folders begin with; of other machines we know no processes."""
    return f"{WORK}{unfinished.HOST}-{pid}-"


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
