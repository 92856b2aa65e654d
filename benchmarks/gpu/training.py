"""Training an 8B-shaped Llama on a GPU: tokens a second, share of the peak, memory against the advisor.

    python -m benchmarks.gpu.training [--rows 64] [--batch 8] [--tokens 512] [--out FILE]
    python -m benchmarks.gpu.training --tiny        (a tiny one on the CPU, to try it; writes no file)

Random weights in bfloat16. Against TRL where it is installed in this environment. A model FLOP is counted as
four a weight and token (forward, and backward to the activations: LoRA needs no gradient of a frozen weight),
for every token of every row, so that work saved (a shared prefix, logits left out) shows as a higher share.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import race
from benchmarks.gpu import card as cards
from benchmarks.gpu.card import Card
from benchmarks.sides import ours, trl_run
from pytest_finetune import memory
from pytest_finetune.engine.local import LocalEngine
from pytest_finetune.engine.template import training_tokens

GIB = 2**30
METHODS = ("lora", "qlora")
STEPS = 3  # of the bare loop, after one to warm up


@dataclass(frozen=True)
class Work:
    """What is trained: a model, rows, and what they come to."""

    card: Card
    model: Path
    shape: memory.Shape
    job: dict[str, Any]
    lengths: tuple[tuple[int, int], ...]  # tokens of prompt and completion, a row each

    @property
    def tokens(self) -> int:
        """The tokens of an epoch."""
        return sum(map(sum, self.lengths))

    def rate(self, seconds: float, tokens: int | None = None) -> str:
        """Return tokens a second and the share of the peak as two cells."""
        each = (tokens or self.tokens) / seconds
        return f"{each:,.0f} | {each * 4 * self.shape.parameters / self.card.peak:.1%}"

    def estimate(self, method: str) -> float:
        """Return the bytes that the advisor expects training to add."""
        load = memory.Load(
            rows=self.job["batch_size"],
            tokens=max(map(sum, self.lengths)),
            completion_tokens=max(completion for _, completion in self.lengths),
            rank=self.job["rank"],
            dev_rows=1,
            device=self.card.device,
        )
        return memory.estimate(self.shape, method, load).added


def rows(count: int, tokens: int, shared: bool) -> list[dict[str, Any]]:
    """Return rows of about so many tokens, the last tenth of each the completion; ``shared``: two thirds are alike."""
    words, found = tokens // 2, []
    for number in range(count):
        own = " ".join(f"item {(number * 31 + i) % 997}" for i in range(words // (9 if shared else 3) - number % 7))
        turns = [{"role": "user", "content": own}]
        if shared:
            turns.insert(0, {"role": "system", "content": "Say what is new. " + "item new " * (tokens // 6)})
        found.append({"prompt": turns, "completion": "item " * (tokens // 20)})
    return found


def ours_line(work: Work, method: str, kind: str) -> str:
    """Train with our engine; return a line of the table."""
    engine = LocalEngine(work.card.device)
    job = {**work.job, "method": method}
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        engine.train(ours.spec_of(job, job["rows"][: job["batch_size"]], 1), first)
        cards.release()
        curve = engine.train(ours.spec_of(job, job["rows"], 1), second)
    engine.close()
    cards.release()
    estimate = work.estimate(method)
    memories = f"{curve.peak_bytes / GIB:.2f} | {estimate / GIB:.2f} | {estimate / curve.peak_bytes - 1:+.0%}"
    return f"| ours | {method} | {kind} | {work.rate(curve.seconds)} | {memories} |"


def trl_line(work: Work, method: str, kind: str, settings: str) -> str:
    """Train with TRL; return a line of the table."""
    job = {**work.job, "settings": settings, "gpu": work.card.device == "cuda", "quantised": method == "qlora"}
    cards.release()
    with tempfile.TemporaryDirectory() as folder:
        trl_run.trainer(job, job["rows"][: job["batch_size"]], 1, folder).train()
        cards.release()
        made = trl_run.trainer(job, job["rows"], 1, folder)
        started = cards.synchronised(work.card)
        made.train()
        seconds = cards.synchronised(work.card) - started
    peak = cards.peak_bytes(work.card)
    del made
    cards.release()
    return f"| TRL, {settings} | {method} | {kind} | {work.rate(seconds)} | {peak / GIB:.2f} | | |"


def bare_lines(work: Work) -> Iterator[str]:
    """Yield what each attention, with and without Liger's kernels, makes of a bare LoRA step over all logits."""
    attentions = ["sdpa", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])]
    for attention in attentions:
        for liger in (False, True) if importlib.util.find_spec("liger_kernel") else (False,):
            seconds, tokens = bare(work, attention, liger)
            about = f"{attention}{', Liger' if liger else ''}"
            yield f"| {about} | {work.rate(seconds, tokens)} | {cards.peak_bytes(work.card) / GIB:.2f} |"
            cards.release()


