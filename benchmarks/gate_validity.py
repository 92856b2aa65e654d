"""How often the gate is wrong, by simulation through the shipped code, beside the rules that others ship.

    python -m benchmarks.gate_validity [--gates 20000] [--out FILE]

Each cell simulates so many gates from a fixed seed. At the boundary (the truth exactly at the margin or
the limit) a pass is false; the gate promises 5 % at most. Two processes, about ten minutes.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peer_rules
from pytest_finetune import gate, ledger
from pytest_finetune.gate import Pair, Rule
from pytest_finetune.judge import Question, settle
from pytest_finetune.metrics.text import macro_f1
from pytest_finetune.records import Claim, Measurement
from pytest_finetune.stats import bootstrap, looks, planner

OUT = Path(__file__).parent / "results" / "gate_validity.md"
ALPHA, MARGIN, DROP, GUARD = 0.05, 0.05, 0.02, 0.05
SEED = 20261124
FIXED = Rule(ALPHA, ALPHA)
RIGHT = 0.6  # share of the rows on which both agree that both have right
Floats = NDArray[np.float64]
Scores = tuple[Floats, Floats]  # before, after


@cache
def ids(n: int) -> tuple[str, ...]:
    """Return names of so many rows."""
    return tuple(map(str, range(n)))


def measured(scores: Floats, clusters: tuple[str, ...] = ()) -> Measurement:
    """Return scores as the measurement that stages hand to the gate."""
    return Measurement("one", "rows", "metric", ids(len(scores)), (), tuple(scores.tolist()), clusters)


def pair(scores: Scores, clusters: tuple[str, ...] = ()) -> Pair:
    """Return scores before and after as the gate compares them."""
    return Pair((measured(scores[1], clusters),), measured(scores[0], clusters))


def binary(rng: np.random.Generator, n: int, difference: float, discordance: float) -> Scores:
    """Draw right and wrong of ``n`` rows, of which a share disagrees."""
    u = rng.random(n)
    won = u < (discordance + difference) / 2
    lost = (u < discordance) & ~won
    both = (u >= discordance) & (u < discordance + RIGHT * (1 - discordance))
    return (lost | both).astype(float), (won | both).astype(float)


def passes(pairs: Sequence[Pair], bound: float, rule: Rule = FIXED) -> bool:
    """Whether the shipped gate proves a claim."""
    return gate.claim("guard", "", pairs, bound, rule).outcome == "PASS"


# --- one claim ---------------------------------------------------------------------------------


def binary_cell(gates: int, n: int, bound: float, discordance: float) -> dict[str, float]:
    """Return false passes at the bound, of ours and of the peers' rules on the same draws."""
    rng = np.random.default_rng(SEED)
    ours, drawn = 0, []
    for _ in range(gates):
        before, after = binary(rng, n, bound, discordance)
        ours += passes([pair((before, after))], bound)
        drawn.append(((after > before).sum(), (after < before).sum(), before.sum(), after.sum()))
    won, lost, right, right_after = np.array(drawn, dtype=np.int64).T
    few = slice(0, max(1, gates // 10))  # a bootstrap of each is slow
    return {
        "ours": ours / gates,
        "point": peer_rules.point(won, lost, n, bound).mean(),
        "McNemar": peer_rules.mcnemar(won, lost, n, bound).mean(),
        "McNemar + drop": peer_rules.mcnemar_drop(won, lost, n, bound).mean(),
        "unpaired z": peer_rules.unpaired_z(right, right_after, n, bound).mean(),
        "paired t": peer_rules.paired_t(won, lost, n, bound).mean(),
        "bootstrap": peer_rules.bootstrap(won[few], lost[few], n, bound).mean(),
    }


def bounded_cell(gates: int, n: int, shape: str) -> dict[str, float]:
    """Return false passes of bounded or clustered scores whose true difference is the bound."""
    rng = np.random.default_rng(SEED)
    clusters: tuple[str, ...] = ()
    if shape.startswith("clusters"):
        sizes = np.full(n // 5, 5) if shape == "clusters of 5" else 1 + np.arange(n // 5) % 9
        rows = np.repeat(np.arange(sizes.size), sizes)
        clusters = tuple(f"c{i}" for i in rows)
    ours = plain = 0
    for _ in range(gates):
        if shape == "rare large losses":  # 0.8 points lost on one row of sixteen
            change = np.where(rng.random(n) < GUARD / 0.8, -0.8, 0.0)
        elif shape == "even":
            change = -GUARD + rng.uniform(-0.4, 0.4, n)
        elif shape == "beta":
            change = 0.45 - 0.5 - rng.beta(0.3, 0.3, n) * 0.8 + 0.4
        else:
            own_change = 0.2 * rng.standard_normal(sizes.size).clip(-2, 2)
            change = -GUARD + own_change[rows] + rng.uniform(-0.1, 0.1, rows.size)
        before = np.full(change.size, 0.9 if shape == "rare large losses" else 0.5)
        own = pair((before, (before + change).clip(0, 1)), clusters)
        ours += passes([own], -GUARD)
        mean, error = change.mean(), change.std(ddof=1) / math.sqrt(change.size)
        plain += mean - 1.645 * error > -GUARD
    return {"ours": ours / gates, "plain t": plain / gates}


def pooled_cell(gates: int, suites: int, n: int, discordance: float) -> dict[str, float]:
    """Return false passes of pooled retention where every suite drops by exactly the limit."""
    rng = np.random.default_rng(SEED)
    wrong = sum(passes([pair(binary(rng, n, -DROP, discordance)) for _ in range(suites)], -DROP) for _ in range(gates))
    return {"ours": wrong / gates}


def at_guard_cell(gates: int, claims: int) -> dict[str, float]:
    """Return how often one of five suites that lie exactly at their guard is refuted."""
    rng, rule = np.random.default_rng(SEED), Rule(ALPHA, ALPHA / claims)
    wrong = 0
    for _ in range(gates):
        drawn = [pair(binary(rng, 500, -GUARD, 0.1)) for _ in range(5)]
        wrong += any(gate.claim("guard", "", [own], -GUARD, rule).outcome == "FAIL" for own in drawn)
    return {"ours": wrong / gates}


def power_cell(gates: int, difference: float, bound: float, discordance: float) -> dict[str, float]:
    """Return how often the planner's number of rows proves a true difference."""
    rng = np.random.default_rng(SEED)
    n = planner.rows_needed(difference, bound, discordance)
    assert n
    shown = sum(passes([pair(binary(rng, n, difference, discordance))], bound) for _ in range(gates))
    return {"n": n, "power": shown / gates}


def seeds_cell(gates: int, seeds: int, spread: float) -> dict[str, float]:
    """Return false passes of a recipe whose mean gain over seeds is the margin."""
    rng, wrong = np.random.default_rng(SEED), 0
    for _ in range(gates):
        before = (rng.random(500) < 0.5).astype(float)
        after = []
        for gain in MARGIN + spread * rng.standard_normal(seeds):
            lost = 0.05 / 0.5  # of the rows that were right
            won = (0.05 + gain) / 0.5  # of those that were wrong
            u = rng.random(500)
            after.append(measured(np.where(before == 1, u >= lost, u < won).astype(float)))
        wrong += passes([Pair(tuple(after), measured(before))], MARGIN)
    return {"ours": wrong / gates}


def attempts_cell(gates: int, attempts: int, spends: bool) -> dict[str, float]:
    """Return how often the best of several adapters at the margin passes on one set of rows."""
    rng, wrong = np.random.default_rng(SEED), 0
    for _ in range(gates):
        before = (rng.random(500) < 0.5).astype(float)
        for attempt in range(1, attempts + 1):
            u = rng.random(500)
            after = np.where(before == 1, u >= 0.15, u < 0.25).astype(float)  # won 12.5 %, lost 7.5 %
            alpha = ledger.alpha_of(ALPHA, attempt) if spends else ALPHA
            if passes([pair((before, after))], MARGIN, Rule(alpha, ALPHA)):
                wrong += 1
                break
    return {"ours": wrong / gates}


def whole_cell(gates: int, n: int) -> dict[str, float]:
    """Return false passes of macro-F1 at a true difference of 0, by the shipped bootstrap and by percentiles."""
    rng = np.random.default_rng(SEED)
    names, shares = ("a", "b", "c", "d"), (0.4, 0.3, 0.2, 0.1)
    ours = percentile = 0
    for _ in range(gates):
        told = [names[i] for i in rng.choice(4, n, p=shares)]
        drawn = []
        for _ in range(2):
            wrong = rng.random(n) < 0.3
            said = [names[i] for i in rng.choice(4, n)]
            drawn.append([s if w else t for s, w, t in zip(said, wrong, told, strict=True)])
        values = [bootstrap.redraw(macro_f1, answers, told, ()) for answers in drawn]
        before, after = (
            Measurement("m", "r", "f1", ids(n), (), (0.0,) * n, whole=value[0], redrawn=tuple(value[1:]))
            for value in values
        )
        ours += passes([Pair((after,), before)], 0.0)
        percentile += float(np.quantile(np.subtract(after.redrawn, before.redrawn), ALPHA)) > 0
    return {"ours": ours / gates, "percentile": percentile / gates}


def peeking_cell(gates: int, corrected: bool) -> dict[str, float]:
    """Return false passes at the margin where the rows are looked at five times."""
    rng, wrong = np.random.default_rng(SEED), 0
    rule = Rule(ALPHA, ALPHA, 5)
    for _ in range(gates):
        before, after = binary(rng, 500, MARGIN, 0.2)
        parts = [pair((before[: 100 * look], after[: 100 * look])) for look in range(1, 6)]
        if corrected:
            question = Question("superiority", "", (0,), MARGIN)
            wrong += settle([question], partial(_at, parts), rule).claims[0].outcome == "PASS"
        else:
            wrong += any(passes([part], MARGIN) for part in parts)
    return {"ours": wrong / gates}


# --- a whole verdict ---------------------------------------------------------------------------

TRUTHS: dict[str, tuple[float, tuple[float, ...]]] = {
    "+0.12 and no drop": (0.12, (0.0,) * 5),
    "exactly +0.05 (the margin)": (0.05, (0.0,) * 5),
    "one suite -0.05": (0.12, (-0.05, 0, 0, 0, 0)),
    "one suite -0.10": (0.12, (-0.10, 0, 0, 0, 0)),
    "all suites -0.05": (0.12, (-0.05,) * 5),
    "collapse, -0.20": (-0.20, (-0.20,) * 5),
}


def verdict_cell(gates: int, gain: float, drops: tuple[float, ...]) -> dict[str, float]:
    """Return outcomes and the share of rows measured: 500 held-out rows and five suites of 1000, five looks."""
    rng = np.random.default_rng(SEED)
    rule = Rule(ALPHA, ALPHA / (2 + len(drops)), 5)
    count = {"PASS": 0, "FAIL": 0, "INCONCLUSIVE": 0}
    used = 0
    asked = [Question("retention", "", tuple(range(5)), -DROP)]
    asked += [Question("guard", "", (i,), -GUARD) for i in range(5)]
    for _ in range(gates):
        heldout = binary(rng, 500, gain, max(0.2, abs(gain)))
        general = [binary(rng, 1000, drop, max(0.05, abs(drop) + 0.02)) for drop in drops]
        calls = (([Question("superiority", "", (0,), MARGIN)], [heldout]), (asked, general))
        claims: list[Claim] = []
        for questions, data in calls:
            settled = settle(questions, partial(_seen, data), rule)
            claims += settled.claims
            used += sum(len(part.first.ids) for part in settled.pairs.values())
        count[gate.outcome(claims)] += 1
    return {name: number / gates for name, number in count.items()} | {"used": used / gates / 5500}


def _seen(data: Sequence[Scores], number: int, look: int) -> Pair:
    before, after = data[number]
    rows = round(looks.SHARES[look - 1] * len(before))
    return pair((before[:rows], after[:rows]))


def _at(parts: Sequence[Pair], number: int, look: int) -> Pair:
    return parts[look - 1]


# --- the tables --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One cell: a function of the number of gates and its arguments; slow ones simulate fewer gates."""

    run: Callable[..., dict[str, float]]
    arguments: tuple[Any, ...]
    fewer: int = 1

    def result(self, gates: int) -> dict[str, float]:
        """Simulate."""
        return self.run(max(gates // self.fewer, 20), *self.arguments)


SUPERIORITY = [(n, MARGIN, psi) for psi in (0.05, 0.1, 0.2, 0.4) for n in (100, 200, 500)]
RETENTION = [(n, -GUARD, psi) for psi in (0.05, 0.1, 0.2) for n in (100, 200, 500)]
RETENTION += [(n, -DROP, psi) for psi in (0.05, 0.1) for n in (500, 1000)]
SHAPES = ("rare large losses", "even", "beta", "clusters of 5", "clusters of 1 to 9")
BOUNDED = [(n, shape) for shape in SHAPES for n in (100, 500)]
POOLED = [(5, 500, 0.02), (5, 500, 0.1), (5, 150, 0.1), (2, 500, 0.1)]
POWER = [(d, MARGIN, 0.2) for d in (0.08, 0.10, 0.15)]
POWER += [(0.0, -DROP, 0.05), (0.0, -DROP, 0.1), (0.0, -GUARD, 0.05), (0.0, -GUARD, 0.1), (0.0, -GUARD, 0.2)]
CELLS = {
    "superiority": [Cell(binary_cell, a) for a in SUPERIORITY],
    "retention": [Cell(binary_cell, a) for a in RETENTION],
    "bounded": [Cell(bounded_cell, a) for a in BOUNDED],
    "pooled": [Cell(pooled_cell, a) for a in POOLED],
    "at guard": [Cell(at_guard_cell, (claims,)) for claims in (7, 1)],
    "power": [Cell(power_cell, a) for a in POWER],
    "verdict": [Cell(verdict_cell, a) for a in TRUTHS.values()],
    "peeking": [Cell(peeking_cell, (corrected,)) for corrected in (True, False)],
    "attempts": [Cell(attempts_cell, (5, spends)) for spends in (True, False)],
    "seeds": [Cell(seeds_cell, a) for a in ((3, 0.0), (3, 0.01), (3, 0.03), (5, 0.03))],
    "whole": [Cell(whole_cell, (n,), fewer=50) for n in (100, 300)],
}


def percent(share: float, gates: int = 0) -> str:
    """Return a share in percent, with two standard errors of the simulation where its size is given."""
    error = f" ± {200 * math.sqrt(share * (1 - share) / gates):.1f}" if gates else ""
    return f"{100 * share:.1f}{error}"


def tables(found: dict[str, list[dict[str, float]]], gates: int) -> Iterator[str]:
    """Yield the report's lines."""
    rules = ["ours", "point", "McNemar", "McNemar + drop", "unpaired z", "paired t", "bootstrap"]
    for title, name, cells in (
        ("Superiority, the truth exactly at the margin of 5 points: false pass, %", "superiority", SUPERIORITY),
        ("Non-inferiority, the truth exactly at the limit: false pass, %", "retention", RETENTION),
    ):
        yield from (f"\n## {title}\n", f"| rows | bound | discordance | {' | '.join(rules)} |", "| --- " * 10 + "|")
        for (n, bound, psi), cell in zip(cells, found[name], strict=True):
            shown = [percent(cell["ours"], gates), *(percent(cell[rule]) for rule in rules[1:])]
            yield f"| {n} | {bound:+.2f} | {psi} | **{shown[0]}** | {' | '.join(shown[1:])} |"
    yield from ("\n## Bounded and clustered scores at the guard: false pass, %\n", "| scores | rows | ours | plain t |")
    yield "| --- | --- | --- | --- |"
    for (n, shape), cell in zip(BOUNDED, found["bounded"], strict=True):
        yield f"| {shape} | {n} | **{percent(cell['ours'], gates)}** | {percent(cell['plain t'])} |"
    yield from ("\n## Pooled retention, every suite exactly at the limit of 2 points: false pass, %\n",)
    yield from ("| suites | rows each | discordance | ours |", "| --- | --- | --- | --- |")
    for (suites, n, psi), cell in zip(POOLED, found["pooled"], strict=True):
        yield f"| {suites} | {n} | {psi} | **{percent(cell['ours'], gates)}** |"
    yield "\n## Other error rates, %\n"
    yield "| what | ours | without the rule |\n| --- | --- | --- |"
    for name, what in (
        ("at guard", "five suites exactly at their guard: one is refuted"),
        ("peeking", "five looks at 500 rows, the truth at the margin: false pass"),
        ("attempts", "best of 5 adapters at the margin on one set: false pass"),
    ):
        corrected, plain = (cell["ours"] for cell in found[name])
        yield f"| {what} | **{percent(corrected, gates)}** | {percent(plain)} |"
    for about, cell in zip(CELLS["seeds"], found["seeds"], strict=True):
        seeds, spread = about.arguments
        what = f"a recipe at the margin, {seeds} seeds that differ by {spread}: false pass"
        yield f"| {what} | **{percent(cell['ours'], gates)}** | |"
    for cell, about in zip(found["whole"], CELLS["whole"], strict=True):
        own = max(gates // about.fewer, 20)
        text = f"macro-F1 of {about.arguments[0]} rows, no difference ({own} gates): false pass"
        yield f"| {text} | **{percent(cell['ours'], own)}** | {percent(cell['percentile'])} (percentiles) |"
    yield "\n## A whole verdict: 500 held-out rows, five general suites of 1000, five looks\n"
    yield "| truth | pass | fail | inconclusive | rows measured |\n| --- | --- | --- | --- | --- |"
    for truth, cell in zip(TRUTHS, found["verdict"], strict=True):
        numbers = [percent(cell[name], gates) for name in ("PASS", "FAIL", "INCONCLUSIVE")]
        yield f"| {truth} | {' | '.join(numbers)} | {percent(cell['used'])} |"
    yield "\n## Power at the planner's number of rows, %\n"
    yield "| true difference | bound | discordance | rows | power |\n| --- | --- | --- | --- | --- |"
    for (difference, bound, psi), cell in zip(POWER, found["power"], strict=True):
        yield f"| {difference:+.2f} | {bound:+.2f} | {psi} | {cell['n']:.0f} | {percent(cell['power'], gates)} |"
    yield "\n## The binary limit's exact level at its worst discordance, %\n"
    sizes = (30, 50, 100, 200, 500)
    yield f"| bound | {' | '.join(f'n = {n}' for n in sizes)} |\n| --- " + "| --- " * len(sizes) + "|"
    for bound in (0.0, 0.02, 0.05, 0.1, -0.02, -0.05):
        worst = [max(peer_rules.exact_level(n, bound, abs(bound) + extra) for extra in EXTRA) for n in sizes]
        yield f"| {bound:+.2f} | {' | '.join(percent(level) for level in worst)} |"


EXTRA = (0.001, 0.01, 0.03, 0.07, 0.15, 0.3, 0.6)  # discordance above the least possible


def _run(job: tuple[str, int, int]) -> tuple[str, int, dict[str, float]]:
    name, index, gates = job
    return name, index, CELLS[name][index].result(gates)


def main() -> None:
    """Run all cells and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    started = time.perf_counter()
    jobs = [(name, index, options.gates) for name, cells in CELLS.items() for index in range(len(cells))]
    jobs.sort(key=lambda job: job[0] not in ("verdict", "whole"))  # the longest first
    found: dict[str, list[dict[str, float]]] = {name: [{}] * len(cells) for name, cells in CELLS.items()}
    with multiprocessing.Pool(2) as pool:
        for name, index, cell in pool.imap_unordered(_run, jobs):
            found[name][index] = cell
            print(f"{time.perf_counter() - started:5.0f} s  {name} {index}: {cell}", flush=True)
    lines = list(tables(found, options.gates))
    one_claim = [c for name in ("superiority", "retention", "bounded", "pooled") for c in found[name]]
    at_bound = [cell["ours"] for cell in (*one_claim, found["peeking"][0])]
    seconds = time.perf_counter() - started
    harmless = found["verdict"][0]["FAIL"]
    head = [
        "# How often the gate is wrong",
        "",
        f"`python -m benchmarks.gate_validity --gates {options.gates}`, 2 cores, {seconds:.0f} s.",
        f"{options.gates:,} simulated gates a cell through `gate.claim` and `judge.settle`; ± is two standard errors.",
        "",
        f"Worst false pass at the boundary: **{percent(max(at_bound), options.gates)} %**; "
        f"false fail of a harmless adapter: **{percent(harmless, options.gates)} %**.",
    ]
    options.out.write_text("\n".join([*head, *lines]) + "\n")
    print("\n".join([*head, *lines]))


if __name__ == "__main__":
    main()
