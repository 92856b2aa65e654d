"""Start-up: what the plugin costs a plain run, what an unchanged run takes, and the engine's imports.

    python -m benchmarks.startup --out benchmarks/results/startup.md

Seconds are of this machine; the ratio of plain runs is of runs in alternation.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

from pytest_finetune import digest
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.records import Conversation, Generation, Message, Model, Training, TrainSpec

ROOT = Path(__file__).parents[1]
GENERAL = ("copy", "dates", "reading")
HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "evaluate", "scipy", "pandas", "pyarrow", "numpy")
LABELS = ("billing", "delivery", "returns", "account", "warranty")
RUNS = 15
OTHERS = (
    "hypothesispytest",
    "anyio",
    "xdist",
    "xdist.looponfail",
    "timeout",
)  # import much, and are not asked for here
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *(part for name in OTHERS for part in ("-p", f"no:{name}")))
ENV = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
TRIVIAL = 200
PASSING = "".join(f"def test_{i}():\n    assert True\n\n\n" for i in range(TRIVIAL))
WORDS = [
    *("amber", "basin", "candle", "dancer", "eagle", "fabric", "garden", "harbour", "island", "jacket", "kitchen"),
    *("ladder", "marble", "needle", "orchard", "pencil", "quarry", "ribbon", "saddle", "tunnel", "umbrella", "valley"),
    *("window", "yellow", "zebra", "anchor", "bottle", "copper", "desert", "engine", "feather", "glove"),
]
GATES = """
def test_beats(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)


def test_keeps(gate, adapter, base_model, general):
    gate.keeps(adapter, base_model, on=general)
"""
SUITE = """
model = "embedded"
task = "classification"

[data]
train = "train.jsonl"
heldout = "heldout.jsonl"

[answer]
labels = {labels}

[checks]
sizing = {{ on_issue = "off" }}

[prompts]
serve = "{prompt}"
shots = [0]

[training]
epochs = 0.05
learning_rate = 1e-5

[gate]
margin = 0.0
max_drop = 0.05
guard = 0.2
on_inconclusive = "warn"

