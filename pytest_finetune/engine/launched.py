"""One rank of a training run, as a launcher starts it: ``python -m pytest_finetune.engine.launched JOB``."""

import json
import os
import stat
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from pytest_finetune.engine.launcher import Job
from pytest_finetune.engine.worker import _Bitsandbytes
from pytest_finetune.errors import FinetuneError, SuiteError
from pytest_finetune.lifeline import end_with
from pytest_finetune.protocol import Progress
from pytest_finetune.records import from_plain, to_plain


def main() -> None:
    """Train as one rank among those there are; the first writes what there is to say."""
    file = Path(sys.argv[1])
    job = from_plain(Job, json.loads(file.read_text(encoding="utf-8")))
    if stat.S_ISFIFO(os.fstat(0).st_mode):  # the engine's; launchers on other nodes may give any other thing
        _end_with_the_engine()
    _Bitsandbytes().serves([job.spec])  # hides it where it is not needed
    from pytest_finetune.engine.train import Smaller  # which imports all that takes seconds

    try:
        _train(job, file.parent)
    except Smaller as smaller:
        _note(file.parent, smaller.micro, "", "")
    except FinetuneError as error:
        _note(file.parent, 0, type(error).__name__, str(error))
    except Exception as error:
        traceback.print_exc()
        from pytest_finetune.engine import mishaps

        _note(file.parent, 0, "EngineError" if mishaps.is_lost(error) else "", str(mishaps.named(error)))


def _train(job: Job, own: Path) -> None:
    import torch.distributed as dist
    import transformers
    from accelerate import PartialState  # type: ignore[import-untyped]  # it ships no types

    from pytest_finetune.engine import ranks
    from pytest_finetune.engine.train import train

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    state = PartialState(cpu=job.device == "cpu")
    said = int(os.environ.get("WORLD_SIZE", "1"))
    came, wanted = ranks.count(), job.processes or said
    if not came == said == wanted:  # `accelerate launch --cpu --num_processes 2` starts one, and says nothing
        raise SuiteError(
            f"--finetune-launcher={job.launcher!r}: it was to start {wanted} processes, and {came} came together; "
            f"take torchrun --nproc-per-node {wanted}, or mend its config"
        )

    def report(progress: Progress) -> None:
        if ranks.first():
            with (own / "progress").open("a", encoding="utf-8") as told:
                told.write(json.dumps(to_plain(progress)) + "\n")

    curve = train(job.spec, Path(job.folder), Path(job.kept), state.device, report, job.micro)
    if ranks.first():
        (own / "curve.json").write_text(json.dumps(to_plain(curve)), encoding="utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


def _note(own: Path, micro: int, kind: str, message: str) -> None:
    """Say what went wrong, whole or not at all, and end."""
    said: dict[str, Any] = {"micro": micro, "kind": kind, "message": message, "seconds": time.time()}
    said["known"] = bool(micro or kind)
    file = own / f"fault-{os.environ.get('RANK', '0')}.json"
    half = file.with_suffix(".half")
    half.write_text(json.dumps(said), encoding="utf-8")
    half.replace(file)
    os._exit(1)  # at once: to take leave of the others would be to wait for them


def _end_with_the_engine() -> None:
    """End when stdin does: the engine is gone, however it went, and nobody waits for this run."""
    if sys.platform == "linux":
        end_with(0)
    else:
        threading.Thread(target=_read, daemon=True).start()


def _read() -> None:
    while os.read(0, 1024):  # a buffer of Python's would be locked when this process ends before
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
