"""One-sided limits for a mean of paired differences: ``low`` at one level, ``high`` at another.

Proving that a true difference lies above a bound is ``low > bound``; refuting it is ``high < bound``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL = NormalDist()
FEWEST_ROWS = 30  # fewer binary rows make Tango's normal approximation too coarse
FEWEST_NONZERO = 30  # with fewer clusters of any difference a t interval passes 7 to 29 % on skewed scores
STEEP = 1e6  # in place of infinity, which no root finder takes
BET = 0.75  # share of the wealth that one bet may lose; Waudby-Smith and Ramdas 2023, section 4, call it c
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limits:
    """An estimate with one-sided limits: ``low`` at ``alpha``, ``high`` at ``alpha_refute``."""

    estimate: float
    low: float
    high: float
    statistic: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Paired differences, summed by cluster: independent draws, each of ``sizes`` rows.

    Attributes:
        totals: sum of the differences of each cluster, float64 of shape (clusters,).
        sizes: rows of each cluster, float64 of shape (clusters,).
        squares: sum of the squared differences of all rows.
        binary: whether every row is a cluster of its own, and every score 0 or 1.
    """

    totals: Floats
    sizes: Floats
    squares: float
    binary: bool = False

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.sizes.sum())

    @property
    def mean(self) -> float:
        """The mean difference of a row."""
        return float(self.totals.sum()) / self.rows

    def mirrored(self) -> "Sample":
        """Return the sample of the opposite differences."""
        return Sample(-self.totals, self.sizes, self.squares, self.binary)


def sample(before: Sequence[float], after: Sequence[float], clusters: Sequence[str] = ()) -> Sample:
    """Return the paired differences of two rows of scores.

    Args:
        before: scores from 0 to 1, a row each; empty: all 0, so that the difference is ``after`` itself.
        after: scores from 0 to 1 of the same rows.
        clusters: a name a row; rows of one name may depend on each other, one without a name stands alone.

    Raises:
        ValueError: a score is not in [0, 1], or there are no rows, or not equally many.
    """
    x, y = np.asarray(before if len(before) else np.zeros(len(after)), float), np.asarray(after, float)
    if not y.size or x.shape != y.shape or len(clusters) not in (0, y.size):
        raise ValueError(f"{x.size} and {y.size} scores; there must be equally many, and one at least")
    # NaN fails every comparison, so this is also how it is refused.
    if not (x.min() >= 0 and x.max() <= 1 and y.min() >= 0 and y.max() <= 1):
        raise ValueError("a score is not a number from 0 to 1")
    differences = y - x
    squares = float(differences @ differences)
    codes: dict[Any, int] = {}
    names = [codes.setdefault(name or i, len(codes)) for i, name in enumerate(clusters)]
    if len(codes) == len(names):  # each row stands alone, named or not
        binary = bool(np.all((x == 0) | (x == 1)) and np.all((y == 0) | (y == 1)))
        return Sample(differences, np.ones(y.size), squares, binary)
    totals, sizes = np.bincount(names, differences), np.bincount(names)
    return Sample(totals.astype(np.float64), sizes.astype(np.float64), squares)


def limits(differences: Sample, alpha: float, alpha_refute: float) -> Limits:
    """Return the limits of one data set by the statistic that holds its level there.

    Binary rows: Tango's score interval. Others: a cluster-robust t, corrected for skewness. Where binary
    rows are few, or few clusters show any difference, or all show the same: a betting bound, which holds
    for any sample size.
    """
    totals, sizes = differences.totals, differences.sizes
    if differences.binary and differences.rows >= FEWEST_ROWS:
        wins, losses = (int((sign * totals > 0).sum()) for sign in (1, -1))
        return tango(wins, losses, differences.rows, alpha, alpha_refute)
    # Of clusters of unequal sizes so many of one size would be worth as much (Kish 1965, Survey Sampling):
    # one that holds most rows drags the mean along, and its own residual shows no error.
    worth = min(float(np.count_nonzero(totals)), differences.rows**2 / float(sizes @ sizes))
    if differences.binary or worth < FEWEST_NONZERO or not np.ptp(totals / sizes):
        low, high = betting_low(differences, alpha), -betting_low(differences.mirrored(), alpha_refute)
        mean = differences.mean  # which the bound of an early, lucky stretch may lie beyond
        return Limits(mean, min(low, mean), max(high, mean), "betting")
    return cluster_t(differences, alpha, alpha_refute)


