"""The remote: entries of stores at an address that fsspec can read, such as a bucket, for machines that share no disk.

Nothing that it says is trusted but for its digests: what does not match them is not there. When it fails, the
run goes on without it.
"""

import json
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pytest_finetune import digest
from pytest_finetune.errors import StoreWarning, SuiteError

T = TypeVar("T")
MANIFEST = "manifest.json"
FILE = "file://"  # what the address of a folder begins with
INSTALL = "pip install 'pytest-finetune[remote]'"


class Remote:
    """Entries at ``URL/stage/key``, each of which counts once its manifest is there.

    Args:
        url: of any file system that fsspec knows: ``s3://bucket/prefix``, ``gs://``, ``file:///folder``.
        option: that it was given with, for messages.
        takes: whether what is made here is to be uploaded.

    Raises:
        SuiteError: there is no such file system, a library for it is not installed, or it cannot be read.
    """

    def __init__(self, url: str, option: str = "--finetune-remote", takes: bool = True) -> None:
        self.name = f"{option}={re.sub('//[^/@]*@', '//...@', url)}"  # no password is shown
        self._takes = takes
        self._refused = False  # to say what is not there, or must not be seen; told once
        self._gone = False  # it could not be reached, and is asked no more: each time might take minutes
        self._damaged: set[tuple[str, str]] = set()
        self._keys: dict[str, tuple[str, ...]] = {}  # by stage, as they were listed
        try:
            from fsspec.core import url_to_fs

            # What was listed once would hide what others add.
            self._files, root = url_to_fs(url, use_listings_cache=False)
            self._root = root.rstrip("/") or root
        except ImportError as error:
            raise SuiteError(f"{self.name}: {error}; {INSTALL}, or the library that is named") from error
        except ValueError as error:
            raise SuiteError(f"{self.name}: {error}; write s3://bucket/prefix, gs://, or file:///folder") from error
        self._check()

    def pull(self, stage: str, key: str, folder: Path) -> bool:
        """Download an entry into a folder, and return whether it is there and whole."""
        return self._tried(lambda: self._pull(stage, key, folder), False)

    def push(self, stage: str, key: str, folder: Path, anew: bool = False) -> None:
        """Upload an entry, if it is not there, or what is there is damaged, or is to be made ``anew``."""
        if self._takes:
            self._tried(lambda: self._push(stage, key, folder, anew), None)

    def keys(self, stage: str, group: str) -> tuple[str, ...]:
        """Return the keys of a group's entries; what others add in the course of a run is not among them."""
        if stage not in self._keys:
            self._keys[stage] = self._tried(lambda: self._listed(stage), ())
        return tuple(key for key in self._keys[stage] if re.fullmatch(rf"{re.escape(group)}-[0-9a-f]+", key))

    def _check(self) -> None:
        """Find out at once whether it can be read."""
        try:
            self._files.ls(self._root, detail=False)
        except FileNotFoundError as error:
            bucket = self._root.partition("/")[0]  # a folder is made when it is first written, a bucket is not
            if not bucket or (bucket != self._root and self._exists(bucket)):
                return
            raise SuiteError(f"{self.name}: there is no {self._root}; make it, or mend the address") from error
        except Exception as error:  # each file system has exceptions of its own
            said = _line(error)
            raise SuiteError(f"{self.name}: cannot be read: {said}; mend the address or the credentials") from error

    def _exists(self, bucket: str) -> bool:
        with suppress(Exception):
            return bool(self._files.exists(bucket))
        return False

    def _pull(self, stage: str, key: str, folder: Path) -> bool:
        place = f"{self._root}/{stage}/{key}"
        try:
            manifest = self._files.cat_file(f"{place}/{MANIFEST}")
        except FileNotFoundError:
            return False
        if damaged := self._download(place, manifest, folder):
            self._damaged.add((stage, key))
            warn(f"{self.name}: {stage}/{key}/{damaged}: is not what its manifest says; it is made anew")
        return not damaged

    def _download(self, place: str, manifest: bytes, folder: Path) -> str:
        """Download what a manifest lists; return the first file that is damaged, or nothing."""
        try:
            files = {str(name): str(sha) for name, sha in json.loads(manifest).items()}
        except (ValueError, AttributeError):
            return MANIFEST
        for name, sha in files.items():
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts or "\\" in name or name == MANIFEST:
                return MANIFEST
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._files.get_file(f"{place}/{name}", str(target))
            except FileNotFoundError:
                return name
            if digest.of_file(target) != sha:
                return name
        return "" if files else MANIFEST

    def _push(self, stage: str, key: str, folder: Path, anew: bool) -> None:
        place = f"{self._root}/{stage}/{key}"
        if not anew and (stage, key) not in self._damaged and self._files.exists(f"{place}/{MANIFEST}"):
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
        try:
            for file in (*files, folder / MANIFEST):  # which is last: without it the entry is not there
                self._upload(file, f"{place}/{file.relative_to(folder).as_posix()}")
        except Exception as error:  # each file system has its own; whether it can be read is another matter
            self._takes = False
            warn(f"{self.name}: takes nothing ({_line(error)}); what is made here stays here")

    def _upload(self, file: Path, name: str) -> None:
        try:
            self._files.put_file(str(file), name)
        except FileNotFoundError:  # where folders must be made
            self._files.makedirs(name.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(file), name)

    def _listed(self, stage: str) -> tuple[str, ...]:
        with suppress(FileNotFoundError):
            return tuple(name.rstrip("/").rpartition("/")[2] for name in self._files.ls(f"{self._root}/{stage}", False))
        return ()

    def _tried(self, do: Callable[[], T], instead: T) -> T:
        if self._gone:
            return instead
        try:
            return do()
        except PermissionError as error:  # as some answer of what is not there, to who may not list
            if not self._refused:
                self._refused = True
                warn(f"{self.name}: may not be read ({_line(error)})")
        except Exception as error:  # each file system has exceptions of its own
            self._gone = True
            warn(f"{self.name}: failed ({_line(error)}); this run goes on without it")
        return instead


def _line(error: Exception) -> str:
    lines: list[Any] = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def warn(text: str) -> None:
    """Warn of what the run goes on without."""
    with suppress(StoreWarning):  # where warnings are errors: nothing is wrong with the run
        warnings.warn(StoreWarning(text), stacklevel=2)
