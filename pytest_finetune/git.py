"""Git: what a commit holds, and what the working tree holds now, by the digests that git names files by."""

import os
import posixpath
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from pytest_finetune.errors import SuiteError

LINK = "120000"  # git's mode of a symbolic link
LINKS = 40  # followed one after the other, as many as Linux does
# Nothing that a pull request can bring along is run: no hook, no monitor, no driver of a diff.
COMMAND = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-replace-objects", "--no-pager")


class Repository:
    """A working tree beside one of its commits. Paths are relative to the top of the repository, in POSIX form.

    Args:
        folder: in the working tree.
        ref: names the commit.
        option: what ``ref`` was given by, for messages.

    Raises:
        SuiteError: there is no git, no repository, or no such commit in it.
    """

    def __init__(self, folder: Path, ref: str, option: str) -> None:
        self.option = option
        self.top = folder
        self.top = Path(os.fsdecode(self._git("rev-parse", "--show-toplevel").rstrip(b"\n")))
        if not ref or ref.startswith("-"):  # which git would take for an option
            raise SuiteError(f"{option}: name a branch, a tag or a commit")
        try:
            self.commit = self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").decode().strip()
        except SuiteError:
            raise SuiteError(
                f"{option}: no such commit here; fetch it (git fetch origin BRANCH; actions/checkout: fetch-depth: 0)"
            ) from None

    @cached_property
    def _entries(self) -> dict[str, tuple[str, str]]:
        """By path the mode and digest of everything in the commit."""
        entries = {}
        for entry in _lines(self._git("ls-tree", "-r", "-z", "--full-tree", self.commit)):
            about, _, path = entry.partition("\t")
            mode, _, name = about.split()
            entries[path] = (mode, name)
        return entries

    @cached_property
    def then(self) -> "Tree":
        """The files of the commit."""
        links = {
            path: self._git("cat-file", "blob", name) for path, (mode, name) in self._entries.items() if mode == LINK
        }
        return Tree(self._entries, {path: os.fsdecode(target) for path, target in links.items()})

    @cached_property
    def now(self) -> "Tree":
        """The files of the working tree that git knows, or would add."""
        listed = _lines(self._git("ls-files", "-z", "--cached", "--others", "--exclude-standard"))
        paths = [path for path in dict.fromkeys(listed) if os.path.lexists(self.top / path)]
        links = {path: str((self.top / path).readlink()) for path in paths if (self.top / path).is_symlink()}
        return Tree(paths, links)

    @cached_property
    def tracked(self) -> frozenset[str]:
        """The files that the commit holds, or that are in the index now."""
        return frozenset(_lines(self._git("ls-files", "-z", "--cached"))) | self._entries.keys()

    @cached_property
    def _differing(self) -> dict[str, str]:
        """By path the digests now of the commit's files that git does not see at a glance to be unchanged."""
        options = ("-z", "--name-only", "--no-renames", "--ignore-submodules=dirty")
        listed = _lines(self._git("diff-index", *options, self.commit, "--"))
        return self._hashed([path for path in listed if path in self.now.paths])

    def digests_then(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the digests of files of the commit."""
        return {path: self._entries[path][1] for path in paths}

    def digests_now(self, paths: Collection[str]) -> dict[str, str]:
        """Return the digests that files of the working tree would have in a commit: filters such as Git LFS apply."""
        known = self.digests_then(self._entries.keys() & paths) | self._differing
        return self._hashed([path for path in paths if path not in known]) | {p: known[p] for p in paths if p in known}

    def _hashed(self, paths: Sequence[str]) -> dict[str, str]:
        files = [path for path in paths if (self.top / path).is_file() and "\n" not in path]
        if not files:
            return dict.fromkeys(paths, "changed")
        said = self._git("hash-object", "--stdin-paths", told=os.fsencode("".join(f"{path}\n" for path in files)))
        # What is no plain file here (a submodule at another commit) is never what it was.
        return {**dict.fromkeys(paths, "changed"), **dict(zip(files, said.decode().split(), strict=True))}

    def read(self, path: str) -> bytes:
        """Return the content of a file of the commit."""
        return self._git("cat-file", "blob", self._entries[path][1])

    def _git(self, *arguments: str, told: bytes = b"") -> bytes:
        # GIT_DIR and the like, which a hook sets, would name another repository than the folder's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
        command = [*COMMAND, "-C", str(self.top), *arguments]
        try:
            done = subprocess.run(command, input=told, capture_output=True, env=environment, check=False)
        except OSError as error:
            raise SuiteError(f"{self.option}: git cannot be run ({error.strerror}); install it") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise SuiteError(f"{self.option}: git in {self.top}: {said[0][:300]}")
        return done.stdout


class Tree:
    """The paths of files, and what the symbolic links among them lead to."""

    def __init__(self, paths: Iterable[str], links: Mapping[str, str]) -> None:
        self.paths, self._links = frozenset(paths), links
        self._sorted = sorted(self.paths)

    def find(self, path: str) -> list[str]:
        """Return the files that a path, relative to the top, stands for: itself, those below it, those of a pattern."""
        path = self._followed(posixpath.normpath(path))
        for holder in (path, *map(str, PurePosixPath(path).parents)):
            if holder in self.paths:  # the file itself, or the submodule that it stands in
                return [holder]
        if "*" in path:
            return [name for name in self._sorted if _matches(name, path)]
        return list(dict.fromkeys(self.reached(path)))

    def below(self, folder: str) -> Iterator[str]:
        """Yield the files below a folder; ``.`` is the top."""
        start = "" if folder == "." else f"{folder}/"
        return (path for path in self._sorted if path.startswith(start))

    def reached(self, folder: str) -> Iterator[str]:
        """Yield the files below a folder, and those that links among them lead to."""
        folders, seen = [folder], set[str]()
        while folders:
            place = folders.pop()
            if place in seen:  # links may lead in a circle
                continue
            seen.add(place)
            for path in self.below(place):
                yield path
                if path in self._links:
                    target = self._followed(path)
                    if target in self.paths:
                        yield target
                    else:
                        folders.append(target)

    def _followed(self, path: str) -> str:
        for _ in range(LINKS):
            parts = (path, *map(str, PurePosixPath(path).parents))
            link = next((part for part in parts if part in self._links), None)
            if link is None:
                break
            target = posixpath.join(posixpath.dirname(link), self._links[link])
            path = posixpath.normpath(target + path[len(link) :])
        return path


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern covers a path; a star crosses folders, which finds more rather than less."""
    return re.fullmatch(".*".join(map(re.escape, re.split(r"\*+", pattern))), path, re.DOTALL) is not None


def _lines(listed: bytes) -> list[str]:
    return [os.fsdecode(path) for path in listed.split(b"\0") if path]
