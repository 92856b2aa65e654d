"""Results: what a cell leaves, as a folder that any machine can judge from; and many of them as one."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_finetune import disk, evidence
from pytest_finetune.cells.cell import Cell
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.outcomes import ORDER, worst
from pytest_finetune.records import RunRecord, TestRecord, from_json, to_plain
from pytest_finetune.remote import MANIFEST
from pytest_finetune.report import run_json
from pytest_finetune.store import TAG_FILE, Store

FILE = "result.json"  # written last: where it is, the result is whole


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a cell; ``problem`` is what kept its tests from passing, in one line."""

    cell: Cell
    seconds: float
    problem: str = ""


def write(folder: Path, result: Result) -> None:
    """Write what came of a cell beside its evidence."""
    (folder / FILE).write_text(json.dumps(to_plain(result), indent=1) + "\n", encoding="utf-8")


def found(results: Path, cell: Cell) -> Result | None:
    """Return the result of a cell in a folder of them; None where there is none, or one that cannot be read."""
    try:
        result = from_json(Result, (results / cell.result / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return result if result.cell == cell else None


def of_all(results: Sequence[Path], cells: Sequence[Cell]) -> dict[Cell, Path]:
    """Return the folder of each cell's result, of which none may be missing.

    Raises:
        SuiteError: naming those that are, and how to have them.
    """
    places = {cell: folder / cell.result for cell in cells for folder in results if found(folder, cell)}
    missing = [cell for cell in cells if cell not in places]
    if missing:
        names = ", ".join(cell.title for cell in missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise SuiteError(
            f"{results[0]}: no result of {len(missing)} of {len(cells)} cells: {names}; run each, as in "
            f"pytest-finetune run-cell CELLS/{missing[0].title}.json --results {results[0]}"
        )
    return places


def adopt(store: Store, folder: Path) -> None:
    """Take a result's entries into a store, those that it lacks.

    Raises:
        EngineError: the store cannot be written, or an entry is damaged.
    """
    for entry in sorted(folder.glob(f"*/*/{MANIFEST}")):
        stage, key = entry.parent.parent.name, entry.parent.name

        def copied(work: Path, source: Path = entry.parent) -> None:
            with store.writing():
                shutil.copytree(source, work, copy_function=disk.linked, dirs_exist_ok=True, ignore=_but_manifest)

        if not Store(folder).has(stage, key):
            raise EngineError(f"{entry.parent}: a file of it is damaged; run its cell again")
        store.folder(stage, key, copied)


def check_made(cell: Cell, made: evidence.Made) -> None:
    """Refuse what was made with other options than the plan's: it is what nobody asked for.

    Raises:
        SuiteError: it was.
    """
    if made.options != cell.made_with:
        said = ", ".join(f"--finetune-{name}={value or 'not given'}" for name, value in made.options.items())
        raise SuiteError(f"cell {cell.title} was made with {said}, and not as planned; run it without PYTEST_ADDOPTS")


def unite(results: Mapping[Cell, Path], cells: Sequence[Cell], folder: Path) -> None:
    """Make one folder of evidence of the results of one recipe.

    Args:
        results: where each result is.
        cells: those of the recipe.
        folder: a new one.

    Raises:
        SuiteError: they were made on different devices, with other options than planned, or by different versions.
        EngineError: an entry is damaged, or the folder cannot be written.
    """
    places = [results[cell] for cell in cells]
    made = [evidence.read(place) for place in places]
    for cell, one in zip(cells, made, strict=True):
        check_made(cell, one)
        if (one.device, one.libraries, one.code) != (made[0].device, made[0].libraries, made[0].code):
            raise SuiteError(
                f"cell {cell.title} was made on {one.device}, {cells[0].title} on {made[0].device}, or with "
                "other versions; run all cells of a recipe on machines alike"
            )
    store = Store(folder)
    for place in places:
        adopt(store, place)
    options = {**made[0].options, "seeds": str(cells[0].seeds)}
    told = [run_json.read(place / evidence.RUN) for place in places]
    shutil.copyfile(places[0] / TAG_FILE, folder / TAG_FILE)
    outcome = worst(run.outcome for run in told)
    run_json.write(replace(told[0], outcome=outcome, tests=_worst(told)), folder / evidence.RUN)
    (folder / evidence.NOTE).write_text(json.dumps(to_plain(replace(made[0], options=options))), encoding="utf-8")


def unpack(archive: bytes, results: Path, cell: Cell) -> None:
    """Put a result that came as an archive of :func:`pack` where results are."""
    import io
    import tarfile

    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=results) as work:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(work, filter="data")
        publish(Path(work), results, cell)


def pack(folder: Path) -> bytes:
    """Return a result as an archive."""
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(folder, arcname=".")
    return stream.getvalue()


def publish(work: Path, results: Path, cell: Cell) -> None:
    """Move a finished result to its place; where another was finished first, that one stays."""
    target = results / cell.result
    if found(results, cell):
        return
    shutil.rmtree(target, ignore_errors=True)  # half a result, of a killed copy
    work.chmod(0o755)
    try:
        taken = _moved(work, target)
    except OSError as error:
        raise EngineError(f"{target}: {error.strerror or error}") from error
    if not taken and not found(results, cell):
        raise EngineError(f"{target}: holds something that is no result; move it away, or name other --results")


def _moved(work: Path, target: Path) -> bool:
    """Move a result to where nothing is; never into what another process put there meanwhile."""
    try:
        return disk.renamed(work, target)
    except OSError:  # as on a mounted bucket, which renames no folder
        if target.exists():
            raise
        shutil.copytree(work, target, ignore=lambda place, _: [FILE] if place == str(work) else [])
        shutil.copyfile(work / FILE, target / FILE)  # last
        return True


def _worst(runs: Iterable[RunRecord]) -> tuple[TestRecord, ...]:
    """Return the tests of several runs, each as bad as its worst."""
    tests: dict[str, TestRecord] = {}
    for test in (test for run in runs for test in run.tests):
        known = tests.get(test.name)
        if known is None or _badness(test) > _badness(known):
            tests[test.name] = test
    return tuple(tests.values())


def _badness(test: TestRecord) -> tuple[int, bool]:
    """Return how bad a test is; one that was skipped amid its claims has a message, and must be judged."""
    return ORDER.index(test.outcome), bool(test.message)


def _but_manifest(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == MANIFEST]
