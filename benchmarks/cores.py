"""What the engine's defaults on a CPU are worth here: waiting threads that give their cores away, and float32.

    python -m benchmarks.cores [--out FILE]

The same training in an engine process of its own, with threads that wait asleep (the default) and
spinning, alone and beside as many busy processes as there are cores; and a pass of the same model in
float32 and bfloat16. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import race
from benchmarks.memory import measured, random_llama, spec_of

POINT = (8, 200, 8)  # rows at once, tokens about, dev rows
ROUNDS = 3
POLICY = "OMP_WAIT_POLICY"


def busy() -> None:
    """Use a core until killed."""
    while True:
        pass


@contextlib.contextmanager
def company(count: int) -> Iterator[None]:
    """Run so many busy processes meanwhile."""
    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()


def training_seconds(model: Path, policy: str) -> float:
    """Return what a short training takes."""
    os.environ[POLICY] = policy
    spec, _ = spec_of(model, "lora", POINT)
    return statistics.median(measured(spec).seconds for _ in range(ROUNDS))


def pass_seconds(model: Path) -> dict[str, float]:
    """Return what a pass over eight rows takes, by dtype."""
    import torch
    import transformers

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        ids = torch.randint(5, 1000, (8, 200))
        times = []
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            with torch.inference_mode():
                network(ids, logits_to_keep=1)
            times.append(time.perf_counter() - started)
        found[str(dtype).removeprefix("torch.")] = statistics.median(times[1:])
    return found


def report(model: Path) -> Iterator[str]:
    """Yield the report's lines, measured as it goes."""
    cores = len(os.sched_getaffinity(0))
    yield "# Cores: threads that wait, and dtypes\n"
    yield f"`python -m benchmarks.cores`, {cores} cores; a Llama of 59 M random weights, LoRA, medians of {ROUNDS}.\n"
    yield "| training, seconds | waiting asleep | spinning | spinning ÷ asleep |"
    yield "| --- | --- | --- | --- |"
    for others in (0, cores):
        with company(others):
            asleep, spinning = (training_seconds(model, policy) for policy in ("PASSIVE", "ACTIVE"))
        where = f"beside {others} busy processes" if others else "alone"
        yield f"| {where} | {asleep:.1f} | {spinning:.1f} | {spinning / asleep:.2f} |"
    seconds = pass_seconds(model)
    ratio = seconds["bfloat16"] / seconds["float32"]
    both = " and ".join(f"{value:.2f} s in {dtype}" for dtype, value in seconds.items())
    yield f"\nA pass of 8 rows of 200 tokens takes {both}, {ratio:.2f} times as much."


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the report here, too")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        race.tell(report(random_llama(Path(folder))), out)


if __name__ == "__main__":
    main()
