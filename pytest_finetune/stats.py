"""Paired statistics: limits for a difference of means, and how many rows they need.

Differences are after - before, row by row. Limits are one-sided; all levels are probabilities.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Limits:
    """An estimate with one-sided limits: ``low`` at ``alpha``, ``high`` at ``alpha_refute``."""

    estimate: float
    low: float
    high: float
    statistic: str


def tango_z(wins: int, losses: int, n: int, difference: float) -> float:
    """Return the score statistic for a paired difference of proportions.

    Args:
        wins: rows right only after the change.
        losses: rows right only before it.
        n: all rows, ties included.
        difference: the hypothesised true difference, in (-1, 1).

    Returns:
        The standard normal deviate; positive when the data lie above ``difference``.

    Source: Tango 1998, Statistics in Medicine 17:891, equation 8, with the restricted
    maximum-likelihood estimate of the losing proportion in closed form.
    """
    linear = -wins - losses + (2 * n - wins + losses) * difference
    constant = -losses * difference * (1 - difference)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    losing = (root - linear) / (4 * n)
    variance = n * (2 * losing + difference * (1 - difference))
    distance = wins - losses - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _solve(decreasing: Callable[[float], float], target: float) -> float:
    """Return where a decreasing function of a difference in [-1, 1] meets ``target``, by bisection."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if decreasing(middle) > target else (low, middle)
    return (low + high) / 2


def tango(wins: int, losses: int, n: int, alpha: float, alpha_refute: float) -> Limits:
    """Return score limits for a paired difference of proportions (binary scores).

    Args:
        wins: rows right only after the change.
        losses: rows right only before it.
        n: all rows, ties included.
        alpha: level of the lower limit.
        alpha_refute: level of the upper limit.

    Source: Tango 1998, Statistics in Medicine 17:891.
    """

    def z_at(difference: float) -> float:
        return tango_z(wins, losses, n, difference)

    low = _solve(z_at, NORMAL.inv_cdf(1 - alpha))
    high = _solve(z_at, NORMAL.inv_cdf(alpha_refute))
    return Limits((wins - losses) / n, low, high, "Tango score")


def paired_t(
    differences: Sequence[float],
    alpha: float,
    alpha_refute: float,
    clusters: Sequence[str] = (),
) -> Limits:
    """Return t limits for a mean of paired differences (bounded scores), robust to clusters.

    Args:
        differences: one a row, in [-1, 1].
        alpha: level of the lower limit.
        alpha_refute: level of the upper limit.
        clusters: a name a row; rows of one cluster may depend on each other. Empty: all independent.

    Source: Liang and Zeger 1986, Biometrika 73:13 (cluster-robust variance, with G/(G-1)).
    """
    from scipy.special import stdtrit  # 0.1 s to import, and binary scores never need it

    n = len(differences)
    estimate = math.fsum(differences) / n
    residuals: dict[str, float] = {}
    for index, difference in enumerate(differences):
        name = clusters[index] if clusters and clusters[index] else f"row {index}"
        residuals[name] = residuals.get(name, 0.0) + difference - estimate
    groups = len(residuals)
    if groups < 2:
        return Limits(estimate, -1.0, 1.0, "none (one cluster)")
    variance = groups / (groups - 1) * math.fsum(r * r for r in residuals.values()) / n**2
    # A sample without any difference shows no variance; one in n + 2 is what it cannot rule out.
    error = math.sqrt(max(variance, 1 / (n + 2) / n if variance == 0 else 0.0))
    low = estimate + float(stdtrit(groups - 1, alpha)) * error
    high = estimate - float(stdtrit(groups - 1, alpha_refute)) * error
    return Limits(estimate, low, high, "cluster-robust t" if groups < n else "paired t")


def pooled(
    suites: Sequence[Sequence[float]],
    alpha: float,
    alpha_refute: float,
) -> Limits:
    """Return normal limits for the mean difference over suites, each of equal weight.

    Each suite's paired variance is smoothed by one row in two more, so that a suite without any
    discordant row does not claim to know its difference exactly.

    Args:
        suites: for each suite its paired differences, in [-1, 1].
        alpha: level of the lower limit.
        alpha_refute: level of the upper limit.
    """
    estimates = [math.fsum(rows) / len(rows) for rows in suites]
    estimate = math.fsum(estimates) / len(suites)
    variance = (
        math.fsum(
            ((math.fsum(d * d for d in rows) + 1) / (len(rows) + 2) - mean * mean) / len(rows)
            for rows, mean in zip(suites, estimates, strict=True)
        )
        / len(suites) ** 2
    )
    error = math.sqrt(max(variance, 0.0))
    return Limits(
        estimate,
        estimate + NORMAL.inv_cdf(alpha) * error,
        estimate - NORMAL.inv_cdf(alpha_refute) * error,
        "pooled z",
    )


def rows_needed(
    difference: float,
    bound: float,
    discordance: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> int | None:
    """Return how many rows prove (or refute) that a difference lies above ``bound``.

    Args:
        difference: the true difference, assumed.
        bound: the margin, or minus the largest drop allowed.
        discordance: share of rows on which the two disagree.
        alpha: one-sided level.
        power: chance to settle it.

    Returns:
        The number of rows, or None where the difference is at the bound: no number would do.

    Source: Connett, Smith and McHugh 1987, Statistics in Medicine 6:65, shifted to a bound.
    """
    distance = abs(difference - bound)
    if distance < 1e-9:
        return None
    variance = max(discordance - difference * difference, 1e-3)
    z = NORMAL.inv_cdf(1 - alpha) + NORMAL.inv_cdf(power)
    return max(math.ceil(z * z * variance / distance**2), rows_at_least(distance, alpha))


def rows_at_least(distance: float, alpha: float = 0.05) -> int:
    """Return how many rows without a single loss prove that fewer than ``distance`` of all are lost.

    The exact binomial: ``(1 - distance) ** n <= alpha``.
    """
    return math.ceil(math.log(alpha) / math.log1p(-min(distance, 0.999)))
