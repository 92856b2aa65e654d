"""Time to the verdict: TRL, then lm-eval on base and adapter, as CI glues them, against one `pytest --finetune`.

    python -m benchmarks.verdict_race --data DIR [--peers DIR] [--scale 1] [--threads 1] [--out FILE]

Both sides train the same model on the same rows with the same method, epochs, batch and rate, and answer the
same held-out rows and three general suites, each command from its start to its end, imports and all. DIR
holds banking77's `train.csv` and `test.csv`; --scale 0.1 takes a tenth of the rows, to try it out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import peers, race
from benchmarks.peers import Racers, Ran
from benchmarks.race import Questions, Ratio, Row
from pytest_finetune import data
from pytest_finetune.records import RunRecord
from pytest_finetune.report import run_json
from pytest_finetune.suite import PATHS, Fields

TRAIN, DEV, HELDOUT, GENERAL_ROWS = 1000, 64, 500, 200
FEW_DEV = 16
OF_MANY = 60  # train, held-out and general rows of a suite where the number of suites is varied
SUITES = (1, 2, 4, 8)
NEW_TOKENS = 16
TEACH = {"rank": 8, "alpha": 16, "batch_size": 8, "learning_rate": 4e-3, "epochs": 1, "seed": 0}
ONE_PROMPT = "shots = [0]\nchat_template = 'on'\nanswer_format = false"
SUITE = """\
model = {model}
task = "classification"
[data]
train = "train.jsonl"
dev = "dev.jsonl"
heldout = "heldout.jsonl"
[checks]   # every row that the peers train on, we train on
duplicates = {{ on_issue = "warn" }}
near_duplicates = {{ on_issue = "warn" }}
leakage = {{ on_issue = "warn" }}
conflicts = {{ on_issue = "warn" }}
[answer]
labels = {labels}
[prompts]
candidates = [{instruction}]
{search}
[training]
rank = 8
alpha = 16
batch_size = 8
learning_rate = 4e-3
epochs = 1
replay = 0.0
[gate]
max_drop = 0.05
guard = 0.10
[generation]
max_new_tokens = 16
"""
GENERAL_SUITE = '[[general]]\ndata = "{folder}/{name}.jsonl"\n'
TEST = """\
def test_beats_the_best_prompt(gate, adapter, baseline, heldout):
    gate.beats(adapter, baseline, on=heldout)


def test_keeps_general_skills(gate, adapter, base_model, general):
    gate.keeps(adapter, base_model, on=general)
"""
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
description: {description}
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{completion}}}}"
generation_kwargs:
  until: ["<|end|>"]
  max_gen_toks: {tokens}
  do_sample: false
metric_list:
  - metric: exact_match
"""


@dataclass(frozen=True)
class Sizes:
    """The rows of the race."""

    scale: float

    def __call__(self, rows: int) -> int:
        """Return the scaled number, and never fewer than the 60 that a general suite must have."""
        return max(60, round(rows * self.scale))


