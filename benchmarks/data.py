"""What the data checks find in real text, of defects that are planted and of those that are there.

    python -m benchmarks.data --data DIR [--out FILE] [--skip-training]

DIR holds `banking77/` with `train.csv` and `test.csv` of github.com/PolyAI-LDN/task-specific-datasets,
folder banking_data (Casanueva et al. 2020, CC BY 4.0), and `clinc150/` with `data_full.json` of
github.com/clinc/oos-eval (Larson et al. 2019, CC BY 3.0).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pytest_finetune import curate, suite
from pytest_finetune.curate.tables import normalise
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.records import CuratedData
from pytest_finetune.store import Store

SHARE = 0.05
SEED = 0
TRIALS = 20  # of an imbalanced label
LABELS = 10  # that the embedded model learns to tell apart
ROW_CHECKS = (
    "encoding", "empty", "references", "truncated", "leakage", "near_leakage", "conflicts", "duplicates",
    "near_duplicates",
)  # fmt: skip
FILLERS = ("please", "just", "now", "well", "really")

Row = dict[str, str]
Rows = list[Row]


@dataclass
class Published:
    """A data set as it is published."""

    name: str
    train: Rows
    heldout: Rows

    @property
    def labels(self) -> list[str]:
        """All labels."""
        return sorted({row["completion"] for row in self.train})


@dataclass
class Planted:
    """A training set with defects: which lines each check should name, and what was done to them."""

    rows: Rows
    lines: dict[str, set[int]] = field(default_factory=dict)
    edits: dict[int, str] = field(default_factory=dict)


def banking77(folder: Path) -> Published:
    """Read banking77."""
    splits = []
    for name in ("train", "test"):
        with (folder / "banking77" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            splits.append([{"prompt": r["text"], "completion": r["category"]} for r in csv.DictReader(stream)])
    return Published("banking77", *splits)


def clinc150(folder: Path) -> Published:
    """Read clinc150, without its out-of-scope rows."""
    published = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    splits = [[{"prompt": q, "completion": label} for q, label in published[name]] for name in ("train", "test")]
    return Published("clinc150", *splits)


def curated(folder: Path, data: Published, train: Rows, more: str = "") -> CuratedData:
    """Write a suite of these rows and curate it."""
    return curate.curate(write(folder, data, train, more))


def write(folder: Path, data: Published, train: Rows, more: str) -> suite.SuiteSpec:
    """Write a suite: its checks warn of rows, unless ``more`` says otherwise."""
    for name, rows in (("train", train), ("heldout", data.heldout)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    warn = "".join(f'[checks.{name}]\non_issue = "warn"\n' for name in ROW_CHECKS)
    (folder / "suite.toml").write_text(
        'model = "embedded"\ntask = "classification"\ndata = { train = "train.jsonl", heldout = "heldout.jsonl" }\n'
        f"answer = {{ labels = {json.dumps(data.labels)} }}\n{more}{warn}"
    )
    return suite.load(folder / "suite.toml", folder)


def twins(data: CuratedData) -> set[int]:
    """Return the held-out lines that train repeats, exactly or nearly."""
    return {int(f.other.rpartition(":")[2]) for f in data.flags if f.check in ("leakage", "near_leakage")}


def found(data: CuratedData) -> dict[str, set[int]]:
    """Return the lines of train that each check flagged."""
    lines: dict[str, set[int]] = {}
    for flag in data.flags:
        if flag.split == "train":
            lines.setdefault(flag.check, set()).add(int(flag.place.rpartition(":")[2]))
    return lines


def plant(data: Published, native: CuratedData, rng: random.Random) -> Planted:
    """Plant defects of every kind of row check, each in or from rows of its own that are free of native ones."""
    known, leaked = set().union(*found(native).values()), twins(native)
    clean = [i for i in range(len(data.train)) if i + 1 not in known]
    judged = [row for i, row in enumerate(data.heldout) if i + 1 not in leaked]
    rng.shuffle(clean)
    rng.shuffle(judged)
    each = round(SHARE * len(data.train))
    planted = Planted([dict(row) for row in data.train])

    def spoil(check: str, change: Callable[[Row], None]) -> None:
        for _ in range(each):
            i = clean.pop()
            change(planted.rows[i])
            planted.lines.setdefault(check, set()).add(i + 1)

    def add(check: str, row: Row, edit: str = "") -> int:
        planted.rows.append(row)
        planted.lines.setdefault(check, set()).add(line := len(planted.rows))
        planted.edits[line] = edit
        return line

    spoil("encoding", lambda row: row.update(prompt=garbled(row["prompt"], rng)))
    spoil("empty", lambda row: row.update({rng.choice(["prompt", "completion"]): rng.choice(["", "  ", "\n"])}))
    spoil("references", lambda row: row.update(completion=rng.choice(["other", "n/a", row["completion"].upper()])))
    spoil("truncated", lambda row: row.update(prompt=lengthened(row["prompt"], data.train, rng)))
    for _ in range(each):
        add("duplicates", {**(row := planted.rows[clean.pop()]), "prompt": respelt(row["prompt"], rng)})
        row = planted.rows[clean.pop()]
        text, edit = edited(row["prompt"], rng)
        add("near_duplicates", {**row, "prompt": text}, edit)
        row = planted.rows[i := clean.pop()]
        other = rng.choice([label for label in data.labels if label != row["completion"]])
        add("conflicts", {"prompt": respelt(row["prompt"], rng), "completion": other})
        planted.lines["conflicts"].add(i + 1)
        add("leakage", {**(row := judged.pop()), "prompt": respelt(row["prompt"], rng)})
        row = judged.pop()
        text, edit = edited(row["prompt"], rng)
        add("near_leakage", {**row, "prompt": text}, edit)
    return planted


def garbled(text: str, rng: random.Random) -> str:
    """Return text as bad exports leave it."""
    at = rng.randrange(len(text))
    marks = [m.encode().decode("cp1252") for m in ("é", "ö", "’", "–", "£", "°", "ñ")]
    return text[:at] + rng.choice([*marks, "\ufffd", "\x07", "\x00", "\x92", "\ud83d"]) + text[at:]


def lengthened(text: str, others: Rows, rng: random.Random) -> str:
    """Return text with others behind it until the embedded model's context of 768 tokens cannot hold it."""
    while len(text) < 4000:
        text += " " + rng.choice(others)["prompt"]
    return text


