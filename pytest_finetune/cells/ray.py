"""Cells on a Ray cluster: Ray finds the machines, gives each cell its GPU, and runs those of a lost machine again."""

import os
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_finetune.cells import result
from pytest_finetune.cells.cell import Cell
from pytest_finetune.cells.executor import Told
from pytest_finetune.cells.run import Places, run
from pytest_finetune.errors import FinetuneError, SuiteError, one_line
from pytest_finetune.records import from_plain, to_plain
from pytest_finetune.store import RESULTS, TAG_FILE, Store

RETRIES = 3  # of a cell whose machine died
LEFT_OUT = [".git", ".venv", "venv", ".finetune", "__pycache__", "node_modules"]  # of the project, on its way
CONNECT_SECONDS = 10.0
PATIENCE_SECONDS = 5.0  # between two looks at what is done


class RayExecutor:
    """Implements ``executor.Executor``."""

    def __init__(self, address: str, gpus: int) -> None:
        self._address, self._gpus = address, gpus

    def run(self, cells: Sequence[Cell], places: Places, told: Told) -> None:
        """See ``executor.Executor``."""
        ray = self._connected(places)
        try:
            work = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=RETRIES)(_work)
            shared = (str(places.store.resolve()), _mark(places.store))
            waiting = {work.remote(to_plain(cell), *shared, list(places.more)): cell for cell in cells}
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=PATIENCE_SECONDS)
                for done in ready:
                    told(cell := waiting.pop(done), _taken(ray, done, cell, places.results))
        finally:
            ray.shutdown()

    def _connected(self, places: Places) -> Any:
        try:
            import ray
        except ImportError:
            raise SuiteError(
                "--finetune-executor=ray: it is not installed; pip install 'pytest-finetune[ray]'"
            ) from None
        where = self._address or os.environ.get("RAY_ADDRESS", "")
        _check_there(where)
        ends = signal.getsignal(signal.SIGTERM)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that starts here tells nobody
        project = {"working_dir": str(places.project), "excludes": LEFT_OUT}
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            ray.init(address=self._address or None, runtime_env=project, ignore_reinit_error=True, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError, ImportError) as error:
            said = one_line(error, 200)
            wrong = "Version mismatch" in str(error) or "version" in said.lower()
            remedy = f"install ray=={ray.__version__} there, or its version here" if wrong else "is the cluster up?"
            raise SuiteError(f"--finetune-executor={where or 'ray'}: {said}; {remedy}") from None
        finally:
            signal.signal(signal.SIGTERM, ends)  # ray sets its own, which ends the run without a checkpoint
        return ray


def _check_there(address: str) -> None:
    """Refuse an address at which nobody listens: Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise SuiteError(
            f"--finetune-executor={address}: nobody answers there: {error.strerror or error}; is the cluster up?"
        ) from None


def _taken(ray: Any, done: Any, cell: Cell, results: Path) -> str:
    """Take in a result; return why there is none, or nothing."""
    try:
        error, archive = ray.get(done)
    except ray.exceptions.RayError as fault:
        return f"cell {cell.title}: lost {RETRIES + 1} times: {' '.join(str(fault).split())[:200]}"
    if archive:
        result.unpack(archive, results, cell)
    return str(error)


def _mark(store: Path) -> str:
    """Write what a machine that sees this store knows it by, and return it."""
    made: str = Store(store).json("mark", "shared", lambda: os.urandom(16).hex())
    return made


def _work(plain: dict[str, Any], store: str, mark: str, more: list[str]) -> tuple[str, bytes]:
    """Run a cell on a machine of the cluster, in its copy of the project.

    Returns:
        Why it failed, or nothing; and its result as an archive, where the store is not shared.
    """
    cell, here = from_plain(Cell, plain), Path.cwd()
    shared = (Path(store) / TAG_FILE).is_file() and _mark(Path(store)) == mark
    own = Path(store) if shared else here / ".finetune"
    places = Places(here, own, own / RESULTS, more)
    try:
        run(cell, places)
    except FinetuneError as error:
        return str(error), b""
    if shared:
        return "", b""
    archive = result.pack(places.results / cell.result)
    shutil.rmtree(places.results / cell.result, ignore_errors=True)
    return "", archive
