"""Evaluation against lm-evaluation-harness: answers and choices a CPU second, and that they are the same.

    python -m benchmarks.evaluation_race --data DIR [--peers DIR] [--threads 1] [--rounds 2] [--out FILE]

Every run is a process of its own, which asks three other rows first, so that imports and loading count
on neither side. lm-eval gets the better of batch 8 and 32. DIR holds banking77's `train.csv` and `test.csv`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers, race
from benchmarks.race import Questions, Ratio

COUNTS = {"generation": 96, "choice": 48}
GOALS = {"generation": 2.3, "choice": 30.0}
BATCHES = (8, 32)
NEW_TOKENS = 16
OURS = "ours"


@dataclass(frozen=True)
class Cell:
    """One task and subject: every side's runs."""

    task: str
    subject: str
    runs: Mapping[str, list[dict[str, Any]]]

    def rate(self, side: str, measure: str = "cpu_seconds") -> float:
        """Rows a second."""
        return COUNTS[self.task] / race.middle(self.runs[side], measure)

    def times(self, measure: str = "cpu_seconds") -> float:
        """How many times lm-eval's rate ours is."""
        return self.rate(OURS, measure) / self.rate(self.best, measure)

    @property
    def best(self) -> str:
        """lm-eval's faster batch."""
        return max((side for side in self.runs if side != OURS), key=self.rate)

    @property
    def lines(self) -> Iterator[str]:
        """A line of the table for each side, with the rows that it answers as ours does."""
        for side in self.runs:
            rates = f"{self.rate(side):.2f} | {self.rate(side, 'wall_seconds'):.2f}"
            same = f"{self.agreed(side)} of {COUNTS[self.task]}"
            yield f"| {self.task} | {self.subject} | {side} | {rates} | {same} |"

    def agreed(self, side: str) -> int:
        """The rows whose greedy text, or most likely choice, is the same."""
        return sum(_answer(a) == _answer(b) for a, b in zip(self._found(OURS), self._found(side), strict=True))

    def apart(self) -> float:
        """The largest difference of a log-likelihood, in nats."""
        pairs = zip(self._found(OURS), self._found(self.best), strict=True)
        return max(float(abs(a - b)) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))

    def _found(self, side: str) -> list[Any]:
        found: list[Any] = self.runs[side][0]["found"]
        return found


def _answer(found: Any) -> Any:
    return found if isinstance(found, str) else max(range(len(found)), key=found.__getitem__)


def cells(racers: peers.Racers, asked: Questions, folder: Path, rounds: int) -> Iterator[Cell]:
    """Race generation and choice, base model and adapter."""
    model, adapter = race.model("6 M", folder), folder / "adapter"
    adapter.mkdir()
    rows = asked.shared(asked.train[:400])
    training = {"method": "lora", "rank": 8, "alpha": 16, "batch_size": 8, "learning_rate": 4e-3, "seed": 0}
    racers.side(
        "ours", {"task": "ship", "model": str(model), "rows": rows, "epochs": 1, "folder": str(adapter), **training}
    )
    prompts = [row["prompt"] for row in asked.shared(asked.test[: max(COUNTS.values())])]
    warm = [row["prompt"] for row in asked.unshared(3)]  # nothing of these is of use for the measured ones
    for task, count in COUNTS.items():
        for subject in ("base", "adapter"):
            job = {
                "task": "evaluate",
                "model": str(model),
                "adapter": str(adapter) if subject == "adapter" else "",
                "prompts": prompts[:count],
                "warm": warm,
                "choices": asked.labels if task == "choice" else [],
                "max_new_tokens": NEW_TOKENS,
            }
            yield Cell(task, subject, race.alternate(sides(racers, job), rounds))


def sides(racers: peers.Racers, job: dict[str, Any]) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what runs the job on each side."""

    def theirs(batch: int) -> Callable[[], dict[str, Any]]:
        return lambda: racers.side("lm_eval_run", {**job, "batch_size": batch})

    return {OURS: lambda: racers.side("ours", job), **{f"lm-eval, batch {batch}": theirs(batch) for batch in BATCHES}}


def main() -> None:
    """Race, and write the page."""
    parser = race.parser(__doc__, "evaluation_race")
    peers.add_options(parser)
    options = parser.parse_args()
    racers = peers.racers(options)
    with tempfile.TemporaryDirectory() as name:
        found = list(cells(racers, race.questions(options.data), Path(name), options.rounds))
    ratios = [
        Ratio(f"{c.task}, {c.subject}: ours ÷ {c.best}", c.times(), GOALS[c.task], c.times("wall_seconds"))
        for c in found
    ]
    apart = max(c.apart() for c in found if c.task == "choice")
    body = [
        f"6 M Llama, random weights, and a LoRA of it taught 400 rows; {options.rounds} runs of each side in "
        f"alternation, medians. {race.SOURCE} A prompt of about 300 tokens; up to {NEW_TOKENS} new tokens, or the "
        f"log-likelihoods of {race.INTENTS} labels.",
        "",
        "| task | subject | side | rows a CPU second | a second | answered as ours |",
        "| --- | --- | --- | --- | --- | --- |",
        *(line for each in found for line in each.lines),
        "",
        f"Log-likelihoods of a whole label differ by {apart:.1e} nats at most.",
    ]
    command = "python -m benchmarks.evaluation_race --data DIR"
    page = race.page("Evaluation against lm-evaluation-harness", command, ratios, body, options.threads)
    options.out.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
