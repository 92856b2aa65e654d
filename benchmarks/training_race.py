"""Training against TRL: examples a CPU second, memory, and the same losses.

    python -m benchmarks.training_race --data DIR [--peers DIR] [--threads 1] [--rounds 2] [--out FILE]

Every run is a process of its own, which trains one batch first, so that imports count on neither side;
what loading and tokenising the rows take counts on ours. TRL's best settings are the fastest of
`benchmarks.sides.trl_run.SETTINGS` on this machine. DIR holds banking77's `train.csv` and `test.csv`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers, race
from benchmarks.race import Ratio, Row
from benchmarks.sides.trl_run import SETTINGS
from pytest_finetune.methods import METHODS

JOB: dict[str, Any] = {
    "task": "train",
    "rank": 8,
    "alpha": 16,
    "batch_size": 8,
    "learning_rate": 2e-4,
    "seed": 0,
    "log_losses": True,
}
ROWS = {"6 M": 64, "60 M": 16}  # of a run; ours takes them EPOCHS times, or it would be over too soon to be measured
EPOCHS = 4
GOALS = {"6 M": (12.0, 6.0), "60 M": (14.0, 8.0)}
OURS, FLOAT32 = "ours", "fast, float32"


@dataclass(frozen=True)
class Cell:
    """One model on one kind of rows: every side's runs."""

    model: str
    rows: str
    runs: Mapping[str, list[dict[str, Any]]]

    def rate(self, side: str, measure: str = "cpu_seconds") -> float:
        """Examples a second."""
        return self.examples(side) / race.middle(self.runs[side], measure)

    def times(self, side: str, goal: float) -> Ratio:
        """How many times a side's rate ours is."""
        cpu, wall = (self.rate(OURS, measure) / self.rate(side, measure) for measure in ("cpu_seconds", "wall_seconds"))
        return Ratio(f"{self.model}, {self.rows}: ours ÷ TRL, {side}", cpu, goal, wall)

    def examples(self, side: str) -> int:
        """The examples of a run."""
        return ROWS[self.model] * (EPOCHS if side.startswith(OURS) else 1)

    @property
    def best(self) -> str:
        """TRL's fastest settings."""
        return max((side for side in self.runs if not side.startswith(OURS)), key=self.rate)

    @property
    def lines(self) -> Iterator[str]:
        """A line of the table for each side."""
        for side, runs in self.runs.items():
            wall = self.rate(side, "wall_seconds")
            memory = race.middle(runs, "added_bytes") / 2**20
            name = side if side.startswith(OURS) else f"TRL, {side}"
            yield f"| {self.model} | {self.rows} | {name} | {self.rate(side):.2f} | {wall:.2f} | {memory:,.0f} |"


def cell(racers: peers.Racers, model: tuple[str, Path], kind: str, rows: list[Row], rounds: int) -> Cell:
    """Race one model over one kind of rows."""
    job = {**JOB, "model": str(model[1]), "rows": rows[: ROWS[model[0]]], "method": "lora"}

    def theirs(settings: str) -> Callable[[], dict[str, Any]]:
        return lambda: racers.side("trl_run", {**job, "epochs": 1, "settings": settings})

    sides = {OURS: lambda: racers.side("ours", {**job, "epochs": EPOCHS}), **{name: theirs(name) for name in SETTINGS}}
    return Cell(model[0], kind, race.alternate(sides, rounds))


def methods(racers: peers.Racers, model: Path, kinds: Mapping[str, list[Row]]) -> Iterator[str]:
    """Yield a line for each of our methods: with a shared prompt, without, and how many times the rate."""
    yield from ("| method, 6 M | shared prompt | no shared prefix | × |", "| --- | --- | --- | --- |")
    for method in METHODS:
        rates = []
        for rows in kinds.values():
            job = {**JOB, "model": str(model), "rows": rows[: ROWS["6 M"]], "method": method, "epochs": 2}
            rates.append(ROWS["6 M"] * 2 / racers.side("ours", job)["cpu_seconds"])
        print(f"{method}: {rates}", flush=True)
        yield f"| {method} | {rates[0]:.1f} | {rates[1]:.1f} | {rates[0] / rates[1]:.2f} |"


def same_losses(racers: peers.Racers, model: Path, rows: list[Row]) -> Iterator[str]:
    """Yield the losses of the first steps: one batch, taught again and again, so that no order differs."""
    # Ours logs a quarter of an epoch at least, so its epochs are of one step.
    job = {**JOB, "model": str(model), "rows": rows[: JOB["batch_size"]], "method": "lora", "epochs": 5}
    found = {
        OURS: racers.side("ours", job)["losses"],
        f"TRL, {FLOAT32}": racers.side("trl_run", {**job, "settings": FLOAT32})["losses"],
    }
    ours, theirs = found.values()
    furthest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    yield f"The same batch, {len(ours)} steps of LoRA from seed 0 in float32; furthest apart: {furthest:.1e} nats."
    yield from (
        "",
        "| | " + " | ".join(f"step {n + 1}" for n in range(len(ours))) + " |",
        "| --- |" + " --- |" * len(ours),
    )
    yield from (f"| {name} | " + " | ".join(f"{loss:.5f}" for loss in losses) + " |" for name, losses in found.items())


def ratios(cells: list[Cell]) -> Iterator[Ratio]:
    """Yield the figures of the issue."""
    for each in cells:
        if each.rows == "no shared prefix":
            yield each.times(each.best, 1.5)
        else:
            defaults, best = GOALS[each.model]
            yield each.times("defaults", defaults)
            yield each.times(each.best, best)
        memory = [race.middle(each.runs[side], "added_bytes") for side in (OURS, each.best)]
        name = f"{each.model}, {each.rows}: bytes added by training, ours ÷ TRL, {each.best}"
        yield Ratio(name, memory[0] / memory[1], 0.5, at_most=True)


def main() -> None:
    """Race, and write the page."""
    parser = race.parser(__doc__, "training_race")
    peers.add_options(parser)
    options = parser.parse_args()
    racers = peers.racers(options)
    asked = race.questions(options.data)
    kinds = {"shared prompt": asked.shared(asked.train[:64]), "no shared prefix": asked.unshared(64)}
    with tempfile.TemporaryDirectory() as name:
        models = {size: race.model(size, Path(name)) for size in race.MODELS}
        losses = list(same_losses(racers, models["6 M"], kinds["shared prompt"]))
        cells = [
            cell(racers, model, kind, rows, options.rounds) for model in models.items() for kind, rows in kinds.items()
        ]
        table = list(methods(racers, models["6 M"], kinds))
    body = [
        f"LoRA r {JOB['rank']} on all linear layers, batch {JOB['batch_size']}; {options.rounds} runs of each side in "
        f"alternation, medians. {race.SOURCE} A prompt of about 300 tokens, a label of 12.",
        "",
        "| model | rows | side | examples a CPU second | a second | MiB added by training |",
        "| --- | --- | --- | --- | --- | --- |",
        *(line for each in cells for line in each.lines),
        "",
        "## The same losses",
        "",
        *losses,
        "",
        "## Our methods, examples a CPU second",
        "",
        *table,
    ]
    command = "python -m benchmarks.training_race --data DIR"
    page = race.page("Training against TRL", command, list(ratios(cells)), body, options.threads)
    options.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
