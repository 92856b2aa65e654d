"""Cells on a Slurm cluster: a job a cell, by submitit, which queues a cell again whose job was preempted.

    pytest --finetune-plan --finetune-seeds=5 --finetune-cells=cells
    python recipes/cells/slurm.py cells --store /shared/store --results /shared/results --partition gpu
    pytest-finetune merge cells --results /shared/results --store /shared/store

The store and the results lie on storage that all nodes share. It takes `pip install submitit`.
"""

import argparse
import sys
from pathlib import Path

import submitit

from pytest_finetune.cells import cell, result


def main() -> int:
    """Submit the cells that have no result yet, wait for them, and return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--cluster", default="slurm", help="local or debug to try it here")
    parser.add_argument("--partition", default="")
    parser.add_argument("--gpus", type=int, default=1, help="a cell")
    parser.add_argument("--minutes", type=int, default=240, help="a cell")
    parser.add_argument("--at-once", type=int, default=64, help="cells")
    options = parser.parse_args()

    executor = submitit.AutoExecutor(folder=options.results / "slurm", cluster=options.cluster)
    executor.update_parameters(timeout_min=options.minutes, gpus_per_node=options.gpus, name="pytest-finetune")
    if options.cluster == "slurm":
        executor.update_parameters(slurm_array_parallelism=options.at_once, slurm_partition=options.partition or None)
    run_cell = (sys.executable, "-m", "pytest_finetune.cli", "run-cell")
    commands = [
        [*run_cell, str(file), f"--store={options.store}", f"--results={options.results}"]
        for file in sorted(options.cells.glob("*.json"))
        if not result.found(options.results, cell.read(file))
    ]
    with executor.batch():
        jobs = [executor.submit(submitit.helpers.CommandFunction(command)) for command in commands]
    failed = 0
    for job in jobs:
        try:
            job.result()
        except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
            failed += 1
            print(f"job {job.job_id}: {str(error).strip().splitlines()[-1][:300]}")
    print(f"{len(jobs) - failed} of {len(jobs)} cells done")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