def bare(work: Work, attention: str, liger: bool) -> tuple[float, int]:
    """Return the seconds of `STEPS` steps of a plain loop, and the tokens in them."""
    import peft
    import transformers

    half = work.card.device == "cuda"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        work.model,
        dtype=torch.bfloat16 if half else torch.float32,
        device_map={"": work.card.device},
        attn_implementation=attention,
    )
    if liger:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model=model)
    lora = peft.LoraConfig(r=work.job["rank"], target_modules="all-linear", task_type=peft.TaskType.CAUSAL_LM)
    tuned = peft.get_peft_model(model, lora)
    optimiser = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=work.job["learning_rate"])
    shape = (work.job["batch_size"], max(map(sum, work.lengths)))
    ids = torch.randint(5, 1000, shape, device=work.card.device)
    cards.release()
    started = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            started = cards.synchronised(work.card)
        tuned(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return cards.synchronised(work.card) - started, STEPS * ids.numel()


def measured(options: argparse.Namespace, on: Card, folder: Path) -> Iterator[str]:
    """Yield the page."""
    import transformers

    model = cards.llama(folder / "model", cards.TINY if options.tiny else cards.LLAMA_8B, on)
    cards.release()
    shape = memory.shape_of(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    settings = {"rank": 8, "alpha": 16, "batch_size": options.batch, "learning_rate": 2e-4, "seed": 0}
    works = {}
    for kind, shared in (("shared prompt", True), ("no shared prefix", False)):
        some = rows(options.rows, options.tokens, shared)
        pairs = [training_tokens(tokenizer, row) for row in ours.conversations(some)]
        job = {**settings, "model": str(model), "rows": some, "log_losses": False}
        works[kind] = Work(on, model, shape, job, tuple((len(p), len(c)) for p, c in pairs))
    work = works["no shared prefix"]
    yield from ("# Training an 8B-shaped Llama on a GPU", "", "`python -m benchmarks.gpu.training`", "")
    yield f"{on.name}, {on.peak / 1e12:,.0f} TFLOP/s ({on.source}); {cards.versions()}."
    yield f"{shape.parameters / 1e9:.2f} B random weights; {options.rows} rows, of {work.tokens / options.rows:.0f} "
    yield f"tokens where none are shared, batch {options.batch}, LoRA r 8 on all linear layers."
    yield from ("", "| side | method | rows | tokens a second | of the peak | GiB | advisor's estimate | error |")
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for kind, each in works.items():
        for method in METHODS:
            yield ours_line(each, method, kind)
            if importlib.util.find_spec("trl"):
                for name in ("defaults", "fast, bfloat16"):
                    yield trl_line(each, method, kind, name)
    yield "" if importlib.util.find_spec("trl") else "\nTRL is not installed here: not compared.\n"
    yield from ("## A bare step, all logits: attention and kernels", "")
    yield from ("| attention | tokens a second | of the peak | GiB |", "| --- | --- | --- | --- |")
    yield from bare_lines(work)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512, help="of a row, about")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gpu_training.md")
    options = parser.parse_args()
    on = cards.card(options.tiny, "benchmarks.gpu.training")
    with tempfile.TemporaryDirectory() as name:
        race.tell(measured(options, on, Path(name)), None if options.tiny else options.out)


if __name__ == "__main__":
    main()
