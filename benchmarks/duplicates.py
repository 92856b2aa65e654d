"""A million rows: repeats, near repeats and leaks found by the checks that ship; and datasketch beside them.

    python -m benchmarks.duplicates [--rows 1000000] [--data DIR] [--out FILE]

Rows are sentences of a made-up vocabulary; with --data also real questions, the head of one joined to
the tail of another. DIR holds `train.csv` of github.com/PolyAI-LDN/task-specific-datasets, folder
banking_data (Casanueva et al. 2020, CC BY 4.0).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from pytest_finetune import curate, data, similarity, suite

THRESHOLD = 0.8
PLANTED_SHARE = 0.01  # of all rows, of each kind
SAMPLE = 50_000  # rows that datasketch is given
LABELS = 50
FILLERS = ("please", "just", "really", "so", "now", "actually", "ok", "also", "the", "well")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHECKED = ("leakage", "near_leakage", "duplicates", "near_duplicates")
FOUND_BY = {
    "repeat": CHECKED,
    "near repeat": CHECKED,  # one that leaks too is dropped as a leak
    "leak": ("leakage",),
    "near leak": ("leakage", "near_leakage"),
    "another number": (),  # and by nothing
}
SUITE = 'model = "embedded"\ntask = "classification"\ndata = { train = "train.jsonl", heldout = "heldout.jsonl" }\n'

Row = tuple[str, str]  # prompt, label
Lines = tuple[int, int]  # of a pair: the row that is to be found, and its twin


# --- rows ------------------------------------------------------------------------------------


def made_up(chance: random.Random) -> Iterator[Row]:
    """Yield sentences of 8 to 15 words, Zipf-distributed over 30,000; one in a hundred has 200 words."""
    syllables = [a + b + c for a in "bcdfghjklmnprstvwz" for b in "aeiou" for c in ("", "n", "r", "s", "l", "t")]
    vocabulary = list({"".join(chance.choices(syllables, k=chance.randint(1, 3))): 0 for _ in range(35_000)})[:30_000]
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))
    while True:
        words = chance.choices(
            vocabulary, cum_weights=weights, k=200 if chance.random() < 0.01 else chance.randint(8, 15)
        )
        yield " ".join(words).capitalize() + chance.choice(".?!"), f"label {chance.randrange(LABELS)}"


def recombined(folder: Path, chance: random.Random) -> Iterator[Row]:
    """Yield the first words of one real question with the last of another, and the intent of the first."""
    with (folder / "train.csv").open(encoding="utf-8", newline="") as stream:
        questions = [(row["text"].split(), row["category"]) for row in csv.DictReader(stream)]
    while True:
        (head, label), (tail, _) = chance.choice(questions), chance.choice(questions)
        yield " ".join(head[: len(head) // 2 + 1] + tail[len(tail) // 2 :]), label


def typo(text: str, chance: random.Random) -> str:
    """Return the text with one letter dropped, doubled, replaced or swapped with the next."""
    at = chance.choice([i for i, letter in enumerate(text) if letter.isalpha()])
    before, letter, after = text[:at], text[at], text[at + 1 :]
    swapped = after[:1] + letter + after[1:]
    return before + chance.choice((after, letter * 2 + after, chance.choice(LETTERS) + after, swapped))


def filler(text: str, chance: random.Random) -> str:
    """Return the text with a filler word put in."""
    words = text.split()
    words.insert(chance.randrange(len(words) + 1), chance.choice(FILLERS))
    return " ".join(words)


def punctuated(text: str, chance: random.Random) -> str:
    """Return the text in another case and with other punctuation."""
    return chance.choice((text.upper(), text.lower())).rstrip(".?!") + chance.choice((" ...", " !", " ?!", ";"))


def twins(kind: str, text: str, chance: random.Random) -> tuple[str, str]:
    """Return two texts that are a pair of the kind."""
    if kind == "another number":
        number = chance.randint(10, 98)
        return f"{text} Order {number}.", f"{text} Order {number + 1}."
    if kind in ("repeat", "leak"):
        return text, chance.choice((text, text.upper(), text.replace(" ", "  ")))
    return text, chance.choice((typo, filler, punctuated))(text, chance)


def write(folder: Path, rows: Iterator[Row], count: int, chance: random.Random) -> dict[str, list[Lines]]:
    """Write a suite: train.jsonl has nine tenths of the rows, heldout.jsonl the rest; return where twins stand.

    The later twin is to be found; of a leak, the one in train.
    """
    pairs = round(PLANTED_SHARE * count)
    splits: dict[str, list[tuple[str, str, str, int]]] = {"heldout": [], "train": []}
    for kind in FOUND_BY:
        for pair in range(pairs):
            text, label = next(rows)
            first, second = twins(kind, text, chance)
            splits["heldout" if kind.endswith("leak") else "train"].append((first, label, kind, pair))
            splits["train"].append((second, label, kind, pair))
    lines: dict[str, dict[int, list[int]]] = {kind: {} for kind in FOUND_BY}
    for (name, split), size in zip(splits.items(), (count // 10, count * 9 // 10), strict=True):
        split += [(*next(rows), "", 0) for _ in range(size - len(split))]
        chance.shuffle(split)
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            for line, (prompt, label, kind, pair) in enumerate(split, 1):
                stream.write(json.dumps({"prompt": prompt, "completion": label}) + "\n")
                if kind:
                    lines[kind].setdefault(pair, []).append(line)
    checks = [f'[checks.{c}]\non_issue = "{"drop" if c in CHECKED else "off"}"\n' for c in curate.CHECKS]
    (folder / suite.FILE).write_text(SUITE + "".join(checks))
    return {kind: [(second, first) for first, second in found.values()] for kind, found in lines.items()}


# --- what is measured, each in a process of its own ------------------------------------------


def checked(folder: Path) -> dict[str, Any]:
    """Load the rows and curate them by the four checks, imports included; return what was found."""
    wall, cpu = time.perf_counter(), time.process_time()
    flags = curate.curate(suite.load(folder / suite.FILE, folder)).flags
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {check: [int(f.place.rpartition(":")[2]) for f in flags if f.check == check] for check in CHECKED}
    return {**seconds, "peak_bytes": peak, "found": found}


def compared(folder: Path) -> dict[str, Any]:
    """Find the near repeats of a sample with ours and with datasketch, in CPU seconds.

    Both have the same token sets, bands and rows, and decide by true Jaccard. Making the tokens is in our
    time, not in datasketch's.
    """
    import datasketch
    import numpy as np

    texts = [example.text for example in data.load([str(folder / "train.jsonl")], suite.Fields())[:SAMPLE]]
    similarity.Index(texts[:2]).earlier()  # imports
    started = time.process_time()
    ours = similarity.Index(texts, THRESHOLD).earlier()
    our_seconds = time.process_time() - started
    tokens, text = similarity.tokens_of(texts, similarity.numbers_of(texts))
    sets = [tokens.tolist() for tokens in np.split(tokens >> 32, np.searchsorted(text, np.arange(1, len(texts))))]
    started = time.process_time()
    lsh = datasketch.MinHashLSH(num_perm=similarity.SLOTS, params=similarity.cut(THRESHOLD))
    theirs = set()
    for i, minhash in enumerate(datasketch.MinHash.generator(sets, num_perm=similarity.SLOTS, hashfunc=int)):
        mine = set(sets[i])
        if any(len(mine.intersection(sets[j])) >= THRESHOLD * len(mine.union(sets[j])) for j in lsh.query(minhash)):
            theirs.add(i)
        lsh.insert(i, minhash)
    seconds = time.process_time() - started
    both = len(ours.keys() & theirs)
    return {"ours": our_seconds, "theirs": seconds, "found": [len(ours), len(theirs), both]}


def in_child(task: str, folder: Path) -> dict[str, Any]:
    """Run ``checked`` or ``compared`` in a new process."""
    command = [sys.executable, "-m", "benchmarks.duplicates", "--task", task, "--folder", str(folder)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


# --- the report ------------------------------------------------------------------------------


def section(name: str, count: int, planted: dict[str, list[Lines]], folder: Path) -> list[str]:
    """Measure the folder's rows and return what came of it as Markdown."""
    load = os.getloadavg()[0]
    result, peer = in_child("checked", folder), in_child("compared", folder)
    ours, theirs, both = peer["found"]
    return [
        f"## {name}",
        "",
        f"{count:,} rows: **{result['seconds']:.1f} s ({result['cpu_seconds']:.1f} of CPU), "
        f"{result['peak_bytes'] / 1e9:.2f} GB** at the peak; load of the machine before: {load:.1f}.",
        "",
        "| planted | pairs | found | recall | recall where Jaccard is 0.8 or more |",
        "| --- | --- | --- | --- | --- |",
        *recalls(planted, result["found"], folder),
        "",
        f"Found and not planted: {', '.join(unplanted(planted, result['found']))}.",
        "",
        f"Near repeats of the first {SAMPLE:,} rows in CPU seconds: ours {peer['ours']:.1f}, datasketch "
        f"{peer['theirs']:.1f}, **{peer['theirs'] / peer['ours']:.1f} times** as long. Ours finds {ours:,}, "
        f"datasketch {theirs:,}, of which {both:,} are the same.",
        "",
    ]