[generation]
max_new_tokens = 8
"""


def suite(folder: Path) -> None:
    """Write a suite of 1,000 train, 500 held-out and 3 x 200 general rows, with an instruction of 300 tokens."""
    rng = random.Random(0)
    instruction = "Sort the message: " + ", ".join(" ".join(rng.choices(WORDS, k=4)) for _ in range(24))
    text = SUITE.format(labels=json.dumps(LABELS), prompt=instruction)
    for name, rows in (("train", 1000), ("heldout", 500)):
        (folder / f"{name}.jsonl").write_text("".join(_row(rng) for _ in range(rows)))
    for name in GENERAL:
        lines = (ROOT / f"eval_suites/general/{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:200]))
        text += f'\n[[general]]\ndata = "{name}.jsonl"\n'
    (folder / "suite.toml").write_text(text)
    (folder / "test_gates.py").write_text(GATES)


def _row(rng: random.Random) -> str:
    label = rng.choice(LABELS)
    return json.dumps({"prompt": f"{' '.join(rng.choices(WORDS, k=12))} {label[:4]}", "completion": label}) + "\n"


def plain(folder: Path) -> Iterator[str]:
    """Plain runs of 200 trivial tests, with the plugin and without."""
    (folder / "test_trivial.py").write_text(PASSING)
    taken: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for run in range(RUNS + 1):
        for name, blocked in (("without", ["-p", "no:finetune"]), ("with", [])):
            measured = timed(folder, *blocked)
            if run:  # the first ones write bytecode
                taken[name].append(measured)
    yield "| | without the plugin | with it | ratio of medians | goal |"
    yield "| --- | --- | --- | --- | --- |"
    for number, what in enumerate(("wall", "CPU")):
        without, having = (statistics.median(t[number] for t in taken[name]) for name in ("without", "with"))
        yield f"| {what} seconds | {without:.3f} | {having:.3f} | {having / without:.3f} | 1.03 |"


def unchanged(folder: Path) -> Iterator[str]:
    """A run with --finetune of which nothing has changed."""
    suite(folder)
    cold = timed(folder, "--finetune")
    taken = [timed(folder, "--finetune") for _ in range(5)]
    wall, cpu = (statistics.median(times) for times in zip(*taken, strict=True))
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *PYTEST, "--finetune"],
        cwd=folder,
        capture_output=True,
        text=True,
        env=ENV,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines() if "|" in line}
    yield f"| wall seconds | CPU seconds | goal | of these {', '.join(HEAVY)} it imports |"
    yield "| --- | --- | --- | --- |"
    yield f"| {wall:.2f} | {cpu:.2f} | 1.0 | {', '.join(sorted(loaded & set(HEAVY))) or 'none'} |"
    yield ""
    yield f"The run before it, with an empty store and training cut to 6 steps: {cold[0]:.0f} s."


def lint(folder: Path) -> Iterator[str]:
    """CPU seconds of the pre-commit hook on all example suites, beside the import of numpy."""
    files = [str(path) for path in (ROOT / "eval_suites").rglob("*") if path.suffix in {".toml", ".jsonl", ".csv"}]
    commands = {"lint": ("-m", "pytest_finetune.cli", "lint", *files), "numpy": ("-c", "import numpy")}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            before = _children()
            subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, env=ENV, check=True)
            taken[name].append(_children() - before)
    hook, numpy = (statistics.median(seconds) for seconds in taken.values())
    yield "| files | the hook | import numpy | ratio |"
    yield "| --- | --- | --- | --- |"
    yield f"| {len(files)} | {hook:.2f} | {numpy:.2f} | {hook / numpy:.1f} |"


def engine(folder: Path) -> Iterator[str]:
    """CPU seconds of a new engine process until its first request is answered."""
    yield "| method | until lengths | until an answer | until trained (6 steps of 8 short rows) |"
    yield "| --- | --- | --- | --- |"
    prompts = ((Message("user", "Say hello."),),)
    rows = tuple(Conversation(prompts[0], f"hello {i}") for i in range(48))
    for method in ("lora", "qlora", "soft_prompt", "full"):
        model = Model("embedded", "", str(digest.PACKAGE / "embedded"), quantised=method == "qlora")
        training = Training(method=method, epochs=1, batch_size=8, learning_rate=1e-4)
        spec = TrainSpec(model, training, rows, rows[:8], Generation(), 0)
        taken = []
        for request in ("lengths", "generate", "train"):
            before = _children()
            process = EngineProcess("cpu", lambda progress: None)
            if request == "lengths":
                process.lengths(model, prompts)
            elif request == "generate":
                process.generate(model, None, prompts, Generation(max_new_tokens=4))
            else:
                process.train(spec, tempfile.mkdtemp(dir=folder))
            process.close()
            taken.append(_children() - before)
        yield f"| {method} | " + " | ".join(f"{seconds:.1f}" for seconds in taken) + " |"


def timed(folder: Path, *options: str) -> tuple[float, float]:
    """Return the wall and CPU seconds of one pytest command, its children included."""
    started, before = time.perf_counter(), _children()
    subprocess.run([sys.executable, *PYTEST, *options], cwd=folder, stdout=subprocess.DEVNULL, env=ENV, check=False)
    return time.perf_counter() - started, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the report to this file (else it is printed)")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    options = parser.parse_args()
    lines = [
        "# Start-up",
        "",
        f"python -m benchmarks.startup on {os.cpu_count()} cores, Python {sys.version.split()[0]}, "
        + ", ".join(f"{name} {version(name)}" for name in ("pytest", "torch", "transformers", "peft")),
        "",
        "Other plugins that happen to be installed are off, and bytecode is cached, as after any first run.",
    ]
    for name, measure in PARTS.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "pytest.ini").touch()
                lines += ["", f"## {str(measure.__doc__).rstrip('.')}", "", *measure(Path(folder))]
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


PARTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "plain": plain,
    "unchanged": unchanged,
    "lint": lint,
    "engine": engine,
}


if __name__ == "__main__":
    main()
