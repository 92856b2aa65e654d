"""A suite of 100,000 held-out rows: peak memory and CPU seconds of the pytest process, from its files to the verdict.

    python -m benchmarks.many_rows [--rows 100000] [--out FILE]

The engine answers at once and in this process, so that what is measured is all that is not the model: reading and
checking rows, asking and keeping answers, deciding, and explaining. Every row is measured (no early stop).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_finetune import fixtures, suite
from pytest_finetune.claims import Asked, Gate
from pytest_finetune.engines import Capabilities
from pytest_finetune.handles import AdapterHandle
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Adapter, Answers, Generation, Lengths, Model, RunRecord, TrainingCurve, TrainSpec
from pytest_finetune.report import run_json
from pytest_finetune.store import Store

GOAL_GB = 1.0
TRAIN = 5000
LABELS = 20
WORDS = 40  # a row
SUITE = """
model = "embedded"
task = "classification"
data = { train = "train.jsonl", heldout = "heldout.jsonl" }
answer = { labels = [LABELS] }
prompts = { candidates = ["Name the intent of the customer's message: INSTRUCTION"], shots = [0], chat_template = "on" }
"""


class InstantEngine:
    """Answers at once: the adapter rightly, the base model half of the rows."""

    def generate(
        self, model: Model, adapter: Adapter | None, prompts: tuple[Turns, ...], generation: Generation
    ) -> Answers:
        """See ``protocol.Engine``."""
        texts = tuple(_answer(prompt, adapter is not None) for prompt in prompts)
        return Answers(texts, (300,) * len(prompts), (4,) * len(prompts), 0.001)

    def capabilities(self, model: Model) -> Capabilities:
        """See ``protocol.Engine``."""
        return Capabilities()

    def lengths(self, model: Model, prompts: tuple[Turns, ...]) -> Lengths:
        """See ``protocol.Engine``."""
        return Lengths((300,) * len(prompts), 768)

    def train(self, spec: TrainSpec, folder: str) -> TrainingCurve:
        """See ``protocol.Engine``."""
        Path(folder, "adapter_config.json").write_text("{}")
        return TrainingCurve(1, 0.1, 1, 1, ((1, 1.0),), ((1, 1.0),), 1, 1, 1)

    def probe(self, model: Model, adapter: Adapter, prompts: tuple[Turns, ...]) -> float:
        """See ``protocol.Engine``."""
        return 1.0


def _answer(prompt: Turns, trained: bool) -> str:
    number = int(prompt[-1].content.split(maxsplit=1)[0])
    return f"intent {number % LABELS}" if trained or number % 2 else "?"


def _write(file: Path, numbers: range) -> None:
    words = [f"word{i}" for i in range(3000)]
    with file.open("w") as stream:
        for i in numbers:
            draw = random.Random(i)
            prompt = f"{i} {' '.join(draw.choices(words, k=WORDS))}"
            stream.write(json.dumps({"prompt": prompt, "completion": f"intent {i % LABELS}"}) + "\n")


def _run(folder: Path) -> Iterator[tuple[str, float, int]]:
    """Yield what each stage took: its name, CPU seconds, and the peak of the process so far in bytes."""
    engine: Any = InstantEngine()
    spec = suite.load(folder / "suite.toml", folder)
    pipeline = Pipeline(spec, Workplace(Store(folder / ".finetune"), lambda name: engine, early_stop=False))

    def verdict() -> None:
        adapter, baseline = AdapterHandle(pipeline), fixtures.baseline(pipeline)
        Gate(pipeline, Asked("test_beats")).beats(adapter, baseline, on=fixtures.heldout(pipeline))

    def report() -> None:
        run = RunRecord("", "", 0.0, {}, (pipeline.record(),))
        pipeline.stages.keep()
        run_json.write(run, folder / "run.json")

    stages: dict[str, Callable[[], object]] = {
        "rows read and checked": lambda: pipeline.data,
        "baseline found": lambda: pipeline.baseline,
        "adapter made": lambda: pipeline.adapter,
        "two subjects measured, verdict": verdict,
        "explained, reported as JSON": report,
    }
    for name, stage in stages.items():
        started = time.process_time()
        stage()
        yield name, time.process_time() - started, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _report(rows: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = ", ".join(f'"intent {i}"' for i in range(LABELS))
        instruction = " ".join(f"intent {i} is one of them;" for i in range(LABELS))
        (folder / "suite.toml").write_text(SUITE.replace("LABELS", labels).replace("INSTRUCTION", instruction))
        _write(folder / "train.jsonl", range(TRAIN))
        _write(folder / "heldout.jsonl", range(10**6, 10**6 + rows))
        runs = {"cold": _process(folder)}
        _write(folder / "heldout.jsonl", range(10**6, 10**6 + rows + 1))
        runs["one row added"] = _process(folder)
        runs["unchanged"] = _process(folder)
        stored = sum(path.stat().st_size for path in (folder / ".finetune").rglob("*") if path.is_file())
    peak = max(stage[2] for run in runs.values() for stage in run) / 1e9
    yield f"# {rows:,} held-out rows"
    yield ""
    yield f"`python -m benchmarks.many_rows --rows {rows}`, Python {platform.python_version()}, {os.cpu_count()} cores."
    yield f"Peak memory of the pytest process: **{peak:.2f} GB** (goal: {GOAL_GB:g} GB at most), the model apart."
    yield f"Rows of {WORDS} words, {TRAIN:,} train rows, every check at its default, no early stop; the store takes"
    yield f"{stored / 1e6:,.0f} MB after three runs."
    yield ""
    yield from _table(["stage", *(f"{run}: CPU s" for run in runs), *(f"{run}: peak GB so far" for run in runs)])
    for stages in zip(*runs.values(), strict=True):
        seconds, peaks = [f"{took:.1f}" for _, took, _ in stages], [f"{size / 1e9:.2f}" for _, _, size in stages]
        yield f"| {' | '.join([stages[0][0], *seconds, *peaks])} |"
    total = [f"{sum(took for _, took, _ in run):.1f}" for run in runs.values()]
    yield f"| {' | '.join(['all', *total, *('' for _ in runs)])} |"


def _table(head: list[str]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "| --- " * len(head) + "|"


def _process(folder: Path) -> list[tuple[str, float, int]]:
    command = [sys.executable, "-m", "benchmarks.many_rows", "--folder", str(folder)]
    found: list[tuple[str, float, int]] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def main() -> None:
    """Measure a cold run, one with a row more, and one of which nothing changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # a run of its own, in a process of its own
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(list(_run(options.folder))))
        return
    text = "\n".join(_report(options.rows)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