def recalls(planted: dict[str, list[Lines]], found: dict[str, list[int]], folder: Path) -> Iterator[str]:
    """Yield a line of the table for each kind; what must not be found counts as found by any check."""
    texts = {s: [e.text for e in data.load([str(folder / f"{s}.jsonl")], suite.Fields())] for s in ("train", "heldout")}
    for kind, pairs in planted.items():
        flagged = {line for check in FOUND_BY[kind] or CHECKED for line in found[check]}
        other = texts["heldout" if kind.endswith("leak") else "train"]
        jaccard = similarity.jaccard_of([texts["train"][a - 1] for a, _ in pairs], [other[b - 1] for _, b in pairs])
        hits = [line in flagged for line, _ in pairs]
        near = [
            hit for hit, similar in zip(hits, jaccard.tolist(), strict=True) if similar >= THRESHOLD and FOUND_BY[kind]
        ]
        inside = f"{share(near)} of {len(near):,}" if near else ""
        yield f"| {kind} | {len(pairs):,} | {sum(hits):,} | {share(hits)} | {inside} |"


def share(hits: Sequence[bool]) -> str:
    """Return the share of hits."""
    return f"{sum(hits) / len(hits):.4f}"


def unplanted(planted: dict[str, list[Lines]], found: dict[str, list[int]]) -> Iterator[str]:
    """Yield for each check how many rows it found that no pair has."""
    known = {line for pairs in planted.values() for line, _ in pairs}
    return (f"{check} {len(set(lines) - known):,}" for check, lines in found.items())


def main() -> None:
    """Make the rows, measure, and write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="folder with banking77's train.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "duplicates.md")
    parser.add_argument("--task", choices=("checked", "compared"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps({"checked": checked, "compared": compared}[options.task](options.folder)))
        return
    chance = random.Random(0)
    sources = {"Made-up sentences": made_up(chance)}
    if options.data:
        sources["Real questions, head and tail recombined"] = recombined(options.data, chance)
    text = [
        f"# Repeats, near repeats and leaks in {options.rows:,} rows",
        "",
        f"`python -m benchmarks.duplicates --rows {options.rows}{' --data DIR' if options.data else ''}`, "
        f"{os.cpu_count()} cores. Nine tenths of the rows are train, one tenth held-out.",
        f"Checks: {', '.join(CHECKED)}, each to drop. Loading from JSONL, imports and the cut of the dev split count.",
        "",
    ]
    for name, rows in sources.items():
        with tempfile.TemporaryDirectory() as folder:
            planted = write(Path(folder), rows, options.rows, chance)
            text += section(name, options.rows, planted, Path(folder))
    options.out.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
