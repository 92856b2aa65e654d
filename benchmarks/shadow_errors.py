"""How often the shadow's verdict is wrong when it is looked at after every pair, beside what peers would do.

    python -m benchmarks.shadow_errors --out benchmarks/results/shadow_errors.md

Everything is drawn and then judged by the shipped code; a run ends at the first look that settles it.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_finetune.shadow.config import Limits
from pytest_finetune.shadow.exchange import Exchange, Pair, Reply
from pytest_finetune.shadow.verdict import Scored, decide
from pytest_finetune.stats import eprocess

ALPHA = 0.05
PROOF = -math.log(ALPHA)
FEWEST = 30  # before which a z test does not look
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def _percent(count: float, of: int) -> str:
    rate = count / of
    return f"{100 * rate:.1f} ± {100 * math.sqrt(max(rate * (1 - rate), 1 / of) / of):.1f}"


def _three(loss: float, win: float) -> Draw:
    """Return paired differences of binary scores: losses, wins and ties."""
    return lambda rng, n: rng.choice([-1.0, 0.0, 1.0], n, p=[loss, 1 - loss - win, win])


def means(repetitions: int, pairs: int) -> Iterator[str]:
    """Yield rows: a paired mean exactly at its limit, a look after every pair."""
    drop = 0.02
    cases: dict[str, Draw] = {
        f"binary, {d:.0%} of pairs differ": _three(d / 2 + drop / 2, d / 2 - drop / 2) for d in (0.03, 0.05, 0.2, 0.5)
    }
    cases["only losses, 2 %"] = _three(drop, 0.0)
    cases["bounded, skewed"] = lambda rng, n: rng.beta(0.3, 0.3, n) - rng.beta(0.3, 0.3, n) - drop
    for name, draw in cases.items():
        rng = np.random.default_rng(0)
        wrong = np.zeros(4)
        for _ in range(repetitions):
            values = np.clip(draw(rng, pairs), -1, 1)
            n = np.arange(1, pairs + 1)
            mean = np.cumsum(values) / n
            spread = np.sqrt(np.maximum(np.cumsum(values**2) / n - mean**2, 0) / n)
            z = (mean - 1.645 * spread > -drop)[FEWEST:]
            wrong += [
                eprocess.mean_course(values, -drop).max() >= PROOF,
                z.any(),
                z[-1],
                mean[-1] > -drop,
            ]
        yield f"| quality, {name} | " + " | ".join(_percent(count, repetitions) for count in wrong) + " |"


def rates(repetitions: int, pairs: int) -> Iterator[str]:
    """Yield rows: an error rate exactly at its limit."""
    for bound in (0.01, 0.05):
        rng = np.random.default_rng(1)
        wrong = np.zeros(4)
        for _ in range(repetitions):
            events = np.cumsum(rng.random(pairs) < bound, dtype=np.int64)
            n = np.arange(1, pairs + 1)
            share = events / n
            z = (share + 1.645 * np.sqrt(share * (1 - share) / n) < bound)[FEWEST:]
            wrong += [eprocess.rate_course(events, n, bound).max() >= PROOF, z.any(), z[-1], share[-1] < bound]
        yield f"| error rate at {bound:.0%} | " + " | ".join(_percent(count, repetitions) for count in wrong) + " |"


def percentiles(repetitions: int, pairs: int) -> Iterator[str]:
    """Yield rows: a candidate exactly 1.5 times as slow at the 95th percentile, a look after every 20 pairs."""
    ratio, level = 1.5, 0.95
    kinds: dict[str, Draw] = {
        "log-normal": lambda rng, n: rng.lognormal(0, 0.5, n),
        "heavy tails (Pareto 1.5)": lambda rng, n: rng.pareto(1.5, n) + 0.1,
        "in steps of 0.1 s": lambda rng, n: np.ceil(rng.lognormal(0, 0.5, n) * 10) / 10,
    }
    for name, draw in kinds.items():
        rng = np.random.default_rng(2)
        wrong = np.zeros(3)
        for _ in range(repetitions):
            primary, candidate = draw(rng, pairs), ratio * draw(rng, pairs)
            looks: list[bool] = []
            points: list[bool] = []
            for n in range(20, pairs + 1, 20):
                low = eprocess.quantile_limits(primary[:n], level, ALPHA / 2)[0]
                high = eprocess.quantile_limits(candidate[:n], level, ALPHA / 2)[1]
                looks.append(bool(high < ratio * low))
                points.append(bool(np.quantile(candidate[:n], level) < ratio * np.quantile(primary[:n], level)))
            wrong += np.array([any(looks), any(points), points[-1]])
        shown = [_percent(count, repetitions) for count in wrong]
        yield f"| latency, {name} | {shown[0]} | {shown[1]} (ratio) | | {shown[2]} |"


def _pairs(rng: np.random.Generator, n: int, harm: str) -> tuple[list[Pair], dict[int, tuple[float, float]]]:
    """Return pairs of a candidate that is as the primary, but lies exactly at one limit, or breaks it (``worse``)."""
    made: list[Pair] = []
    scores: dict[int, tuple[float, float]] = {}
    seconds = rng.lognormal(0, 0.5, (n, 2))
    draws = rng.random((n, 4))
    losses, wins = (0.06, 0.04) if harm == "quality at its limit" else (0.15, 0.05) if harm == "worse" else (0.05, 0.05)
    for i in range(n):
        slow = 1.5 if harm == "latency at its limit" else 1.0
        fails = draws[i, 0] < (0.01 if harm == "errors at their limit" else 0.0)
        refuses = draws[i, 1] < (0.02 if harm == "refusals at their limit" else 0.0)
        invalid = draws[i, 2] < (0.02 if harm == "validity at its limit" else 0.0)
        both = (1.0, 0.0) if draws[i, 3] < losses else (0.0, 1.0) if draws[i, 3] < losses + wins else (1.0, 1.0)
        one = Reply(200, "", 0.1, float(seconds[i, 0]), text_digest="a", valid=True)
        other = Reply(
            500 if fails else 200,
            "HTTP 500" if fails else "",
            0.1,
            float(seconds[i, 1]) * slow,
            text_digest="b",
            valid=not (fails or invalid),
            refused=refuses,
        )
        made.append(Pair(Exchange(i, 0.0, str(i), "x", "/v1/chat/completions", "", "", None), one, other))
        scores[i] = both
    return made, scores


def verdicts(repetitions: int, pairs: int, every: int) -> Iterator[str]:
    """Yield rows: whole verdicts with every limit at its default, a look after every ``every`` pairs."""
    limits = Limits(schema="{}")
    harms = ["harmless", "errors at their limit", "validity at its limit", "refusals at their limit"]
    for harm in (*harms, "latency at its limit", "quality at its limit", "worse"):
        rng = np.random.default_rng(3)
        ends: dict[str, int] = {"PROMOTE": 0, "HOLD": 0, "REJECT": 0}
        took: list[int] = []
        for _ in range(repetitions):
            drawn, scores = _pairs(rng, pairs, harm)
            for n in range(every, pairs + 1, every):
                verdict = decide("x", drawn[:n], limits, [Scored("exact_match", scores)])
                if verdict.outcome != "HOLD":
                    took.append(n)
                    break
            ends[verdict.outcome] += 1
        shown = " | ".join(_percent(ends[name], repetitions) for name in ("PROMOTE", "REJECT", "HOLD"))
        yield f"| {harm} | {shown} | {int(np.median(took)) if took else '–'} |"


def needed(repetitions: int, pairs: int) -> Iterator[str]:
    """Yield rows: pairs until quality is proven, by how often two sides differ and by what is gained."""
    for differ in (0.02, 0.05, 0.1, 0.2):
        cells = []
        for gain in (0.0, 0.02, 0.05, 0.1):
            rng = np.random.default_rng(4)
            took = []
            win = (differ + gain) / 2
            if win > differ:
                cells.append("–")
                continue
            for _ in range(repetitions):
                course = eprocess.mean_course(_three(differ - win, win)(rng, pairs), -0.02)
                reached = np.flatnonzero(course >= PROOF)
                took.append(int(reached[0]) + 1 if reached.size else pairs)
            cells.append(f"{int(np.median(took)):,}")
        yield f"| {differ:.0%} | {' | '.join(cells)} |"


def page(options: Any) -> Iterator[str]:
    """Yield the lines of the page."""
    n, pairs = options.repetitions, options.pairs
    yield "# How often the shadow's verdict is wrong\n"
    yield f"`python -m benchmarks.shadow_errors --repetitions {n} --pairs {pairs}`; alpha 5 %, limits by default.\n"
    yield "## False proof of one claim, at its very limit, %\n"
    yield f"A look after every pair up to {pairs:,} (latency: every 20); then what peers do with the same draws.\n"
    yield "| truth at the limit | ours, every look | z test, every look | z test, only at the end | point threshold |"
    yield "| --- | --- | --- | --- | --- |"
    yield from means(n, pairs)
    yield from rates(n, pairs)
    yield from percentiles(max(n // 4, 1), pairs)
    whole, every = max(n // 5, 1), 50
    yield f"\n## Whole verdicts, %, a look after every {every} of {pairs:,} pairs, {whole} candidates each\n"
    yield "Schema, refusals, latency, errors and quality are all judged; the two sides differ in 10 % of scores.\n"
    yield "| candidate | PROMOTE | REJECT | HOLD | pairs, median of those settled |"
    yield "| --- | --- | --- | --- | --- |"
    yield from verdicts(whole, pairs, every)
    yield "\n## Pairs until quality is proven (median), max_drop 2 points\n"
    yield "| differ | no gain | + 2 points | + 5 points | + 10 points |"
    yield "| --- | --- | --- | --- | --- |"
    yield from needed(max(n // 5, 1), 20_000)


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000, help="of a single claim (1000)")
    parser.add_argument("--pairs", type=int, default=3000, help="looked at, at most (3000)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started, lines = time.perf_counter(), []
    for line in page(options):
        print(line, flush=True)
        lines.append(line)
    print(f"{time.perf_counter() - started:.0f} s")
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
