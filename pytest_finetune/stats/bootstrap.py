"""Limits for metrics of a whole data set, such as macro-F1, of which rows have no score: a paired bootstrap."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_finetune.stats.limits import FEWEST_ROWS, Floats, Limits, with_seeds

DRAWS = 1000
SEED = 20110513  # any number: the same resamples for every subject are what pairs them


@dataclass(frozen=True, slots=True)
class Redrawn:
    """A difference of two values, and of the two on each resample.

    Attributes:
        seeds: the difference on the rows as they are, of each seed, shape (seeds,).
        differences: the difference on each resample, on average over the seeds, shape (draws,).
        groups: independent draws (clusters, or rows) in the data set.
    """

    seeds: Floats
    differences: Floats
    groups: int


def resamples(clusters: Sequence[str], rows: int, draws: int = DRAWS) -> Iterator[Sequence[int]]:
    """Yield the rows of each resample, with replacement; whole clusters where there are any.

    The same for every subject measured on these rows, so that differences are paired.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8.
    """
    groups: dict[object, list[int]] = {}
    for row in range(rows):
        groups.setdefault((clusters[row] if clusters else "") or row, []).append(row)
    members = list(groups.values())
    generator = np.random.default_rng(SEED)
    for _ in range(draws):
        yield [row for group in generator.integers(len(members), size=len(members)) for row in members[group]]


def limits(suites: Sequence[Redrawn], alpha: float, alpha_refute: float) -> Limits:
    """Return limits for the mean of the suites' differences: t limits with the resamples' standard error.

    Percentiles hold their level as well (benchmarks/gate_validity.py), but refuting and later attempts
    have levels so small that they would take many more resamples; a standard error serves every level.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 12.2.
    """
    from scipy.special import stdtrit  # 0.1 s to import, and other metrics need none of it

    seeds = np.mean([suite.seeds for suite in suites], axis=0)
    estimate = float(seeds.mean())
    variance = sum(float(np.var(suite.differences, ddof=1)) for suite in suites) / len(suites) ** 2
    groups = min(suite.groups for suite in suites)
    if groups < FEWEST_ROWS:  # their resamples hardly differ: three rows, all won, would pass
        return Limits(estimate, -1.0, 1.0, f"none (fewer than {FEWEST_ROWS} rows)")
    # Resamples of rows that never differ never differ; one row in n + 2 is what they cannot rule out.
    error, freedom = with_seeds(variance or 1 / (groups + 2) / groups / len(suites), groups - 1, seeds)
    low, high = (float(stdtrit(freedom, level)) * error for level in (alpha, alpha_refute))
    return Limits(estimate, max(estimate + low, -1.0), min(estimate - high, 1.0), "paired bootstrap")


def redraw(
    value: Callable[[Sequence[str], Sequence[str]], float],
    predictions: Sequence[str],
    references: Sequence[str],
    clusters: Sequence[str],
) -> list[float]:
    """Return a metric's value on the rows as they are, and then on each resample."""
    found = [value(predictions, references)]
    for rows in resamples(clusters, len(predictions)):
        found.append(value([predictions[i] for i in rows], [references[i] for i in rows]))
    return found
