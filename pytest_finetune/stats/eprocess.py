"""E-processes: evidence that can be looked at whenever one likes, as often as one likes.

An e-process is what a gambler who bets against a hypothesis owns: a nonnegative supermartingale of mean at most 1
where the hypothesis is true. That it ever reaches ``1 / alpha`` has then a chance of at most ``alpha`` (Ville 1939,
Etude critique de la notion de collectif). All of them here come out the same in any order of the data, so that one
made anew at each look from all data so far is the process itself.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# Shares of the largest stake that loses no more than all. Small ones find small differences, large ones a collapse.
STAKES = np.concatenate((np.geomspace(0.002, 0.5, 24), np.linspace(0.55, 0.95, 6)))
HALVINGS = 60


def mean_above(values: Sequence[float] | Floats, bound: float) -> float:
    """Return the log of the evidence against "the mean is at most ``bound``".

    The wealth is the mean over a grid of gamblers who stake a fixed share on every value; each is a supermartingale
    where every value has, given those before it, a mean of at most ``bound``.

    Args:
        values: each in [-1, 1].
        bound: in (-1, 1).

    Returns:
        The natural logarithm of the wealth, 0 without values.

    Source: Waudby-Smith and Ramdas 2023 (arXiv 2010.09686), theorem 3 and the mixture of section 4.4.
    """
    found, counts = np.unique(np.asarray(values, float), return_counts=True)  # binary pairs have three values
    if not found.size:
        return 0.0
    return float(_log_mean(_won(found, bound) @ counts.astype(float)))


def mean_course(values: Sequence[float] | Floats, bound: float) -> Floats:
    """Return what :func:`mean_above` is after each of the values, shape (values,)."""
    return _log_mean(np.cumsum(_won(np.asarray(values, float), bound), axis=1).T)


def mean_below(values: Sequence[float] | Floats, bound: float) -> float:
    """Return the log of the evidence against "the mean is at least ``bound``"; see :func:`mean_above`."""
    return mean_above(-np.asarray(values, float), -bound)


def mean_limits(values: Sequence[float] | Floats, alpha: float) -> tuple[float, float]:
    """Return a lower and an upper limit of a mean, each valid at all times together at level ``alpha``."""
    given, threshold = np.asarray(values, float), -math.log(alpha)
    mean = float(given.mean()) if given.size else 0.0

    def low_of(sample: Floats, centre: float) -> float:
        # The evidence falls as the bound rises to the mean.
        return _last(lambda bound: mean_above(sample, bound) >= threshold, -1 + 1e-9, centre)

    return low_of(given, mean), -low_of(-given, -mean)


def rate_below(events: int, trials: int, bound: float) -> float:
    """Return the log of the evidence against "the rate is at least ``bound``".

    The wealth is the likelihood ratio of the rates below the bound, mixed by Jeffreys' prior, to the bound itself,
    of which each is a supermartingale where the rate is higher.

    Source: Robbins 1970, Annals of Mathematical Statistics 41:1397, with the mixture cut off at the bound.
    """
    return float(rate_course(np.array([events]), np.array([trials]), bound)[0])


def rate_course(events: Counts, trials: Counts, bound: float) -> Floats:
    """Return what :func:`rate_below` is of each number of events among so many trials."""
    from scipy.special import betainc, betaln

    a, b = events + 0.5, trials - events + 0.5
    with np.errstate(divide="ignore"):  # so many events that nothing is left below the bound
        mixture = betaln(a, b) + np.log(betainc(a, b, bound))
    prior = betaln(0.5, 0.5) + math.log(betainc(0.5, 0.5, bound))
    made: Floats = mixture - prior - events * math.log(bound) - (trials - events) * math.log1p(-bound)
    return made


def rate_above(events: int, trials: int, bound: float) -> float:
    """Return the log of the evidence against "the rate is at most ``bound``"; see :func:`rate_below`."""
    return rate_below(trials - events, trials, 1 - bound)


def rate_limits(events: int, trials: int, alpha: float) -> tuple[float, float]:
    """Return a lower and an upper limit of a rate, each valid at all times together at level ``alpha``."""
    threshold, share = -math.log(alpha), events / trials if trials else 0.5
    low = _last(lambda bound: rate_above(events, trials, bound) >= threshold, 1e-12, share)
    high = 1 - _last(lambda bound: rate_below(events, trials, 1 - bound) >= threshold, 1e-12, 1 - share)
    return (low if low > 1e-12 else 0.0), (high if high < 1 - 1e-12 else 1.0)


def quantile_limits(values: Sequence[float] | Floats, level: float, alpha: float) -> tuple[float, float]:
    """Return a lower and an upper limit of a quantile, each valid at all times together at level ``alpha``.

    Whether a value lies above the true quantile is an event of rate ``1 - level``; what this refutes of the values
    seen is no quantile. Works for any distribution.

    Args:
        values: of any size, such as seconds.
        level: 0.95 for the 95th percentile.
        alpha: one-sided.

    Returns:
        Limits; 0 and infinity where the values show nothing yet.

    Source: Howard and Ramdas 2022 (arXiv 1906.09712), section 3, with the boundary of :func:`rate_below`.
    """
    ordered, threshold = np.sort(np.asarray(values, float)), -math.log(alpha)
    n = ordered.size
    # So few above: the quantile must be lower. So many: it must be higher.
    few = _last_count(lambda above: rate_below(above, n, 1 - level) >= threshold, n)
    many = n - _last_count(lambda below: rate_above(n - below, n, 1 - level) >= threshold, n)
    high = float(ordered[n - few - 1]) if few >= 0 and n else math.inf
    low = float(ordered[n - many]) if 0 < many <= n else 0.0
    return low, high


def expected_more(log_evidence: float, per_value: float, alpha: float) -> int | None:
    """Return how many values more, of that mean evidence each, reach ``1 / alpha``; None where none would."""
    missing = -math.log(alpha) - log_evidence
    if missing <= 0:
        return 0
    return math.ceil(missing / per_value) if per_value > 1e-9 else None


def growth(values: Sequence[float] | Floats, bound: float) -> float:
    """Return the best stake's mean evidence of a value, in nats, as the values seen so far have it."""
    found, counts = np.unique(np.asarray(values, float), return_counts=True)
    return max(0.0, float((_won(found, bound) @ counts).max()) / counts.sum()) if found.size else 0.0


def rate_growth(events: int, trials: int, bound: float) -> float:
    """Return the mean evidence of a trial, in nats, against a rate of ``bound``, at the rate seen so far."""
    rate = events / trials if trials else bound
    return sum(share * math.log(share / given) for share, given in ((rate, bound), (1 - rate, 1 - bound)) if share)


def _won(values: Floats, bound: float) -> Floats:
    """Return what each gambler's wealth grows by, in logs, by each value: shape (gamblers, values)."""
    bets = STAKES / (1 + bound)  # a value of -1 then loses the whole share
    return np.log1p(np.outer(bets, values - bound))


def _log_mean(logs: Floats) -> Floats:
    """Return the log of the mean wealth, over the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    made: Floats = top[..., 0] + np.log(np.exp(logs - top).mean(axis=-1))
    return made


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest value up to ``high`` at which something holds that holds below it; ``low`` if nowhere."""
    if not holds(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _last_count(holds: Callable[[int], bool], most: int) -> int:
    """Return the largest count up to ``most`` for which something holds that holds for smaller ones; -1 if for none."""
    low, high = -1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
