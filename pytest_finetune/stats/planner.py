"""How many rows a claim needs, and how small a difference so many rows can show, before any is measured."""

import math
from collections.abc import Sequence
from statistics import NormalDist

from pytest_finetune.stats import looks
from pytest_finetune.stats.limits import FEWEST_ROWS, restricted_variance

NORMAL = NormalDist()
POWER = 0.8


def rows_needed(
    difference: float, bound: float, discordance: float, alpha: float = 0.05, power: float = POWER
) -> int | None:
    """Return how many rows prove (or refute) that a difference lies above ``bound``.

    Args:
        difference: the true difference, assumed.
        bound: the margin, or minus the largest drop allowed.
        discordance: share of rows on which the two disagree (bounded scores: mean squared difference).
        alpha: one-sided level.
        power: chance to settle it.

    Returns:
        The number of rows, or None where the difference is at the bound: no number would do.

    Source: Lachin 1981, Controlled Clinical Trials 2:93, equation 4, with Tango's variance under the bound.
    """
    distance = abs(difference - bound)
    if distance < 1e-9:
        return None
    spread = _spread(difference, bound, discordance, -NORMAL.inv_cdf(alpha), NORMAL.inv_cdf(power))
    return max(math.ceil((spread / distance) ** 2), rows_at_least(distance, alpha))


def detectable(n: float, bound: float, discordance: float, alpha: float = 0.05, power: float = POWER) -> float:
    """Return the smallest true difference that ``n`` rows prove to lie above ``bound``.

    Args and source: as for :func:`rows_needed`. At most 1, which may still be more than the rows can show.
    """
    z_alpha, z_power = -NORMAL.inv_cdf(alpha), NORMAL.inv_cdf(power)
    found = bound
    for _ in range(20):  # the spread hardly depends on the difference, so this settles fast
        last, found = found, min(bound + _spread(found, bound, discordance, z_alpha, z_power) / math.sqrt(n), 1.0)
        if abs(found - last) < 1e-6:
            break
    return found


def _spread(difference: float, bound: float, discordance: float, z_alpha: float, z_power: float) -> float:
    """Return the distance from the bound that one row would show."""
    discordance = min(max(discordance, abs(difference), 1e-3), 1.0)
    at_bound = restricted_variance((discordance + difference) / 2, (discordance - difference) / 2, bound)
    at_truth = discordance - difference * difference
    return z_alpha * math.sqrt(max(at_bound, 0.0)) + z_power * math.sqrt(at_truth)


def rows_at_least(distance: float, alpha: float = 0.05) -> int:
    """Return how many rows without a single loss prove that fewer than ``distance`` of all are lost.

    The exact binomial: ``(1 - distance) ** n <= alpha``.
    """
    return math.ceil(math.log(alpha) / math.log1p(-min(distance, 0.999)))


def smallest_suite(drop: float, alpha: float) -> int:
    """Return the rows below which nothing proves a drop below ``drop``: not even rows of which none is lost.

    Of such rows the exact binomial limit is wider than Tango's, and so the one that counts.

    Args:
        drop: the largest drop allowed.
        alpha: one-sided level.
    """
    n = max(rows_at_least(drop, alpha), FEWEST_ROWS)
    return max(n, rows_at_least(drop, _last(alpha, n)))


def pooled_at_best(sizes: Sequence[int], alpha: float) -> float:
    """Return the mean drop that suites of these sizes (30 rows or more) rule out where not one row is lost.

    What :func:`limits.pooled` solves has a closed form there, since no suite varies but by the drop itself.
    """
    last = _last(alpha, min(sizes))
    if len(sizes) == 1:
        return 1 - math.pow(last, 1 / sizes[0])  # one suite is judged by the exact binomial limit
    variance = NORMAL.inv_cdf(last) ** 2 * sum(1 / n for n in sizes) / len(sizes) ** 2
    return variance / (1 + variance)


def _last(alpha: float, rows: int) -> float:
    """Return the level of the last look at so many rows."""
    return looks.levels(alpha, looks.count(rows))[-1]
