"""A release: a folder called by its adapter's digest, with the model card, the run and the sums of all files."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pytest_finetune import digest
from pytest_finetune.digest import SHIPPED
from pytest_finetune.disk import sync
from pytest_finetune.errors import SuiteError
from pytest_finetune.methods import PROMPT
from pytest_finetune.pipeline import PROMPT_FILE
from pytest_finetune.records import Adapter

SUMS, CARD, RUN = "SHA256SUMS", "README.md", "run.json"


def patterns(adapter: Adapter) -> tuple[str, ...]:
    """Return which files of an adapter's folder ship."""
    return (PROMPT_FILE,) if adapter.method == PROMPT else SHIPPED


def check_judged(adapter: Adapter, source: Path) -> None:
    """Refuse a folder that does not hold the bytes that were judged.

    Raises:
        SuiteError: it does not, or is gone.
    """
    if digest.of_files(source, patterns(adapter)) != adapter.digest:
        raise SuiteError(f"{source}: does not hold the adapter that was judged; judge it again")


def write(target: Path, adapter: Adapter, source: Path, texts: Mapping[str, str]) -> None:
    """Write a new release at once: whoever lists releases never sees half of one.

    Args:
        target: where it appears; only one process writes there at a time.
        adapter: what ships.
        source: the folder that holds it.
        texts: the other files, by name.

    Raises:
        SuiteError: the adapter is not the one that was judged, or nothing can be written there.
    """
    with _appearing(target) as work:
        for pattern in patterns(adapter):
            for path in source.glob(pattern):
                shutil.copyfile(path, work / path.name)
        check_judged(adapter, work)  # and not the source, which may change meanwhile
        for name, text in texts.items():
            (work / name).write_text(text, encoding="utf-8")
        sums = [f"{digest.of_file(path)}  {path.name}\n" for path in sorted(work.iterdir())]
        (work / SUMS).write_text("".join(sums), encoding="utf-8")


def copy(release: Path, target: Path, adapter: Adapter) -> None:
    """Copy a release to a new folder, at once; one that holds the same adapter's already stays as it is.

    Raises:
        SuiteError: there is something else, or nothing can be written there.
    """
    check(release)
    if target.exists():
        if digest.of_files(target, patterns(adapter)) != adapter.digest:
            raise SuiteError(f"{target}: there is something else already; name a new folder")
        check(target)
        return
    with _appearing(target) as work:
        for path in release.iterdir():
            shutil.copyfile(path, work / path.name)
        check(work)


def check(release: Path) -> None:
    """Refuse a release that is not, to the byte, what was written.

    Raises:
        SuiteError: naming the first file that differs.
    """
    try:
        lines = (release / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: told for told, _, name in (line.partition("  ") for line in lines)}
        names = {path.name for path in release.iterdir()} - {SUMS}
        differing = {name for name in names | sums.keys() if name not in names or name not in sums}
        differing |= {name for name, told in sums.items() if name in names and digest.of_file(release / name) != told}
    except (OSError, UnicodeDecodeError):
        raise SuiteError(f"{release}: is no release; {SUMS} cannot be read") from None
    if differing:
        raise SuiteError(f"{release}: is damaged: {min(differing)} is not as in {SUMS}; move the folder away")


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Yield a folder to fill, which then appears as ``target`` with all that is in it."""
    work = target.parent / f".{target.name}.half"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        work.mkdir()
        yield work
        for path in (*work.iterdir(), work):
            sync(path)
        work.rename(target)
        sync(target.parent)
    except OSError as error:
        raise SuiteError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
