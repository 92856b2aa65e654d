"""Answers a second of an 8B-shaped Llama on a GPU, against vLLM where it is installed.

    python -m benchmarks.gpu.evaluation [--prompts 512] [--new-tokens 64] [--out FILE]
    python -m benchmarks.gpu.evaluation --tiny        (a tiny one on the CPU, to try it; writes no file)

Random weights in bfloat16; every prompt starts with the same instruction, and its answer takes all of the new
tokens, or nearly. Greedy texts are compared: in bfloat16 near ties fall either way, so that some differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import race
from benchmarks.gpu import card as cards
from benchmarks.gpu.card import Card
from benchmarks.gpu.training import rows
from benchmarks.sides import ours
from pytest_finetune.engine.local import LocalEngine
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Generation

CHOICES = tuple(f"answer number {number}" for number in range(10))


def answered(engine: LocalEngine, model: Path, prompts: tuple[Turns, ...], new_tokens: int) -> tuple[str, ...]:
    """Return our greedy texts."""
    return engine.generate(ours.model_of({"model": model}), None, prompts, Generation(new_tokens)).texts


def by_vllm(model: Path, prompts: tuple[Turns, ...], new_tokens: int) -> tuple[float, list[str]]:
    """Return vLLM's seconds, its start not counted, and its greedy texts."""
    import time

    import vllm

    engine = vllm.LLM(model=str(model), dtype="bfloat16", enable_prefix_caching=True, gpu_memory_utilization=0.85)
    greedy = vllm.SamplingParams(temperature=0.0, max_tokens=new_tokens)
    asked = [[{"role": turn.role, "content": turn.content} for turn in prompt] for prompt in prompts]
    engine.chat(asked[:2], greedy, use_tqdm=False)
    started = time.perf_counter()
    found = engine.chat(asked, greedy, use_tqdm=False)
    return time.perf_counter() - started, [each.outputs[0].text.strip() for each in found]


def measured(options: argparse.Namespace, on: Card, folder: Path) -> Iterator[str]:
    """Yield the page."""
    model = cards.llama(folder / "model", cards.TINY if options.tiny else cards.LLAMA_8B, on)
    cards.release()
    prompts = tuple(ours.turns(row["prompt"]) for row in rows(options.prompts, options.tokens, shared=True))
    warm = tuple(ours.turns(row["prompt"]) for row in rows(2, options.tokens, shared=False))
    yield from ("# Answers of an 8B-shaped Llama on a GPU", "", "`python -m benchmarks.gpu.evaluation`", "")
    yield f"{on.name}; {cards.versions()}. {options.prompts} prompts of {options.tokens} tokens or so, "
    yield f"{options.new_tokens} new tokens at most; choices among {len(CHOICES)}."
    yield from ("", "| side | task | rows a second | GiB at the peak |", "| --- | --- | --- | --- |")
    engine = LocalEngine(on.device)
    answered(engine, model, warm, options.new_tokens)
    started = cards.synchronised(on)
    texts = answered(engine, model, prompts, options.new_tokens)
    seconds = cards.synchronised(on) - started
    yield f"| ours | generation | {len(prompts) / seconds:.1f} | {cards.peak_bytes(on) / 2**30:.2f} |"
    some = prompts[: max(1, len(prompts) // 4)]
    started = cards.synchronised(on)
    engine.score(ours.model_of({"model": model}), None, some, CHOICES)
    seconds = cards.synchronised(on) - started
    yield f"| ours | choice | {len(some) / seconds:.1f} | {cards.peak_bytes(on) / 2**30:.2f} |"
    engine.close()
    cards.release()
    if not importlib.util.find_spec("vllm"):
        yield "\nvLLM is not installed here: not compared."
        return
    seconds, theirs = by_vllm(model, prompts, options.new_tokens)
    yield f"| vLLM | generation | {len(prompts) / seconds:.1f} | |"
    same = sum(a == b for a, b in zip(texts, theirs, strict=True))
    yield f"\n{same} of {len(prompts)} greedy texts are the same."


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=512, help="of a prompt, about")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gpu_evaluation.md")
    options = parser.parse_args()
    on = cards.card(options.tiny, "benchmarks.gpu.evaluation")
    with tempfile.TemporaryDirectory() as name:
        race.tell(measured(options, on, Path(name)), None if options.tiny else options.out)


if __name__ == "__main__":
    main()
