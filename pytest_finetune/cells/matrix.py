"""The job matrix of GitHub Actions: a cell a suite, which a workflow runs each on a machine of its own."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pytest_finetune import suite
from pytest_finetune.cells.cell import NAME, Cell
from pytest_finetune.errors import SuiteError, shortened
from pytest_finetune.session import FinetuneSession


def planned(matrix: Path) -> tuple[Cell, ...]:
    """Read the cells that `--finetune-matrix` wrote.

    Raises:
        SuiteError: the file is missing, or no matrix.
    """
    try:
        raw = json.loads(matrix.read_text(encoding="utf-8"))
        cells = tuple(Cell(str(entry["suite"]), str(entry["path"])) for entry in raw["include"])
    except OSError as error:
        raise SuiteError(f"--matrix={matrix}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SuiteError(f"--matrix={matrix}: no matrix; write one with --finetune-plan --finetune-matrix") from error
    for cell in cells:
        if not cell.is_named:
            said = f"{shortened(repr(cell.suite))} in {shortened(repr(cell.path))}"
            raise SuiteError(f"--matrix={matrix}: {said} is no cell that a plan would write")
    return cells


def forgotten(cells: Sequence[Cell], folder: Path) -> tuple[Cell, ...]:
    """Return the suites in a folder that no cell is of.

    Raises:
        SuiteError: there is no such folder.
    """
    if not folder.exists():
        raise SuiteError(f"--suites={folder}: no such file or folder")
    known = {Path(cell.path).resolve() for cell in cells}
    found = (file.parent for file in suite.below(folder) if file.parent.resolve() not in known)
    return tuple(Cell(place.absolute().name, os.path.relpath(place)) for place in found)


def write(matrix: Path, session: FinetuneSession) -> None:
    """Write a cell for every suite of a run, also of those that this machine cannot run, as a job matrix.

    Raises:
        SuiteError: two suites have one name, which their evidence is called by; a name that no folder can have.
    """
    cells: dict[str, str] = {}
    for pipeline in session.pipelines.values():
        spec = pipeline.spec
        if spec.name in cells or not re.fullmatch(NAME, spec.name):
            problem = "is another suite's, too" if spec.name in cells else "must be of letters, digits, _, . and -"
            raise SuiteError(f"{spec.file}: name = {spec.name!r} {problem}: evidence is kept in folders so called")
        cells[spec.name] = Path(os.path.relpath(spec.folder, session.config.rootpath)).as_posix()
    include = [{"suite": name, "path": path} for name, path in cells.items()]
    try:
        matrix.write_text(json.dumps({"include": include}) + "\n", encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"--finetune-matrix={matrix}: cannot be written: {error.strerror}") from None