def worth(suites: Sequence[Sample]) -> float:
    """Return how many independent rows of one suite would be worth as much as these, pooled with equal weight.

    Clusters count as Kish's number of equal ones (as in :func:`limits`), which is cautious: rows of one
    cluster are taken as one.
    """
    independent = [suite.rows**2 / float(suite.sizes @ suite.sizes) for suite in suites]
    return len(suites) ** 2 / math.fsum(1 / rows for rows in independent)


def tango_z(wins: int, losses: int, n: int, difference: float, correction: float = 0.0) -> float:
    """Return the score statistic for a paired difference of proportions.

    Args:
        wins: rows right only after the change.
        losses: rows right only before it.
        n: all rows, ties included.
        difference: the hypothesised true difference, in (-1, 1).
        correction: rows that are taken off the net count, for its coming in whole ones.

    Returns:
        The standard normal deviate; positive when the data lie above ``difference``.

    Source: Tango 1998, Statistics in Medicine 17:891, equation 8, with the restricted
    maximum-likelihood estimate of the losing proportion in closed form.
    """
    variance = n * restricted_variance(wins / n, losses / n, difference)
    distance = wins - losses - correction - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def restricted_variance(winning: float, losing: float, difference: float) -> float:
    """Return the variance of one row's difference, of the likeliest proportions that differ by ``difference``."""
    linear = -winning - losing + (2 - winning + losing) * difference
    constant = -losing * difference * (1 - difference)
    root = math.sqrt(max(linear * linear - 8 * constant, 0.0))
    return (root - linear) / 2 + difference * (1 - difference)


def _solve(decreasing: Callable[[float], float], target: float) -> float:
    """Return where a decreasing function of a difference in [-1, 1] meets ``target``."""
    from scipy.optimize import brentq  # 0.2 s to import, and a stored verdict needs no limit

    def above(difference: float) -> float:
        return max(-STEEP, min(decreasing(difference) - target, STEEP))

    if above(-1.0) <= 0:
        return -1.0
    if above(1.0) >= 0:
        return 1.0
    return float(brentq(above, -1.0, 1.0, xtol=1e-12))


def tango(wins: int, losses: int, n: int, alpha: float, alpha_refute: float) -> Limits:
    """Return score limits for a paired difference of proportions (binary scores, independent rows).

    A limit must agree with the exact binomial one (Clopper and Pearson 1934, Biometrika 26:404), and one
    above 0 is moved by half a row: where one side hardly ever wins, the net count is a plain binomial, and
    the score limit alone passes up to 8.8 % instead of 5 % (benchmarks/gate_validity.py).

    Args:
        wins: rows right only after the change.
        losses: rows right only before it.
        n: all rows, ties included.
        alpha: level of the lower limit.
        alpha_refute: level of the upper limit.

    Source: Tango 1998, Statistics in Medicine 17:891.
    """

    def low(won: int, lost: int, level: float) -> float:
        found = score_low(won, lost, n, level)
        if found <= 0:
            return min(found, binomial_low(n - max(lost - won, 0), n, level) - 1)
        return max(0.0, min(score_low(won, lost, n, level, 0.5), binomial_low(won - lost, n, level)))

    return Limits((wins - losses) / n, low(wins, losses, alpha), -low(losses, wins, alpha_refute), "Tango score")


def score_low(wins: int, losses: int, n: int, alpha: float, correction: float = 0.0) -> float:
    """Return the lower limit of Tango's score interval, as he has it. Args and source: as for :func:`tango_z`."""
    return _solve(lambda difference: tango_z(wins, losses, n, difference, correction), -NORMAL.inv_cdf(alpha))


def binomial_low(successes: int, n: int, alpha: float) -> float:
    """Return the exact lower limit of a proportion. Source: Clopper and Pearson 1934, Biometrika 26:404."""
    from scipy.special import betaincinv  # 0.1 s to import, which most binary verdicts need not pay

    return float(betaincinv(successes, n - successes + 1, alpha)) if successes > 0 else 0.0


def proportion(successes: int, n: int, alpha: float, alpha_refute: float) -> Limits:
    """Return exact limits for one proportion. Source: Clopper and Pearson 1934, Biometrika 26:404."""
    high = 1 - binomial_low(n - successes, n, alpha_refute)
    return Limits(successes / n, binomial_low(successes, n, alpha), high, "exact binomial")


