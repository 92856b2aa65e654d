"""Simulated gates: each function draws so many, and returns how often the shipped code says what.

Decisions are those of `gate.claim` and `judge.settle`; draws alone are made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks import peer_rules
from pytest_finetune import gate, ledger
from pytest_finetune.gate import Pair, Rule
from pytest_finetune.judge import Question, settle
from pytest_finetune.metrics.text import macro_f1
from pytest_finetune.records import Claim, Measurement
from pytest_finetune.stats import bootstrap, limits

ALPHA, MARGIN, DROP, GUARD, SUITES = 0.05, 0.05, 0.02, 0.05, 5
REFUTE = ALPHA / (2 + SUITES)  # superiority, pooled retention and a guard for each suite
FIXED = Rule(ALPHA, REFUTE)
RIGHT = 0.6  # share of the rows on which both agree that both have right
Floats = NDArray[np.float64]
Scores = tuple[Floats, Floats]  # before, after
Shares = dict[str, float]

# A pure function of four counts and levels, and most of the time: each combination is worked out once.
vars(limits)["tango"] = cache(limits.tango)


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


def binary(rng: Generator, n: int, difference: float, discordance: float) -> Scores:
    """Draw right and wrong of ``n`` rows, of which a share differs."""
    u = rng.random(n)
    won = u < (discordance + difference) / 2
    lost = (u < discordance) & ~won
    both = (u >= discordance) & (u < discordance + RIGHT * (1 - discordance))
    return (lost | both).astype(float), (won | both).astype(float)


def outcome(pairs: Sequence[Pair], bound: float, rule: Rule = FIXED) -> str:
    """Return what the shipped gate says of a claim."""
    return gate.claim("guard", "", pairs, bound, rule).outcome


def passes(pairs: Sequence[Pair], bound: float, rule: Rule = FIXED) -> bool:
    """Whether the shipped gate proves a claim."""
    return outcome(pairs, bound, rule) == "PASS"


# --- one claim on one data set -----------------------------------------------------------------


def binary_cell(rng: Generator, repetitions: int, n: int, bound: float, discordance: float) -> Shares:
    """Return passes at the bound, of ours and of the peers' rules on the same draws."""
    ours, drawn = 0, []
    for _ in range(repetitions):
        before, after = binary(rng, n, bound, discordance)
        ours += passes([pair((before, after))], bound)
        drawn.append(((after > before).sum(), (after < before).sum(), before.sum(), after.sum()))
    won, lost, right, right_after = np.array(drawn, dtype=np.int64).T
    peers = {
        name: math.nan if bound > 0 and name in peer_rules.OF_DROPS else float(rule(won, lost, n, bound).mean())
        for name, rule in peer_rules.RULES.items()
    }
    unpaired = float(peer_rules.unpaired_z(right, right_after, n, bound).mean())
    return {"ours": ours / repetitions, **peers, "unpaired z": unpaired}


