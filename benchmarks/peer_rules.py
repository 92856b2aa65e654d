"""How other tools decide between two models, on counts of rows won and lost; and Tango's exact level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm
from scipy.stats import t as student

from pytest_finetune.stats import limits

Counts = NDArray[np.int64]
Passed = NDArray[np.bool_]
ALPHA = 0.05


def point(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """A threshold on the difference of the two scores: deepeval, promptfoo, lm-eval scripts."""
    passed: Passed = (won - lost) / n >= bound
    return passed


def mcnemar(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """No significant drop: the exact McNemar test, one-sided, does not reject "no worse"."""
    passed: Passed = binom.sf(lost - 1, won + lost, 0.5) > ALPHA
    return passed


def mcnemar_drop(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """A significant drop by the exact McNemar test that is also larger than the limit blocks; all else passes.

    NVIDIA's NeMo Evaluator combines the two; how, is assumed here: its source was not at hand.
    """
    return mcnemar(won, lost, n, bound) | ((won - lost) / n > bound)


def paired_t(won: Counts, lost: Counts, n: int, bound: float) -> Passed:
    """The lower limit of the paired t interval lies above the bound."""
    mean = (won - lost) / n
    error = np.sqrt(np.maximum((won + lost) / n - mean**2, 0) / (n - 1))
    passed: Passed = mean - student.ppf(1 - ALPHA, n - 1) * error > bound
    return passed


def unpaired_z(right_before: Counts, right_after: Counts, n: int, bound: float) -> Passed:
    """The lower limit of the difference of two independent proportions lies above the bound."""
    p, q = right_before / n, right_after / n
    passed: Passed = q - p - norm.ppf(1 - ALPHA) * np.sqrt((p * (1 - p) + q * (1 - q)) / n) > bound
    return passed


def bootstrap(won: Counts, lost: Counts, n: int, bound: float, draws: int = 1000) -> Passed:
    """The fifth percentile of the resampled differences lies above the bound."""
    generator = np.random.default_rng(1)
    passed = []
    for wins, losses in zip(won, lost, strict=True):
        again = generator.multinomial(n, [wins / n, losses / n, 1 - (wins + losses) / n], size=draws)
        passed.append(np.quantile((again[:, 0] - again[:, 1]) / n, ALPHA) > bound)
    return np.array(passed)


def exact_level(n: int, bound: float, discordance: float, alpha: float = ALPHA) -> float:
    """Return the exact chance that the shipped limit passes a true difference at the bound."""
    total = 0.0
    winning = (discordance + bound) / 2 / discordance
    for both in range(n + 1):
        chance = binom.pmf(both, n, discordance)
        if chance < 1e-9:
            continue
        # Passing grows with the rows won: the fewest that pass are found by bisection.
        low, high = 0, both + 1
        while low < high:
            middle = (low + high) // 2
            if limits.tango(middle, both - middle, n, alpha, alpha).low > bound:
                high = middle
            else:
                low = middle + 1
        total += chance * binom.sf(low - 1, both, winning)
    return float(total)
