"""Executors: who runs cells, and what a run that has one does before its tests."""

from collections.abc import Callable, Sequence
from typing import Protocol

from pytest_finetune.cells import cell as cells
from pytest_finetune.cells import result
from pytest_finetune.cells.cell import Cell
from pytest_finetune.cells.run import Places
from pytest_finetune.protocol import Progress
from pytest_finetune.session import FinetuneSession
from pytest_finetune.store import RESULTS

Told = Callable[[Cell, str], None]


class Executor(Protocol):
    """Runs cells on one machine or many; a variation is a file each."""

    def run(self, cells: Sequence[Cell], places: Places, told: Told) -> None:
        """Run cells until each has a result in ``places.results``, or failed.

        Args:
            cells: those without a result.
            places: where.
            told: told of each cell that is done, and why it failed, or nothing.

        Raises:
            SuiteError: the machines cannot be reached, or are of another version.
        """


def chosen(name: str, gpus: int) -> Executor:
    """Return the executor of a name that was checked.

    Args:
        name: ``local:N`` or ``ray``, ``ray://HOST:PORT``.
        gpus: that each cell needs.
    """
    kind, _, rest = name.partition(":")
    if kind == "local":
        from pytest_finetune.cells.local import LocalExecutor

        return LocalExecutor(int(rest or 1), gpus)
    from pytest_finetune.cells.ray import RayExecutor  # which imports ray when it runs

    return RayExecutor(name if rest else "", gpus)


def fill(session: FinetuneSession) -> None:
    """Have all cells of a run made, and take what they made into its store; from then on no engine is asked.

    What a failed cell should have made is an error where a test needs it.

    Raises:
        SuiteError: the machines cannot be reached.
        EngineError: the store cannot be written.
    """
    options = session.options
    store = session.store.root
    places = Places(session.config.rootpath, store, store / RESULTS, options.passed)
    planned = cells.planned(session)
    missing = [cell for cell in planned if not result.found(places.results, cell)]
    failed: dict[str, str] = {}
    done = len(planned) - len(missing)

    def told(cell: Cell, error: str) -> None:
        nonlocal done
        done += 1
        if error:
            failed[cell.title] = error
        session.progress.show("cells", Progress(options.executor, done, len(planned), cell.title))

    if missing:
        needs_gpu = options.device != "cpu" or any("gpu" in p.spec.requires for p in session.pipelines.values())
        chosen(options.executor, int(needs_gpu)).run(missing, places, told)
    for cell in planned:
        if made := result.found(places.results, cell):
            result.adopt(session.store, places.results / cell.result)
            failed |= {cell.title: made.problem} if made.problem else {}
    session.filled = "no cell made what is asked for now; what a test asks must not depend on seed or machine"
    if failed:
        names = ", ".join(list(failed)[:5])
        session.filled = f"{len(failed)} of {len(planned)} cells failed ({names}): {next(iter(failed.values()))}"
