"""What the races run on: two models with random weights, rows of banking77, and a page of results."""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.memory import EMBEDDED, random_llama

INTENTS = 20
GENERAL = Path(__file__).parents[1] / "eval_suites" / "general"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SOURCE = (
    "Rows: 20 intents of banking77 (Casanueva et al. 2020, CC BY 4.0, "
    "github.com/PolyAI-LDN/task-specific-datasets, folder banking_data)."
)
Row = dict[str, Any]
HEAD = "| figure | in CPU seconds | by wall clock | goal | met |"


def llama_6m(folder: Path) -> Path:
    """Write a Llama of 6 M random weights, vocabulary 4096, with the embedded model's tokenizer; return its folder."""
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=4,
        pad_token_id=0,
    )
    transformers.utils.logging.disable_progress_bar()
    model = transformers.LlamaForCausalLM(config)
    tokenizer = tokenizers.Tokenizer.from_file(str(EMBEDDED / TOKENIZER[0]))
    known = tokenizer.get_vocab_size()
    with torch.no_grad():
        # With logits of 0, ids that no text has are never the greedy answer.
        model.get_input_embeddings().weight[known:] = 0
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(EMBEDDED / name, folder)
    # Named all the same: lm-eval cuts a model with an adapter down to the ids that its tokenizer has, which would
    # change every likelihood.
    tokenizer.add_special_tokens([f"<|unused {number}|>" for number in range(known, config.vocab_size)])
    tokenizer.save(str(folder / TOKENIZER[0]))
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {"6 M": llama_6m, "60 M": random_llama}


def model(name: str, folder: Path) -> Path:
    """Write a model of `MODELS` below ``folder``, once; return where it is."""
    place = folder / name.replace(" ", "")
    return place if place.is_dir() else MODELS[name](place)


@dataclass(frozen=True)
class Questions:
    """Real questions of so many intents, each once, in an order of their own."""

    labels: tuple[str, ...]
    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]

    @property
    def instruction(self) -> str:
        """A system prompt of about 270 tokens (and the chat template's) that lists the intents."""
        return f"Name the intent, one of: {', '.join(self.labels)}."

    def row(self, question: str, label: str) -> Row:
        """Return a row whose prompt starts with the instruction."""
        turns = [{"role": "system", "content": self.instruction}, {"role": "user", "content": question}]
        return {"prompt": turns, "completion": label}

    def shared(self, pairs: Iterable[tuple[str, str]]) -> list[Row]:
        """Return rows that all start with the same instruction."""
        return [self.row(*pair) for pair in pairs]

    def unshared(self, count: int, seed: int = 0) -> list[Row]:
        """Return rows with as long a prompt each, of which no two start alike: questions, one after another."""
        chance, rows = random.Random(seed), []
        for number in range(count):
            some = chance.sample(self.train, 9 + number % 3)
            rows.append(
                {"prompt": [{"role": "user", "content": " ".join(q for q, _ in some)}], "completion": some[0][1]}
            )
        return rows


def questions(data: Path, seed: int = 0) -> Questions:
    """Read banking77's first intents by name; a question that stands in both files is a test question."""
    found: dict[str, dict[str, str]] = {}
    for name in ("test", "train"):
        with (data / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            found[name] = {" ".join(row["text"].split()): row["category"] for row in csv.DictReader(stream)}
    labels = tuple(sorted(set(found["train"].values()))[:INTENTS])
    pairs = {}
    for name, rows in found.items():
        mine = [(q, c) for q, c in rows.items() if c in labels and not (name == "train" and q in found["test"])]
        pairs[name] = tuple(random.Random(seed).sample(mine, len(mine)))
    return Questions(labels, pairs["train"], pairs["test"])


def general(count: int, names: Sequence[str] = ("sort", "reading", "sentiment")) -> dict[str, list[Row]]:
    """Return the first rows of the example suites' general data, by name."""
    found = {}
    for name in names:
        lines = (GENERAL / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        found[name] = [json.loads(line) for line in lines]
    return found


def alternate(sides: Mapping[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run every side in turn, ``rounds`` times, so that what else the machine does falls on all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name, run in sides.items():
            found[name].append(run())
            print(f"round {turn + 1} of {rounds}, {name}: {_brief(found[name][-1])}", flush=True)
    return found


def _brief(run: Mapping[str, Any]) -> str:
    """Say the numbers of a run, so that a race that is cut short has not been for nothing."""
    return ", ".join(f"{key} {value:,.1f}" for key, value in run.items() if isinstance(value, float))


def tell(lines: Iterable[str], out: Path | None) -> None:
    """Print lines as they are made, and write them to a file in the end."""
    told = []
    for line in lines:
        print(line, flush=True)
        told.append(line)
    if out:
        out.write_text("\n".join(told) + "\n", encoding="utf-8")


def middle(runs: Iterable[Mapping[str, Any]], key: str) -> float:
    """Return the median of one measure."""
    return float(median(run[key] for run in runs))


@dataclass(frozen=True)
class Ratio:
    """One figure of the race in CPU seconds, by wall clock, and what it should be: at least the goal, or at most.

    Other work on the machine stretches the wall clock of either side, CPU seconds hardly.
    """

    name: str
    value: float
    goal: float
    wall: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        wall = "" if self.wall is None else f"{self.wall:.3g}"
        return f"| {self.name} | {self.value:.3g} | {wall} | {sign} {self.goal:g} | {'yes' if self.met else '**no**'} |"


def _bfloat16() -> str:
    """Say whether the processor calculates in bfloat16, which is TRL's default: a ratio against it depends on that."""
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.exists() else set()
    return "bfloat16 in hardware" if words & {"avx512_bf16", "amx_bf16", "bf16"} else "no bfloat16 in hardware"


def page(title: str, command: str, ratios: Sequence[Ratio], body: Sequence[str], threads: int) -> str:
    """Return a page of results: ratios first, then what disappointed, then how it was measured."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    missed = [ratio.name for ratio in ratios if not ratio.met]
    lines = [f"# {title}", "", f"`{command}`", "", HEAD, "| --- | --- | --- | --- | --- |"]
    lines += [*map(str, ratios), ""]
    lines += [f"Short of the goal: {'; '.join(missed)}." if missed else "No goal was missed.", ""]
    lines += [
        f"{os.cpu_count()} shared CPU cores ({_bfloat16()}), {threads} thread{'s' * (threads > 1)} a side; {versions}."
    ]
    return "\n".join([*lines, "", *body]) + "\n"


def parser(doc: str | None, result: str) -> argparse.ArgumentParser:
    """Return a parser with the place of the page."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"{result}.md")
    return made