@dataclass
class Clock:
    """What was run, by name, in order; says so meanwhile."""

    ran: dict[str, Ran] = field(default_factory=dict)

    def note(self, name: str, ran: Ran) -> Ran:
        """Keep what a command took."""
        self.ran[name] = ran
        print(f"{name}: {ran.wall_seconds:.1f} s, {ran.cpu_seconds:.1f} of CPU", flush=True)
        return ran

    def wall(self, *names: str) -> float:
        """The wall clock seconds of all of these."""
        return sum(self.ran[name].wall_seconds for name in names)

    def cpu(self, *names: str) -> float:
        """Their CPU seconds."""
        return sum(self.ran[name].cpu_seconds for name in names)


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write JSON lines; return where."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def plain(pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """Return rows as suites and tasks hold them."""
    return [{"prompt": question, "completion": label} for question, label in pairs]


class Ours:
    """A project of one suite or several, and `pytest --finetune` in it."""

    def __init__(self, racers: Racers, root: Path, asked: Questions, model: Path, search: str = ONE_PROMPT) -> None:
        self.racers = racers
        self.root = root
        self.asked = asked
        self.model = model
        self.search = search
        os.environ[PATHS] = str(model)  # which is no part of the project

    def general(self, rows: int) -> None:
        """Write the general suites."""
        for name, some in race.general(rows).items():
            write_rows(self.root / "general" / f"{name}.jsonl", some)

    def suite(self, name: str, train: Sequence[tuple[str, str]], heldout: Sequence[tuple[str, str]], dev: int) -> Path:
        """Write a suite, its dev split the last of the train rows; return its folder."""
        folder = self.root / name
        for split, pairs in (("train", train[:-dev]), ("dev", train[-dev:]), ("heldout", heldout)):
            write_rows(folder / f"{split}.jsonl", plain(pairs))
        text = SUITE.format(
            model=json.dumps(str(self.model)),
            labels=json.dumps(self.asked.labels),
            instruction=json.dumps(self.asked.instruction),
            search=self.search,
        )
        names = sorted(path.stem for path in (self.root / "general").glob("*.jsonl"))
        text += "".join(GENERAL_SUITE.format(folder="../general", name=each) for each in names)
        (folder / "suite.toml").write_text(text, encoding="utf-8")
        (folder / f"test_{name}.py").write_text(TEST, encoding="utf-8")
        return folder

    def run(self, *options: str) -> Ran:
        """Gate the project; a verdict that fails is a verdict too."""
        command = [sys.executable, "-m", "pytest", "--finetune", "--finetune-report=run.json", f"--rootdir={self.root}"]
        return self.racers.run([*command, "-p", "no:cacheprovider", *options], self.root, expected=(0, 1))

    @property
    def record(self) -> RunRecord:
        """The last run's report."""
        return run_json.read(self.root / "run.json")


class Glue:
    """What a CI user glues: a TRL script, and lm-eval twice, over the same files."""

    def __init__(self, racers: Racers, root: Path, suite: Path, asked: Questions, model: Path) -> None:
        self.racers = racers
        self.root = root
        self.asked = asked
        self.model = model
        self.names = ["target", *(path.stem for path in sorted((suite.parent / "general").glob("*.jsonl")))]
        for name in self.names:
            file = suite / "heldout.jsonl" if name == "target" else suite.parent / "general" / f"{name}.jsonl"
            about = json.dumps(asked.instruction if name == "target" else "")
            task = TASK.format(name=f"race_{name}", file=file, description=about, tokens=NEW_TOKENS)
            (root / "tasks").mkdir(parents=True, exist_ok=True)
            (root / "tasks" / f"{name}.yaml").write_text(task, encoding="utf-8")

    def train(self, settings: str, pairs: Sequence[tuple[str, str]]) -> Ran:
        """Train and save the adapter."""
        job = {**TEACH, "task": "ship", "model": str(self.model), "rows": self.asked.shared(pairs), "log_losses": False}
        file = self.root / "job.json"
        file.write_text(json.dumps({**job, "settings": settings, "folder": str(self.root / "adapter")}))
        return self.racers.run([str(self.racers.python), "-m", "benchmarks.sides.trl_run", str(file)])

    def evaluate(self, subject: str) -> Ran:
        """Run lm-eval on the base model or the adapter, its cache switched on."""
        about = f"pretrained={self.model},dtype=float32"
        about += f",peft={self.root / 'adapter'}" if subject == "adapter" else ""
        tasks = ",".join(f"race_{name}" for name in self.names)
        command = [str(self.racers.python), "-m", "lm_eval", "run", "--model", "hf", "--model_args", about]
        command += [
            "--tasks",
            tasks,
            "--include_path",
            str(self.root / "tasks"),
            "--batch_size",
            "8",
            "--device",
            "cpu",
        ]
        command += ["--apply_chat_template", "--log_samples", "--output_path", str(self.root / "out" / subject)]
        return self.racers.run([*command, "--use_cache", str(self.root / f"cache-{subject}")])

    def texts(self, subject: str) -> dict[str, str]:
        """Return the greedy texts of the last run by prompt of a row."""
        found = {}
        for name in self.names:
            files = (self.root / "out" / subject).rglob(f"samples_race_{name}_*.jsonl")
            for line in max(files, key=lambda file: file.stat().st_mtime).read_text(encoding="utf-8").splitlines():
                sample = json.loads(line)
                found[sample["doc"]["prompt"]] = sample["resps"][0][0].strip()
        return found