def respelt(text: str, rng: random.Random) -> str:
    """Return the same text in other characters."""
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isalpha() and c.isascii() else c for c in text)
    return rng.choice([text.upper(), text.title(), f"  {text}\t", text.replace(" ", "  "), wide, text + "\n"])


def edited(text: str, rng: random.Random) -> tuple[str, str]:
    """Return the text after one small edit, and which; letters that are equal are not swapped."""
    while True:
        changed, kind = _edited(text, rng)
        if normalise(changed) != normalise(text):
            return changed, kind


def _edited(text: str, rng: random.Random) -> tuple[str, str]:
    words = text.split()
    at = rng.randrange(len(words))
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()] or [at]
    typo = rng.choice(long)
    cut = rng.randrange(1, max(2, len(words[typo])))
    kind = rng.choice(["a letter dropped", "two letters swapped", "punctuation and case", "a word added"])
    if kind == "a letter dropped":
        words[typo] = words[typo][: cut - 1] + words[typo][cut:]
    elif kind == "two letters swapped":
        words[typo] = words[typo][: cut - 1] + words[typo][cut - 1 : cut + 1][::-1] + words[typo][cut + 1 :]
    elif kind == "punctuation and case":
        words[at] = words[at].upper() + rng.choice(",;:!")
        words.append(rng.choice(["!", "...", "??"]))
    else:
        words.insert(at, rng.choice(FILLERS))
    return " ".join(words), kind


def score(expected: set[int], flagged: set[int]) -> tuple[float, float]:
    """Return precision and recall."""
    right = len(expected & flagged)
    return right / max(1, len(flagged)), right / max(1, len(expected))


def row_table(data: Published, folder: Path) -> list[str]:
    """Measure the row checks: native findings, then planted ones."""
    started = time.perf_counter()
    native_data = curated(folder, data, data.train)
    seconds = time.perf_counter() - started
    native = found(native_data)
    planted = plant(data, native_data, random.Random(SEED))
    flagged = found(curated(folder, data, planted.rows))
    text = [f"## {data.name}: {len(data.train):,} train and {len(data.heldout):,} held-out rows, as published", ""]
    text += [f"- {curate.describe(finding)}" for finding in native_data.findings] + [""]
    text += [f"Load and checks took {seconds:.1f} s here.", ""]
    text += [f"Planted, {SHARE:.0%} of train each; what is native set aside:", ""]
    text += ["| check | native | planted | precision | recall |", "| --- | --- | --- | --- | --- |"]
    for check in ROW_CHECKS:
        expected, own = planted.lines[check], native.get(check, set())
        # A planted row is nobody's native finding; a row that was one before stays out of the count.
        precision, recall = score(expected, flagged.get(check, set()) - own)
        text.append(f"| {check} | {len(own)} | {len(expected)} | {precision:.3f} | {recall:.3f} |")
    text += [imbalance_line(data, folder), "", "Recall of the near ones by what was edited, and by length:", ""]
    text += ["| edit | 45 characters or more | shorter |", "| --- | --- | --- |"]
    near = {line for check in ("near_duplicates", "near_leakage") for line in planted.lines[check]}
    hit = {
        line
        for check in ("near_duplicates", "near_leakage", "duplicates", "leakage")
        for line in flagged.get(check, ())
    }
    for edit in sorted({planted.edits[line] for line in near}):
        cells = []
        for long in (True, False):
            own = {n for n in near if planted.edits[n] == edit and (len(planted.rows[n - 1]["prompt"]) >= 45) == long}
            cells.append(f"{len(own & hit)} of {len(own)}")
        text.append(f"| {edit} | {cells[0]} | {cells[1]} |")
    return [*text, ""]