def bounded_cell(rng: Generator, repetitions: int, n: int, shape: str) -> Shares:
    """Return passes of scores from 0 to 1, in clusters or not, that truly drop by the guard."""
    sizes = 1 + np.arange(n // 5) % 9 if shape == "clusters of 1 to 9" else np.full(n // 5, 5)
    rows = np.repeat(np.arange(sizes.size), sizes)
    clusters = tuple(f"c{i}" for i in rows) if "clusters" in shape else ()
    ours = plain = 0
    for _ in range(repetitions):
        start = 0.5
        if shape == "even":
            change = rng.uniform(-0.4, 0.4, n) - GUARD
        elif shape.startswith("rare large losses"):  # one row of sixteen
            start, change = 0.9, np.where(rng.random(n) < GUARD / 0.8, -0.8, 0.0)
            if shape.endswith("noise"):
                change = change + rng.uniform(-0.01, 0.01, n)
        elif shape == "beta":  # most rows lose little, a few much
            start, change = 1.0, -rng.beta(0.2, 3.8, n)
        elif shape == "rare lost clusters of 5":
            start, change = 0.9, np.where(rng.random(sizes.size) < GUARD / 0.8, -0.8, 0.0)[rows]
        else:
            own = 0.15 * rng.standard_normal(sizes.size).clip(-2, 2)
            change = own[rows] + rng.uniform(-0.1, 0.1, rows.size) - GUARD
        before = np.full(change.size, start)
        ours += passes([pair((before, before + change), clusters)], -GUARD)
        plain += peer_rules.plain_t(change, -GUARD)
    return {"ours": ours / repetitions, "plain t": plain / repetitions}


def power_cell(rng: Generator, repetitions: int, n: int, difference: float, bound: float, discordance: float) -> Shares:
    """Return how often so many rows prove a true difference, and how often they refute it."""
    said = [outcome([pair(binary(rng, n, difference, discordance))], bound) for _ in range(repetitions)]
    return {"pass": said.count("PASS") / repetitions, "fail": said.count("FAIL") / repetitions}


# --- several suites, seeds, attempts and looks -------------------------------------------------


def pooled_cell(rng: Generator, repetitions: int, suites: int, n: int, discordance: float) -> Shares:
    """Return passes of pooled retention where every suite truly drops by the limit; discordance 0: skewed scores."""

    def drawn() -> Pair:
        if discordance:
            return pair(binary(rng, n, -DROP, discordance))
        return pair((np.ones(n), np.where(rng.random(n) < DROP / 0.4, 0.6, 1.0)))

    wrong = smoothed = 0
    for _ in range(repetitions):
        pairs = [drawn() for _ in range(suites)]
        wrong += passes(pairs, -DROP)
        smoothed += peer_rules.smoothed_z([own.samples[0].totals for own in pairs], -DROP)
    return {"ours": wrong / repetitions, "smoothed z": smoothed / repetitions}


def at_guard_cell(rng: Generator, repetitions: int, discordance: float) -> Shares:
    """Return how often one of five suites that lie exactly at their guard is refuted."""
    refuted = {"ours": 0, "uncorrected": 0}
    for _ in range(repetitions):
        drawn = [pair(binary(rng, 500, -GUARD, discordance)) for _ in range(SUITES)]
        for name, rule in (("ours", FIXED), ("uncorrected", Rule(ALPHA, ALPHA))):
            refuted[name] += any(outcome([own], -GUARD, rule) == "FAIL" for own in drawn)
    return {name: count / repetitions for name, count in refuted.items()}


def seeds_cell(rng: Generator, repetitions: int, seeds: int, spread: float) -> Shares:
    """Return passes of a recipe whose gain over all its seeds is the margin; beside it, of its first seed."""
    wrong = first = 0
    for _ in range(repetitions):
        before = (rng.random(500) < 0.5).astype(float)
        after = []
        for gain in MARGIN + spread * rng.standard_normal(seeds):  # 5 % of the rows are lost
            u = rng.random(500)
            after.append(measured(np.where(before == 1, u >= 0.1, u < (0.05 + gain) / 0.5).astype(float)))
        base = measured(before)
        wrong += passes([Pair(tuple(after), base)], MARGIN)
        first += passes([Pair((after[0],), base)], MARGIN)
    return {"ours": wrong / repetitions, "by one seed": first / repetitions}


def attempts_cell(rng: Generator, repetitions: int, attempts: int) -> Shares:
    """Return how often the best of several adapters at the margin passes on one set of rows."""
    wrong = {"ours": 0, "each at 5 %": 0}
    for _ in range(repetitions):
        before = (rng.random(500) < 0.5).astype(float)
        drawn = []
        for _ in range(attempts):  # 12.5 % of the rows are won, and 7.5 % lost
            u = rng.random(500)
            drawn.append([pair((before, np.where(before == 1, u >= 0.15, u < 0.25).astype(float)))])
        spends = [Rule(ledger.alpha_of(ALPHA, k), REFUTE) for k in range(1, attempts + 1)]
        wrong["ours"] += any(passes(own, MARGIN, rule) for own, rule in zip(drawn, spends, strict=True))
        wrong["each at 5 %"] += any(passes(own, MARGIN) for own in drawn)
    return {name: count / repetitions for name, count in wrong.items()}


def peeking_cell(rng: Generator, repetitions: int, bound: float, discordance: float) -> Shares:
    """Return passes at the bound where 500 rows are looked at while they grow."""
    question, rule = [Question("superiority", "", (0,), bound)], Rule(ALPHA, REFUTE, 5)
    often = np.arange(20, 501, 20)
    ours = each = 0
    counts = []
    for _ in range(repetitions):
        before, after = binary(rng, 500, bound, discordance)
        ours += settle(question, partial(_seen, [(before, after)]), rule).claims[0].outcome == "PASS"
        each += any(passes([_seen([(before, after)], 0, look)], bound) for look in range(1, 6))
        counts.append((np.cumsum(after > before)[often - 1], np.cumsum(after < before)[often - 1]))
    won, lost = np.array(counts).transpose(1, 0, 2)
    five = slice(4, None, 5)
    return {
        "ours": ours / repetitions,
        "5 % at each of 5 looks": each / repetitions,
        "5 % at each of 25 (paired t)": float(peer_rules.paired_t(won, lost, often, bound).any(axis=1).mean()),
        "point at each of 5": float(
            peer_rules.point(won[:, five], lost[:, five], often[five], bound).any(axis=1).mean()
        ),
    }


def _seen(data: Sequence[Scores], number: int, look: int, of: int = 5) -> Pair:
    before, after = data[number]
    rows = round(look / of * len(before))
    return pair((before[:rows], after[:rows]))


# --- metrics of a whole data set ---------------------------------------------------------------

LABELS, LABEL_SHARES = "abcd", (0.4, 0.3, 0.2, 0.1)


def whole_cell(rng: Generator, repetitions: int, metric: str, n: int, worse: float) -> Shares:
    """Return passes of a metric of all rows at its true difference, by the shipped bootstrap and by percentiles.

    What rows count for is drawn; a resample's value comes from their sum, so that all resamples are one product.
    """
    resampled = np.array([np.bincount(list(rows), minlength=n) for rows in bootstrap.resamples((), n)], float)
    value = f1_of_sums if metric == "macro-F1" else bleu_of_sums
    bound = -f1_drop(worse) if worse else 0.0
    ours = percentile = 0
    for repetition in range(repetitions):
        drawn = label_rows(rng, n, worse) if metric == "macro-F1" else bleu_rows(rng, n)
        if metric == "macro-F1" and not repetition:
            _agrees(drawn[0], resampled)
        values = [(float(value(rows.sum(axis=0, keepdims=True))[0]), value(resampled @ rows)) for rows in drawn]
        before, after = (
            Measurement("m", "r", metric, ids(n), (), (0.0,) * n, whole=own, redrawn=tuple(again.tolist()))
            for own, again in values
        )
        ours += passes([Pair((after,), before)], bound)
        percentile += float(np.quantile(values[1][1] - values[0][1], ALPHA)) > bound
    return {"ours": ours / repetitions, "percentiles": percentile / repetitions}


def label_rows(rng: Generator, n: int, worse: float) -> Scores:
    """Draw the labels of rows and of two classifiers; shape (rows, told x said). Both find the same rows hard."""
    told, hard = rng.choice(4, n, p=LABEL_SHARES), rng.random(n) * 0.5
    drawn = []
    for wrong in (0.3, 0.3 + worse):
        guessed = rng.random(n) < hard + wrong - 0.25
        said = np.where(guessed, rng.integers(4, size=n), told)
        drawn.append(np.eye(16)[4 * told + said])
    return drawn[0], drawn[1]


def f1_drop(worse: float) -> float:
    """Return how far the macro-F1 of endless rows falls where so many more are guessed."""
    values = []
    for wrong in (0.3, 0.3 + worse):
        table = np.outer(LABEL_SHARES, np.full(4, wrong / 4)) + (1 - wrong) * np.diag(LABEL_SHARES)
        values.append(float(f1_of_sums(table.reshape(1, 16))[0]))
    return values[0] - values[1]


def f1_of_sums(sums: Floats) -> Floats:
    """Return the macro-F1 of counts of (told, said), shape (draws, 16)."""
    table = sums.reshape(-1, 4, 4)
    told, both = table.sum(axis=2), table.sum(axis=2) + table.sum(axis=1)
    f1 = 2 * table.diagonal(axis1=1, axis2=2) / np.maximum(both, 1e-12)
    found: Floats = f1.sum(axis=1, where=told > 0) / (told > 0).sum(axis=1)
    return found


def _agrees(rows: Floats, resampled: Floats) -> None:
    """Refuse to go on where the sums give another macro-F1 than what ships."""
    told, said = ([LABELS[i] for i in half] for half in np.divmod(rows.argmax(axis=1), 4))
    shipped = bootstrap.redraw(macro_f1, said, told, ())[1:]
    if not np.allclose(shipped, f1_of_sums(resampled @ rows)):
        raise AssertionError("macro-F1 by sums is not the shipped one")


def bleu_rows(rng: Generator, n: int) -> Scores:
    """Draw two translators of one quality: n-grams that match and n-grams, for 1 to 4, and both lengths."""
    length, quality = 8 + rng.poisson(10, n), rng.beta(6, 3, n)
    drawn = []
    for _ in range(2):
        own = length + rng.integers(-2, 3, n)
        right = (rng.random((n, 60)) < quality[:, None]) & (np.arange(60) < own[:, None])
        runs, columns = right, []
        for gram in range(1, 5):
            columns += [runs.sum(axis=1), own - gram + 1]
            runs = runs[:, :-1] & right[:, gram:]
        drawn.append(np.stack([*columns, own, length], axis=1).astype(float))
    return drawn[0], drawn[1]


def bleu_of_sums(sums: Floats) -> Floats:
    """Return corpus BLEU (Papineni 2002) of summed n-grams and lengths, shape (draws, 10)."""
    precisions = np.log(np.maximum(sums[:, 0:8:2], 1e-12) / sums[:, 1:8:2]).mean(axis=1)
    found: Floats = np.exp(precisions + np.minimum(0, 1 - sums[:, 9] / sums[:, 8]))
    return found


# --- a whole verdict ---------------------------------------------------------------------------


def verdict_cell(rng: Generator, repetitions: int, gain: float, drops: tuple[float, ...], looked: int) -> Shares:
    """Return outcomes of both calls together, and the share of 500 + 5 x 1000 rows that was measured."""
    rule, used = Rule(ALPHA, REFUTE, looked), 0
    count = {"PASS": 0, "FAIL": 0, "INCONCLUSIVE": 0}
    keeps = [Question("retention", "", tuple(range(SUITES)), -DROP)]
    keeps += [Question("guard", "", (i,), -GUARD) for i in range(SUITES)]
    for _ in range(repetitions):
        heldout = [binary(rng, 500, gain, max(0.2, abs(gain)))]
        general = [binary(rng, 1000, drop, max(0.05, abs(drop) + 0.02)) for drop in drops]
        claims: list[Claim] = []
        for questions, data in (([Question("superiority", "", (0,), MARGIN)], heldout), (keeps, general)):
            settled = settle(questions, partial(_seen, data, of=looked), rule)
            claims += settled.claims
            used += sum(len(part.first.ids) for part in settled.pairs.values())
        count[gate.outcome(claims)] += 1
    shares = {name.lower(): number / repetitions for name, number in count.items()}
    return shares | {"generated": used / repetitions / 5500}