def ours_texts(record: RunRecord, folder: Path, subjects: Sequence[str]) -> dict[str, str]:
    """Return our greedy texts of some subjects by prompt of a row."""
    found: dict[str, str] = {}
    for measured in record.suites[0].measurements:
        if measured.subject in subjects:
            file = folder / "heldout.jsonl" if measured.on == "held-out" else None
            file = file or folder.parent / "general" / f"{measured.on}.jsonl"
            asked = {example.id: example.text for example in data.load([str(file)], Fields())}
            found |= {asked[name]: text for name, text in zip(measured.ids, measured.outputs, strict=True)}
    return found


def cold(racers: Racers, root: Path, asked: Questions, model: Path, sizes: Sizes) -> tuple[Clock, list[str]]:
    """Run both pipelines cold, unchanged and with a row added; return the times and the lines on agreement."""
    clock = Clock()
    train, heldout = asked.train[: sizes(TRAIN) + sizes(DEV)], asked.test[: sizes(HELDOUT)]
    projects = {}
    for name, search in (("all rows", ONE_PROMPT), ("as shipped", ONE_PROMPT), ("default search", "")):
        project = Ours(racers, root / name.replace(" ", "-"), asked, model, search)
        project.general(sizes(GENERAL_ROWS))
        project.suite("target", train, heldout, sizes(DEV))
        projects[name] = project
    suite = projects["all rows"].root / "target"
    glue = Glue(racers, root / "glue", suite, asked, model)
    # In alternation, as far as one run of each allows.
    clock.note("ours, all rows", projects["all rows"].run("--finetune-no-early-stop"))
    clock.note("TRL, defaults", glue.train("defaults", train[: sizes(TRAIN)]))
    clock.note("ours, as shipped", projects["as shipped"].run())
    clock.note("TRL, fast, float32", glue.train("fast, float32", train[: sizes(TRAIN)]))
    clock.note("TRL, fast, bfloat16", glue.train("fast, bfloat16", train[: sizes(TRAIN)]))
    clock.note("lm-eval, base", glue.evaluate("base"))
    clock.note("ours, default search", projects["default search"].run())
    clock.note("lm-eval, adapter", glue.evaluate("adapter"))
    lines = list(agreement(projects["all rows"], suite, glue))
    for subject in ("base", "adapter"):
        clock.note(f"lm-eval, {subject}, unchanged", glue.evaluate(subject))
    clock.note("ours, unchanged", projects["as shipped"].run())
    added = projects["as shipped"].root / "target" / "heldout.jsonl"
    write_rows(added, plain(asked.test[: sizes(HELDOUT) + 1]))
    clock.note("ours, one row added", projects["as shipped"].run())
    return clock, lines


def agreement(project: Ours, suite: Path, glue: Glue) -> Iterator[str]:
    """Yield how many greedy texts of the base model are the same, and both adapters' shares of right answers."""
    ours, theirs = ours_texts(project.record, suite, ("baseline", "base model")), glue.texts("base")
    same = sum(ours[prompt] == text for prompt, text in theirs.items() if prompt in ours)
    yield f"Greedy texts of the base model: {same} of {sum(p in ours for p in theirs)} rows that both answered agree."
    right = {json.loads(line)["prompt"]: json.loads(line)["completion"] for line in (suite / "heldout.jsonl").open()}
    for name, texts in (
        ("ours", ours_texts(project.record, suite, ("adapter",))),
        ("TRL's", glue.texts("adapter")),
    ):
        hits = [texts[prompt] == label for prompt, label in right.items() if prompt in texts]
        yield f"Adapter, {name}: {sum(hits)} of {len(hits)} held-out rows answered right."
    yield f"Our verdicts: {', '.join(v.outcome for v in project.record.suites[0].verdicts)}."


def many(racers: Racers, root: Path, asked: Questions, model: Path, counts: Sequence[int]) -> dict[int, Ran]:
    """Run so many suites on one base model at once, each with rows of its own and the same general suites."""
    found, rows = {}, OF_MANY
    for count in counts:
        project = Ours(racers, root / f"suites-{count}", asked, model)
        project.general(rows)
        for number in range(count):
            some = slice(number * 2 * rows, (number + 1) * 2 * rows)
            project.suite(
                f"target{number}", asked.train[some][: rows + FEW_DEV], asked.test[number * rows :][:rows], FEW_DEV
            )
        found[count] = project.run()
        print(f"{count} suites: {found[count].wall_seconds:.1f} s", flush=True)
    return found


