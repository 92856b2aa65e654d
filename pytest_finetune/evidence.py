"""Evidence: all that a run's verdicts rest on, as a folder from which they can be judged anew without a model.

It is a store of its own, with the run's record beside it. Whoever judges anew reads the rows, checks them,
scores every stored output and decides every claim itself; only what a model said is taken from here.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from pytest_finetune import digest, disk
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.records import RunRecord, from_json, to_plain
from pytest_finetune.report import run_json
from pytest_finetune.store import DECIDED, TAG_FILE, Store

NOTE, RUN = "evidence.json", "run.json"


@dataclass(frozen=True, slots=True)
class Made:
    """How the outputs were made, which is part of what names them.

    Args:
        device: what the engine ran on.
        memory_bytes: what training could take.
        libraries: versions by name.
        code: digest of this package.
        options: the command line's, which changed what was made.
    """

    device: str
    memory_bytes: int
    libraries: dict[str, str]
    code: str
    options: dict[str, str]


def check_free(folder: Path, option: str = "--finetune-evidence") -> None:
    """Refuse a folder that holds anything, or that cannot be made when hours of work are to go into it.

    Raises:
        SuiteError: it does, it is a file, or it stands where nothing can be written.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise SuiteError(f"{option}={folder}: there is something already; name a new folder")
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise SuiteError(f"{option}={folder}: {above} is no folder that can be written; name another")


def write(folder: Path, store: Store, used: Iterable[tuple[str, str]], made: Made, run: RunRecord) -> None:
    """Write what a run rests on into a new folder.

    Args:
        folder: a new or empty one.
        store: the run's.
        used: stage and key of all entries that the run read or made.
        made: how the outputs were made.
        run: the run's record.

    Raises:
        EngineError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stage, key in sorted(used):
            source = store.root / stage / key
            if stage not in DECIDED and source.is_dir():
                shutil.copytree(source, folder / stage / key, copy_function=disk.linked)
        store.ledger.copy(folder)
        shutil.copyfile(store.root / TAG_FILE, folder / TAG_FILE)
        run_json.write(run, folder / RUN)
        (folder / NOTE).write_text(json.dumps(to_plain(made), indent=1) + "\n", encoding="utf-8")  # last: it is whole
    except OSError as error:
        raise EngineError(f"--finetune-evidence={folder}: {error.strerror or error}") from error


def read(folder: Path) -> Made:
    """Read how the outputs in a folder were made.

    Raises:
        SuiteError: it is no evidence, or of other versions than the ones installed here.
    """
    try:
        made = from_json(Made, (folder / NOTE).read_bytes())
    except (OSError, ValueError) as error:
        raise SuiteError(
            f"--finetune-recompute: {folder} holds no {NOTE} that can be read; name with --finetune-store the folder "
            "that --finetune-evidence wrote"
        ) from error
    for name, version in made.libraries.items():
        try:
            here = digest.versions(name)[name]
        except PackageNotFoundError:
            here = "none"
        if here != version:
            raise SuiteError(
                f"--finetune-recompute: {folder} was made with {name} {version}, and {here} is installed here; "
                f"install {name}=={version}"
            )
    if made.code != digest.of_package():
        raise SuiteError(
            f"--finetune-recompute: {folder} was made by another version of pytest-finetune than is installed here; "
            "install the same one"
        )
    return made
