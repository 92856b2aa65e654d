"""How other tools decide between two models, on counts of rows won and lost; and Tango's exact level."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from scipy.stats import t as student

from pytest_finetune.stats import limits

ALPHA = 0.05
DRAWS = 1000  # of the bootstrap
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Passed = NDArray[np.bool_]
Rows = int | Counts  # one number, or one of each column
Rule = Callable[[Counts, Counts, int, float], Passed]


def point(won: Counts, lost: Counts, n: Rows, bound: float) -> Passed:
    """A threshold on the difference of the two scores: deepeval, promptfoo, scripts around lm-eval."""
    passed: Passed = (won - lost) / n >= bound
    return passed


def mcnemar(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """The exact McNemar test, one-sided: no significant drop, or for a margin a significant gain that reaches it."""
    passed: Passed = (_drop(lost, won) < ALPHA) & point(won, lost, n, bound) if bound > 0 else _drop(won, lost) >= ALPHA
    return passed


def nemo_compare(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """NeMo Evaluator's `nel compare --max-drop`: only a significant drop that is larger than the limit is a BLOCK.

    It says PASS only where (1.4 / limit)^2 rows differ (784 for 0.05) or none does, and INCONCLUSIVE or
    WARN otherwise, which its default `--strict` also exits non-zero for. Here all but BLOCK pass.

    Source: github.com/NVIDIA-NeMo/Evaluator at ac66aff (0.4.0), engine/comparison.py, metrics/paired_tests.py.
    """
    blocked: Passed = (_drop(won, lost) < ALPHA) & ((lost - won) / n > -bound)
    return ~blocked


def nemo_gate(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """NeMo Evaluator's `nel gate`: the two-sided 95 % paired t interval lies within the limit.

    Source: as :func:`nemo_compare`, engine/gate.py.
    """
    return _t(won, lost, n, bound, 0.025)


def paired_t(won: Counts, lost: Counts, n: Rows, bound: float) -> Passed:
    """The one-sided lower limit of the paired t interval lies above the bound."""
    return _t(won, lost, n, bound, ALPHA)


def bootstrap(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """The fifth percentile of the resampled differences lies above the bound."""
    generator = np.random.default_rng(1)
    counts, place = np.unique(np.stack([won, lost]), axis=1, return_inverse=True)  # each pair of counts once
    passed = []
    for wins, losses in counts.T:
        again = generator.multinomial(n, [wins / n, losses / n, 1 - (wins + losses) / n], size=DRAWS)
        passed.append(np.quantile((again[:, 0] - again[:, 1]) / n, ALPHA) > bound)
    return np.array(passed)[place.ravel()]


def unpaired_z(right: Counts, right_after: Counts, n: int, bound: float) -> Passed:
    """The lower limit of the difference of two independent proportions lies above the bound."""
    p, q = right / n, right_after / n
    passed: Passed = q - p - 1.6449 * np.sqrt((p * (1 - p) + q * (1 - q)) / n) > bound
    return passed


RULES: dict[str, Rule] = {
    "point": point,
    "McNemar": mcnemar,
    "NeMo compare": nemo_compare,
    "NeMo gate": nemo_gate,
    "paired t": paired_t,
    "bootstrap": bootstrap,
}
OF_DROPS = ("NeMo compare", "NeMo gate")  # rules that know no margin


def smoothed_z(suites: list[Floats], bound: float) -> bool:
    """The pooled z limit with each suite's observed variance, smoothed by one discordant row in two more."""
    means = [float(change.mean()) for change in suites]
    variances = [
        (((change @ change) + 1) / (change.size + 2) - mean**2) / change.size
        for change, mean in zip(suites, means, strict=True)
    ]
    return bool(np.mean(means) - 1.6449 * np.sqrt(sum(variances)) / len(suites) > bound)


def plain_t(change: Floats, bound: float) -> bool:
    """The one-sided paired t limit of any scores lies above the bound; rows count as independent."""
    error = change.std(ddof=1) / np.sqrt(change.size)
    return bool(change.mean() - student.ppf(1 - ALPHA, change.size - 1) * error > bound)


def _drop(won: Counts, lost: Counts) -> Floats:
    """Return the exact one-sided p-value of "it did not get worse"."""
    p_value: Floats = binom.sf(lost - 1, won + lost, 0.5)
    return p_value


def _t(won: Counts, lost: Counts, n: Rows, bound: float, alpha: float) -> Passed:
    mean = (won - lost) / n
    error = np.sqrt(np.maximum((won + lost) / n - mean**2, 0) / (n - 1))
    passed: Passed = mean - student.ppf(1 - alpha, n - 1) * error >= bound
    return passed


# --- ours, without simulation ------------------------------------------------------------------


Low = Callable[[int, int, int], float]


def shipped(won: int, lost: int, n: int) -> float:
    """The lower limit that the gate goes by."""
    return limits.tango(won, lost, n, ALPHA, ALPHA).low


def score(won: int, lost: int, n: int) -> float:
    """The lower limit of Tango's interval as he has it."""
    return limits.score_low(won, lost, n, ALPHA)


def worst_level(n: int, bound: float, low: Low = shipped) -> float:
    """Return the exact chance that a limit passes a true difference at the bound, where it is worst.

    The worst is over all shares of rows on which the two differ.
    """
    steps = np.concatenate(([0.0], np.geomspace(1e-4, 1, 120)))
    shares = np.maximum(abs(bound) + (1 - abs(bound)) * steps, 1e-9)
    differing = np.arange(n + 1)
    fewest = _fewest_that_pass(n, bound, low)
    levels = []
    for share in shares:
        passing = binom.sf(fewest - 1, differing, min((share + bound) / 2 / share, 1.0))
        levels.append(float(binom.pmf(differing, n, share) @ passing))
    return max(levels)


@cache
def _fewest_that_pass(n: int, bound: float, limit: Low) -> Counts:
    """Return, for each number of rows that differ, the fewest won ones that pass; one more than all: none does."""
    fewest = []
    for differing in range(n + 1):
        low, high = 0, differing + 1
        while low < high:  # passing grows with the rows won
            middle = (low + high) // 2
            passes = limit(middle, differing - middle, n) > bound
            low, high = (low, middle) if passes else (middle + 1, high)
        fewest.append(low)
    return np.array(fewest)