def ratios(clock: Clock, suites: Mapping[int, Ran]) -> Iterator[Ratio]:
    """Yield the figures of the issue."""

    def times(name: str, goal: float, over: Sequence[str], under: Sequence[str] = ()) -> Ratio:
        """Return the time of some commands over that of others, or of none."""
        cpu, wall = ((of(*over) / (of(*under) if under else 1.0)) for of in (clock.cpu, clock.wall))
        return Ratio(name, cpu, goal, wall, at_most=goal <= 1)

    best = min(("TRL, fast, float32", "TRL, fast, bfloat16"), key=clock.cpu)
    evaluated, ours = ("lm-eval, base", "lm-eval, adapter"), ["ours, unchanged"]
    for name in ("ours, all rows", "ours, as shipped", "ours, default search"):
        yield times(f"cold: glue with TRL's defaults ÷ {name}", 5, ["TRL, defaults", *evaluated], [name])
        yield times(f"cold: glue with TRL's best ÷ {name}", 5, [best, *evaluated], [name])
    cached = [f"{name}, unchanged" for name in evaluated]
    yield times("unchanged: lm-eval's cache, TRL's adapter kept ÷ ours", 100, cached, ours)
    yield times("unchanged: lm-eval's cache, TRL's best again ÷ ours", 100, [*cached, best], ours)
    yield times("unchanged: ours, in seconds", 1.0, ours)
    yield times("one held-out row added ÷ cold, ours as shipped", 0.15, ["ours, one row added"], ["ours, as shipped"])
    one = suites[min(suites)]
    for count, ran in suites.items():
        if ran is not one:
            cpu, wall = ran.cpu_seconds / one.cpu_seconds, ran.wall_seconds / one.wall_seconds
            yield Ratio(f"{count} suites ÷ one, ours", cpu, count, wall, at_most=True)


def body(about: str, clock: Clock, agreed: Sequence[str], suites: Mapping[int, Ran], sizes: Sizes) -> Iterator[str]:
    """Yield what stands below the ratios; ``about`` says which model."""
    yield f"{about}. {race.SOURCE} {sizes(TRAIN):,} train rows, one epoch of LoRA r 8, batch 8; "
    yield f"{sizes(HELDOUT)} held-out rows with a prompt of 300 tokens, 3 × {sizes(GENERAL_ROWS)} general rows; up to "
    yield f"{NEW_TOKENS} new tokens. Ours also answers {sizes(DEV)} dev rows for the baseline and twice in training."
    yield "`all rows`: --finetune-no-early-stop, one prompt, so that both sides do the same work. `as shipped`: the "
    yield "same prompt, early stop. `default search`: the default search for the best prompt, early stop."
    yield from ("", "| command | seconds | of CPU | peak of one process, MiB |", "| --- | --- | --- | --- |")
    for name, ran in clock.ran.items():
        yield f"| {name} | {ran.wall_seconds:.1f} | {ran.cpu_seconds:.1f} | {ran.peak_bytes / 2**20:,.0f} |"
    yield from ("", "## The same answers", "", *agreed, "")
    yield from ("## Suites on one base model", "", f"{OF_MANY} train, held-out and 3 × general rows each.", "")
    yield from ("| suites | seconds | of CPU |", "| --- | --- | --- |")
    yield from (f"| {count} | {ran.wall_seconds:.1f} | {ran.cpu_seconds:.1f} |" for count, ran in suites.items())


def main() -> None:
    """Race, and write the page."""
    parser: argparse.ArgumentParser = race.parser(__doc__, "verdict_race")
    peers.add_options(parser)
    parser.add_argument("--model", type=Path, help="a Llama's folder, in place of 6 M random weights")
    parser.add_argument("--suites", type=int, nargs="+", default=SUITES, help="numbers of suites on one base model")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows")
    options = parser.parse_args()
    racers, sizes = peers.racers(options), Sizes(options.scale)
    asked = race.questions(options.data)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = options.model.resolve() if options.model else race.model("6 M", root)
        clock, agreed = cold(racers, root, asked, model, sizes)
        suites = many(racers, root, asked, model, options.suites)
    about = f"Model {options.model.name}" if options.model else "6 M Llama, random weights"
    command = f"python -m benchmarks.verdict_race --data DIR --scale {options.scale:g}"
    page = race.page(
        "Time to the verdict",
        command,
        list(ratios(clock, suites)),
        list(body(about, clock, agreed, suites, sizes)),
        options.threads,
    )
    options.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
