"""64 cells on one and on two workers: what a cell costs beside its work; and on paper 1,000 cells of 8 B on 64 GPUs.

    python -m benchmarks.scale [--executor local|ray] [--seeds 16] [--out FILE]

Four suites on the embedded model, each by so many seeds, are made by one process, and then as cells by one
worker and by two, each from an empty store and with one thread. Ray's workers are nodes of their own of a cluster
on this machine. What a cell costs beside its work is a worker's time less the one process's, a cell. Run it on an
idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_finetune import memory, speed
from pytest_finetune.memory import Shape
from pytest_finetune.report import file, run_json

SUITES, TRAIN, HELDOUT = 4, 52, 60
WORKERS = (1, 2)
LABELS = ("red", "green", "blue")
SUITE = """
model = "embedded"
task = "classification"
data = { train = "train.jsonl", heldout = "heldout.jsonl" }
prompts = { candidates = ["Name the box."], shots = [0], chat_template = "on" }
training = { learning_rate = 5e-3, epochs = 2, replay = 0 }
generation = { max_new_tokens = 6 }
"""
TEST = "def test_beats(gate, adapter, baseline, heldout):\n    gate.beats(adapter, baseline, on=heldout)\n"
# The paper's model: Llama 3.1 8B, as its config.json and its tensors have it.
LLAMA_8B = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def write_project(folder: Path) -> None:
    """Write the suites."""
    for number in range(SUITES):
        write_suite(folder / f"suite{number}", number)


def write_suite(place: Path, number: int, train: int = TRAIN, heldout: int = HELDOUT) -> None:
    """Write one suite of so many rows, which no other number's shares a row with."""
    place.mkdir(parents=True)
    (place / "suite.toml").write_text(SUITE)
    (place / f"test_{number}.py").write_text(TEST)
    for name, first, count in (("train", 0, train), ("heldout", 1000, heldout)):
        rows = (
            {
                "prompt": f"item {number} {i}: {('apple', 'grass', 'sky')[i % 3]}",
                "completion": f"box {LABELS[i % 3]}",
            }
            for i in range(first, first + count)
        )
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextlib.contextmanager
def workers(executor: str, count: int) -> Iterator[str]:
    """Have so many workers; yield the executor's name."""
    if executor == "local":
        yield f"local:{count}"
        return
    cluster = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ray_cluster", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with cluster:
        assert cluster.stdin
        assert cluster.stdout
        os.environ["RAY_ADDRESS"] = cluster.stdout.readline().strip()
        yield "ray"
        cluster.stdin.close()


