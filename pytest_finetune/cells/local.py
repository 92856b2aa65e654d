"""Cells on this machine, so many at once."""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from pytest_finetune.cells.cell import Cell
from pytest_finetune.cells.executor import Told
from pytest_finetune.cells.run import Places, run
from pytest_finetune.errors import FinetuneError


class LocalExecutor:
    """Implements ``executor.Executor``; where cells need a GPU, each worker has one to itself."""

    def __init__(self, workers: int, gpus: int) -> None:
        self._workers, self._gpus = workers, gpus

    def run(self, cells: Sequence[Cell], places: Places, told: Told) -> None:
        """See ``executor.Executor``."""
        free: SimpleQueue[int] = SimpleQueue()
        begun: list[subprocess.Popen[str]] = []
        for number in range(self._workers):
            free.put(number)

        def one(cell: Cell) -> None:
            worker, error = free.get(), ""
            try:
                run(cell, places, self._environment(worker), begun=begun.append)
            except FinetuneError as fault:
                error = str(fault)
            finally:
                free.put(worker)
            told(cell, error)

        with ThreadPoolExecutor(self._workers) as threads:
            going = [threads.submit(one, cell) for cell in cells]
            try:
                for done in going:
                    done.result()
            except BaseException:  # Ctrl-C, a cancelled job: cells that are at work write their checkpoints
                threads.shutdown(wait=False, cancel_futures=True)
                for process in begun:
                    process.terminate()
                raise

    def _environment(self, worker: int) -> dict[str, str]:
        if not self._gpus or self._workers == 1:
            cores = max(1, (os.cpu_count() or 1) // self._workers)
            return {} if self._workers == 1 else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return {"CUDA_VISIBLE_DEVICES": visible.split(",")[worker] if visible else str(worker)}
