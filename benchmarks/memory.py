"""Memory of training: the advisor's estimate against what the engine's process was measured to take.

    python -m benchmarks.memory [--out FILE]

Each line trains in a fresh engine process on the CPU, three steps, then loss and answers of the dev
rows, twice: as it is, and with glibc told to give every freed tensor back
(MALLOC_MMAP_THRESHOLD_=131072), so that resident memory is what is really live.
The models are the embedded one and a randomly initialised
Llama of 59 M weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pytest_finetune import digest, memory
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.engine.template import training_tokens
from pytest_finetune.methods import METHODS
from pytest_finetune.records import Conversation, Generation, Message, Model, Training, TrainingCurve, TrainSpec

EMBEDDED = digest.PACKAGE / "embedded"
# Rows at once, tokens, dev rows: with few of those training sets the peak, with many the dev split.
POINTS = {"embedded": ((8, 64, 64), (16, 200, 8)), "llama-59M": ((4, 64, 64), (8, 200, 4))}
STEPS = 3
MIB = 2**20
LIVE = "MALLOC_MMAP_THRESHOLD_"


@dataclass(frozen=True)
class Line:
    """One training run: estimated, and measured with freed memory given back (live), and kept."""

    model: str
    method: str
    load: memory.Load
    estimate: memory.Estimate
    live: TrainingCurve
    kept: TrainingCurve

    @property
    def error(self) -> float:
        """Of the estimate, as a share of what was measured live."""
        return self.estimate.added / self.live.peak_bytes - 1

    @property
    def high(self) -> float:
        """The estimate's upper end, without the process that training adds to."""
        return self.estimate.high - memory.PROCESS_BYTES[self.load.device]


def random_llama(folder: Path) -> Path:
    """Write a Llama of 59 M random weights with the embedded model's tokenizer; return its folder."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32000,
        hidden_size=512,
        intermediate_size=1408,  # NF4 blocks of 64: bitsandbytes 0.50 on AVX512-BF16 fails on other widths
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        bos_token_id=None,
        eos_token_id=4,
        pad_token_id=0,
    )
    transformers.utils.logging.disable_progress_bar()
    # In bfloat16, as models are published: of a mapped float32 file only the pages in use would count.
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / name, folder)
    return folder


def spec_of(
    model: Path, method: str, point: tuple[int, int, int], device: str = "cpu"
) -> tuple[TrainSpec, memory.Load]:
    """Return a training run at a point (rows, tokens about, dev rows), and its load with the true numbers."""
    import transformers

    rows, tokens, dev_rows = point
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    word, taught = "item ", tokens // 10

    def conversation(number: int) -> Conversation:
        # Of several lengths, as real rows are, or no mask is needed; all different, or one answers for many.
        return Conversation((Message("user", f"{number} {word * (tokens - taught - number % 4)}"),), word * taught)

    train = tuple(map(conversation, range(STEPS * rows)))
    longest = max((training_tokens(tokenizer, c) for c in train), key=lambda pair: sum(map(len, pair)))
    training = Training(method=method, batch_size=rows, epochs=1, evaluations_per_epoch=1)
    run = TrainSpec(
        Model(model.name, "", str(model), quantised=METHODS[method].quantised),
        training,
        train,
        tuple(map(conversation, range(dev_rows))),
        Generation(max_new_tokens=4),
        answered=dev_rows,
    )
    return run, memory.Load(
        rows=rows,
        tokens=sum(map(len, longest)),
        completion_tokens=len(longest[1]),
        rank=training.rank,
        virtual_tokens=training.virtual_tokens,
        dev_rows=dev_rows,
        device=device,
    )


def measured(spec: TrainSpec, device: str = "cpu") -> TrainingCurve:
    """Return what a training run went through in an engine process of its own."""
    engine = EngineProcess(device, lambda progress: None)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return engine.train(spec, folder)
    finally:
        engine.close()


def lines(models: dict[str, Path]) -> list[Line]:
    """Train every method on every model at every point, and say so meanwhile."""
    found = []
    for name, folder in models.items():
        for point in POINTS[name]:
            for method in METHODS:
                spec, load = spec_of(folder, method, point)
                estimate = memory.estimate(memory.shape_of(folder), method, load)
                kept = measured(spec)
                os.environ[LIVE] = "131072"
                live = measured(spec)
                del os.environ[LIVE]
                found.append(Line(name, method, load, estimate, live, kept))
                print(row(found[-1]), flush=True)
    return found


def row(line: Line) -> str:
    """Return a line of the table."""
    shape = f"{line.load.rows} × {line.load.tokens} | {line.load.dev_rows}"
    estimate = f"{line.estimate.added / MIB:.0f} | {line.live.peak_bytes / MIB:.0f} | {line.error:+.1%}"
    kept = f"{line.kept.peak_bytes / MIB:.0f} | {line.high / MIB:.0f} | {line.live.seconds / line.kept.seconds:.1f}"
    return f"| {line.model} | {line.method} | {shape} | {estimate} | {kept} |"


def main() -> None:
    """Measure, and write the table down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.md")
    options = parser.parse_args()
    os.environ.pop(LIVE, None)
    with tempfile.TemporaryDirectory() as name:
        found = lines({"embedded": EMBEDDED, "llama-59M": random_llama(Path(name, "llama-59M"))})
    worst = max(found, key=lambda line: abs(line.error))
    above = sum(line.kept.peak_bytes > line.high for line in found)
    text = [
        "# Memory of training on the CPU: estimate against measurement",
        "",
        "`python -m benchmarks.memory`. MiB that training adds to the engine process, rows × tokens a step, dev rows.",
        f"Worst error of the estimate against live memory: {worst.error:+.1%} ({worst.model}, {worst.method}).",
        f"With glibc as it is, {above} of {len(found)} lines lie above the estimate's upper end.",
        "The last column is how many times as long training takes where freed memory is given back.",
        "",
        "| model | method | rows × tokens | dev | estimate | live | error | glibc as it is | upper end | time live |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(row, found),
    ]
    options.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