def cluster_t(differences: Sample, alpha: float, alpha_refute: float) -> Limits:
    """Return t limits for a mean difference of two clusters or more, robust to dependence and to rare large losses.

    A t limit passes up to 12.7 % instead of 5 % where few rows of a hundred lose much, since a sample with
    few of them looks better than it is (benchmarks/gate_validity.py). There Hall's correction for skewness
    moves it; where few gain much the t limit errs on the safe side, and stays.

    Source: Liang and Zeger 1986, Biometrika 73:13, with the factor G / (G - 1); Hall 1992, J. R. Statist.
    Soc. B 54:221.
    """
    low, high = _skewed_low(differences, alpha), -_skewed_low(differences.mirrored(), alpha_refute)
    name = "cluster-robust t" if differences.totals.size < differences.rows else "paired t"
    return Limits(differences.mean, max(low, -1.0), min(high, 1.0), name)


def _skewed_low(differences: Sample, alpha: float) -> float:
    from scipy.special import stdtrit  # 0.1 s to import, which most binary verdicts need not pay

    groups, mean = differences.totals.size, differences.mean
    residuals = differences.totals - mean * differences.sizes
    squares = float(residuals @ residuals)
    error, t = math.sqrt(groups / (groups - 1) * squares) / differences.rows, -float(stdtrit(groups - 1, alpha))
    # Hall's a, skewness / (3 sqrt(G)); what he makes normal of t is t + a t^2 + a^2 t^3 / 3 + a / 2.
    a = float((residuals**3).sum()) / (3 * squares**1.5) if squares > 0 else 0.0
    if a < -1e-6:  # nearer to 0 it changes nothing, and the difference below would be rounding
        t = max(t, float(np.cbrt(1 + 3 * a * (t - a / 2)) - 1) / a)
    return mean - t * error


def betting_low(differences: Sample, alpha: float) -> float:
    """Return a lower limit for a mean difference that holds for any sample size and distribution on [-1, 1].

    A gambler bets against each candidate mean, cluster by cluster in the given order; one whose wealth
    reaches ``1 / alpha`` has refuted it (Ville 1939). Bets follow the variance seen so far.

    Source: Waudby-Smith and Ramdas 2023 (arXiv 2010.09686), theorem 3 and section 4.2, with scores moved
    to [0, 1], and clusters of unequal sizes weighed by them.
    """
    largest = float(differences.sizes.max())
    weights = differences.sizes / largest
    values = (differences.totals + differences.sizes) / (2 * largest)  # in [0, 1]
    drawn = np.arange(1, values.size + 1)
    means = (0.5 + np.cumsum(values)) / (1 + np.cumsum(weights))
    spread = (0.25 + np.cumsum((values - means * weights) ** 2)) / (drawn + 1)
    known = np.concatenate(([0.25], spread[:-1]))  # each bet is placed before its row is seen
    bets = np.sqrt(2 * math.log(1 / alpha) / (values.size * known))

    def wealth(mean: float) -> float:
        centre = (mean + 1) / 2
        stakes = np.minimum(bets, BET / centre) if centre > 0 else bets
        return float(np.max(np.cumsum(np.log1p(stakes * (values - centre * weights)))))

    return _solve(wealth, math.log(1 / alpha))