def imbalance_line(data: Published, folder: Path) -> str:
    """Measure the balance check over sets of which one label was cut to a tenth of the even share, or none."""
    rng = random.Random(SEED)
    counts = Counter(row["completion"] for row in data.train)
    keep = round(0.1 * counts.total() / len(counts))
    off = "".join(f'[checks.{name}]\non_issue = "off"\n' for name in (*ROW_CHECKS, "sizing", "knowledge"))
    hits, alarms = 0, 0
    for _ in range(TRIALS):
        label = rng.choice(data.labels)
        few = rng.sample([row for row in data.train if row["completion"] == label], keep)
        for train, planted in (
            ([row for row in data.train if row["completion"] != label] + few, True),
            (rng.sample(data.train, round(0.9 * len(data.train))), False),
        ):
            spec = write(folder, data, train, "")
            text = spec.file.read_text()
            spec.file.write_text(text[: text.index("[checks")] + off)
            findings = curate.curate(suite.load(spec.file, folder)).findings
            named = any(f.check == "balance" and f"rarest, {label!r}" in f.message for f in findings)
            hits += planted and named
            alarms += any(f.check == "balance" for f in findings) and not (planted and named)
    precision, recall = hits / max(1, hits + alarms), hits / TRIALS
    return f"| balance (sets) | 0 | {TRIALS} | {precision:.3f} | {recall:.3f} |"


def wrong_references(data: Published, folder: Path) -> list[str]:
    """Measure the check that trains, on the labels that come first by name and the embedded model."""
    rng = random.Random(SEED)
    labels = data.labels[:LABELS]
    train, heldout = ([r for r in rows if r["completion"] in labels] for rows in (data.train, data.heldout))
    part = Published(data.name, [dict(row) for row in train], heldout)
    wrong = rng.sample(range(len(part.train)), round(SHARE * len(part.train)))
    for i in wrong:
        part.train[i]["completion"] = rng.choice([label for label in labels if label != part.train[i]["completion"]])
    training = "training = { learning_rate = 4e-3, batch_size = 16, epochs = 6, replay = 0 }\n"
    training += 'prompts = { serve = "Name the intent." }\n'
    spec = write(folder, part, part.train, training + '[checks.wrong_references]\non_issue = "warn"\n')
    engine = EngineProcess("cpu", lambda progress: None)
    started = time.perf_counter()
    try:
        pipeline = Pipeline(spec, Workplace(Store(folder / ".finetune"), lambda name: engine))
        screened = pipeline.screened
    finally:
        engine.close()
    seconds = time.perf_counter() - started
    lines = [int(f.place.rpartition(":")[2]) for f in screened.flags if f.check == "wrong_references"]
    expected = {i + 1 for i in wrong} & {e.line for e in screened.train}
    precision, recall = score(expected, set(lines))
    at_k = len(expected & set(lines[: len(expected)])) / len(expected)
    return [
        f"| {data.name} | {len(screened.train):,} | {len(expected)} | {len(lines)} | {precision:.3f} | {recall:.3f} | "
        f"{at_k:.3f} | {seconds:.0f} |"
    ]


def main() -> None:
    """Measure, and write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77/ and clinc150/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data.md")
    parser.add_argument("--skip-training", action="store_true", help="leave out wrong_references, which trains")
    options = parser.parse_args()
    text = [
        "# The data checks on real text",
        "",
        f"`python -m benchmarks.data --data DIR`, {os.cpu_count()} cores.",
        "",
    ]
    published = [banking77(options.data), clinc150(options.data)]
    for data in published:
        with tempfile.TemporaryDirectory() as name:
            text += row_table(data, Path(name))
    if not options.skip_training:
        text += [f"## wrong_references: {LABELS} labels, {SHARE:.0%} of them flipped, 3 folds, the embedded model", ""]
        text += ["| data | rows | flipped | flagged | precision | recall | precision@flipped | seconds |"]
        text += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        for data in published:
            with tempfile.TemporaryDirectory() as name:
                text += wrong_references(data, Path(name))
    options.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