def run(folder: Path, seeds: int, name: str, *options: str) -> tuple[float, list[tuple[str, float, float, int]]]:
    """Run all suites from an empty store; return the seconds, and what was decided."""
    report = folder / f"{name}.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:randomly",
        "--finetune",
        f"--finetune-seeds={seeds}",
        *options,
    ]
    command += [f"--finetune-store={folder / name}", f"--finetune-report={report}"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if not report.is_file():
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    record = run_json.read(report)
    claims: list[tuple[str, float, float, int]] = [
        (v.outcome, c.estimate, c.low, c.n) for s in record.suites for v in s.verdicts for c in v.claims
    ]
    if len(claims) != SUITES:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return seconds, claims


def measured(executor: str, seeds: int) -> Iterator[str]:
    """Yield the lines of what was measured."""
    cells = SUITES * seeds
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_project(folder)
        alone, wanted = run(folder, seeds, "one")
        yield f"| one process | {alone:,.0f} | {alone / cells:.2f} | – | – | as below |"
        first = 0.0
        for count in WORKERS:
            with workers(executor, count) as name:
                seconds, found = run(folder, seeds, f"cells{count}", f"--finetune-executor={name}")
            first = first or seconds
            beside = (seconds * count - alone) / cells
            same = "the same" if found == wanted else "OTHER"
            yield (
                f"| {count} worker{'s' * (count > 1)} ({executor}) | {seconds:,.0f} | {seconds * count / cells:.2f} | "
                f"{beside:.2f} | {first / seconds:.2f} | {same} |"
            )
        store = folder / f"cells{WORKERS[-1]}"
        files = [path for path in store.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in {path.stat().st_ino: path for path in files}.values())
        yield ""
        yield f"The store and the results after {cells} cells: {size / 1e6:,.1f} MB in {len(files):,} files."
        again, found = run(
            folder, seeds, f"cells{WORKERS[-1]}", f"--finetune-executor={executor}:2" * (executor == "local")
        )
        yield f"The same run again, of which nothing changed: {again:.1f} s."


def shape_8b() -> Shape:
    """Return the shape of the paper's model."""
    c = LLAMA_8B
    keys = c["hidden_size"] // c["num_attention_heads"] * c["num_key_value_heads"]
    layer = {
        "self_attn.q_proj": (c["hidden_size"], c["hidden_size"]),
        "self_attn.k_proj": (keys, c["hidden_size"]),
        "self_attn.v_proj": (keys, c["hidden_size"]),
        "self_attn.o_proj": (c["hidden_size"], c["hidden_size"]),
        "mlp.gate_proj": (c["intermediate_size"], c["hidden_size"]),
        "mlp.up_proj": (c["intermediate_size"], c["hidden_size"]),
        "mlp.down_proj": (c["hidden_size"], c["intermediate_size"]),
    }
    blocks = range(c["num_hidden_layers"])
    tensors: dict[str, tuple[int, ...]] = {}
    tensors |= {f"model.layers.{i}.{name}.weight": size for i in blocks for name, size in layer.items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = (c["vocab_size"], c["hidden_size"])
    return memory.shape_from(dict(c), tensors)


def paper(o: argparse.Namespace) -> Iterator[str]:
    """Yield the cost of many cells on paper, from numbers that are all said."""
    shape = shape_8b()
    taught = o.train_rows * o.epochs * o.tokens
    asked = (o.heldout_rows + o.general_rows) * o.tokens
    learning = o.teraflops * 1e12 * o.used
    answering = learning / 4
    weights = 2 * shape.parameters
    seconds = {
        f"start: imports, and {weights / 1e9:.0f} GB of weights": o.start_seconds
        + weights / o.gigabytes_a_second / 1e9,
        "the baseline's search": speed.answering_operations(shape.parameters, o.search_rows * o.tokens) / answering,
        f"training, {taught:,} tokens": speed.training_operations(shape.parameters, taught, every_weight=False)
        / learning,
        f"measuring, {asked:,} tokens": speed.answering_operations(shape.parameters, asked) / answering,
    }
    yield "| what | a cell | all |"
    yield "| --- | ---: | ---: |"
    for name, one in seconds.items():
        yield f"| {name} | {one:,.0f} s | {o.cells * one / 3600:,.1f} GPU hours |"
    cell = sum(seconds.values())
    hours = o.cells * cell / 3600
    price = f"{hours:,.1f} GPU hours, {hours / o.gpus:,.1f} h on {o.gpus} GPUs, ${hours * o.dollars:,.0f}"
    yield f"| **together** | {cell:,.0f} s | {price} |"
    adapter = 4 * o.rank * shape.widths
    rows = (o.heldout_rows + o.general_rows) * o.row_bytes
    yield f"| store: an adapter of rank {o.rank} | {adapter / 1e6:,.0f} MB | {o.cells * adapter / 1e9:,.0f} GB |"
    yield f"| store: answers | {rows / 1e6:,.1f} MB | {o.cells * rows / 1e9:,.1f} GB |"
    reading = o.gpus * weights / 1e9
    waiting = reading / o.shared_gigabytes_a_second
    yield ""
    yield (
        f"What saturates first is the storage that weights come from: {o.gpus} cells that start at once read "
        f"{reading:,.0f} GB, {waiting:,.0f} s at {o.shared_gigabytes_a_second:g} GB/s, {waiting / cell:.0%} of a cell; "
        "so keep the weights on each machine's own disk. Results come at "
        f"{o.gpus * (adapter + rows) / cell / 1e6:,.1f} MB/s. Judging is one process without GPU, "
        f"{o.cells * o.judge_seconds / 60:,.0f} minutes. Seeds of one suite search for one baseline, which on a shared "
        "store is done once, and waited for by the others; the table counts it for every cell."
    )


def main() -> None:
    """Measure, reckon, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--out", type=Path)
    paper_of = parser.add_argument_group("on paper")
    for name, default, what in (
        ("cells", 1000, "in all"),
        ("gpus", 64, "at once"),
        ("train-rows", 2000, "a suite"),
        ("epochs", 2, "a cell"),
        ("tokens", 400, "a row"),
        ("heldout-rows", 500, "a suite"),
        ("general-rows", 1000, "a suite"),
        ("search-rows", 1000, "answers of the baseline's search"),
        ("rank", 8, "of the LoRA"),
        ("row-bytes", 600, "of one answer in the store"),
        ("teraflops", 989.0, "of an H100 in bfloat16, NVIDIA's data sheet"),
        ("used", 0.3, "share of them in training; a quarter of it in answering"),
        ("start-seconds", 25.0, "process and imports"),
        ("gigabytes-a-second", 2.0, "of a machine's own disk"),
        ("shared-gigabytes-a-second", 10.0, "of shared storage"),
        ("judge-seconds", 2.0, "a cell, as measured above with more rows"),
        ("dollars", 3.0, "an hour of a GPU; put in yours"),
    ):
        paper_of.add_argument(f"--{name}", type=type(default), default=default, help=f"{what} ({default})")
    options = parser.parse_args()
    lines = [
        "# Cells at scale",
        "",
        f"`python -m benchmarks.scale --executor {options.executor}` on {platform.machine()}, {os.cpu_count()} cores.",
        "",
        f"{SUITES} suites × {options.seeds} seeds = {SUITES * options.seeds} cells of {TRAIN} train and {HELDOUT} "
        "held-out rows on the embedded model.",
        "",
        "| who | seconds | a cell and worker | beside its work | faster | verdicts |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *measured(options.executor, options.seeds),
        "",
        f"## On paper: {options.cells:,} cells of an 8 B model on {options.gpus} GPUs",
        "",
        *paper(options),
        "",
        "Every number that goes in is an option of the command; none of this was run on GPUs.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        file.write(options.out, text, "--out")


if __name__ == "__main__":
    main()