def pooled(suites: Sequence[Sample], alpha: float, alpha_refute: float) -> Limits:
    """Return score limits for the mean difference over suites, each of equal weight.

    Tango's interval for several suites: their variances are those under the hypothesised mean, towards
    which each suite's own difference is moved as far as the mean is. A variance as observed passes up to
    6.1 % instead of 5 % where suites only lose (benchmarks/gate_validity.py).
    """
    mean = math.fsum(suite.mean for suite in suites) / len(suites)
    variances = [_variance_at(suite) for suite in suites]

    def z_at(difference: float) -> float:
        variance = math.fsum(own(difference - mean) for own in variances) / len(suites) ** 2
        distance = mean - difference
        if variance <= 0:
            return math.copysign(STEEP, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    low, high = _solve(z_at, -NORMAL.inv_cdf(alpha)), _solve(z_at, NORMAL.inv_cdf(alpha_refute))
    return Limits(mean, low, high, "pooled score")


def _variance_at(suite: Sample) -> Callable[[float], float]:
    """Return the variance of a suite's mean difference, as a function of how far the truth lies from it."""
    rows, mean = suite.rows, suite.mean
    if suite.binary and rows >= FEWEST_ROWS:  # a few suites of one won row each would else pass
        winning, losing = (float((sign * suite.totals > 0).sum()) / rows for sign in (1, -1))
        return lambda shift: restricted_variance(winning, losing, max(-1.0, min(mean + shift, 1.0))) / rows
    observed, share = _smoothed_variance(suite), float(suite.sizes @ suite.sizes) / rows**2
    return lambda shift: observed + shift * shift * share


def _smoothed_variance(suite: Sample) -> float:
    """Return the variance of a suite's mean difference, of its clusters and of two more, one of them discordant.

    Without those a suite in which no two rows differ would claim to know its difference exactly.
    """
    groups, size = suite.totals.size, suite.rows / suite.totals.size
    mean = suite.mean * groups / (groups + 2)
    residuals = suite.totals - mean * suite.sizes  # larger clusters also expect larger totals
    squares = float(residuals @ residuals) + size * size * (1 + 2 * mean * mean)
    return squares / (groups + 2) / groups / size**2


def over_seeds(seeds: Sequence[Sequence[Sample]], alpha: float, alpha_refute: float) -> Limits:
    """Return t limits for what a recipe makes, of which each seed is a draw.

    The variance is that of the rows and that of the seeds, ``s_rows^2 / n + s_seeds^2 / S``.

    Args:
        seeds: for each seed (two or more) its samples, one a suite, over the same rows.
        alpha: level of the lower limit.
        alpha_refute: level of the upper limit.

    Source: Miller 2024 (arXiv 2411.00640).
    """
    from scipy.special import stdtrit  # as in cluster_t

    count, suites = len(seeds), list(zip(*seeds, strict=True))
    means = np.array([np.mean([suite.mean for suite in own]) for own in seeds])
    averaged = [
        Sample(np.mean([draw.totals for draw in suite], axis=0), suite[0].sizes, suite[0].squares) for suite in suites
    ]
    of_rows = math.fsum(map(_smoothed_variance, averaged)) / len(suites) ** 2
    error, freedom = with_seeds(of_rows, sum(suite.totals.size for suite in averaged) - 1, means)
    mean = float(means.mean())
    low, high = (mean + sign * float(stdtrit(freedom, at)) * error for sign, at in ((1, alpha), (-1, alpha_refute)))
    if min(suite.totals.size for suite in averaged) < FEWEST_ROWS:
        # So few rows are not normal, however many seeds there are: four that every seed wins would pass.
        levels = alpha / len(averaged), alpha_refute / len(averaged)
        low = min(low, math.fsum(betting_low(suite, levels[0]) for suite in averaged) / len(averaged))
        high = max(high, -math.fsum(betting_low(suite.mirrored(), levels[1]) for suite in averaged) / len(averaged))
    return Limits(mean, max(low, -1.0), min(high, 1.0), f"t over {count} seeds")


def with_seeds(of_rows: float, freedom: int, seeds: Floats) -> tuple[float, float]:
    """Return the standard error of a mean over seeds and its degrees of freedom.

    Args:
        of_rows: variance of the mean that the rows make up.
        freedom: its degrees of freedom.
        seeds: the value of each seed, shape (seeds,); one seed adds no variance.

    Source: Satterthwaite 1946, Biometrics 2:110.
    """
    count = seeds.size
    of_seeds = float(np.var(seeds, ddof=1)) / count if count > 1 else 0.0
    parts = of_rows**2 / max(freedom, 1) + (of_seeds**2 / (count - 1) if count > 1 else 0.0)
    return math.sqrt(of_rows + of_seeds), (of_rows + of_seeds) ** 2 / parts if parts > 0 else 1.0


def p_worse(limits_at: Callable[[float], Limits]) -> float:
    """Return the level at which a drop is just proven: the p-value of "it did not get worse".

    Args:
        limits_at: the limits of a sample at a level.
    """
    low, high = 1e-12, 0.5
    if limits_at(high).high >= 0:
        return 1.0  # above a half, of which nobody asks the exact value
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if limits_at(middle).high < 0 else (middle, high)
    return high
