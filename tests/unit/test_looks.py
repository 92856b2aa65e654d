"""Five looks: the bounds against scipy's multivariate normal, and the order of the levels."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from pytest_finetune.stats import looks


@pytest.mark.parametrize(("alpha", "constant"), [(0.05, 1.7509), (0.025, 2.0401)])
def test_constant_is_the_published_one(alpha: float, constant: float) -> None:
    """O'Brien and Fleming's constant for five looks; tables of two-sided tests round 1.7509 to 1.755."""
    assert looks.constant(alpha) == pytest.approx(constant, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7])
def test_looks_together_have_the_level(alpha: float) -> None:
    """The chance that sums of normal steps ever cross the bound is alpha, by scipy's integral."""
    bound = looks.constant(alpha) * 5**0.5
    steps = np.arange(1, 6)
    inside = multivariate_normal.cdf(
        np.full(5, bound), np.zeros(5), np.minimum.outer(steps, steps).astype(float), abseps=1e-6, maxpts=10**6
    )
    assert 1 - inside == pytest.approx(alpha, abs=2e-5)


@pytest.mark.parametrize("alpha", [1e-6, 0.05 / 25, 0.05, 0.3])
def test_levels_rise_to_less_than_alpha(alpha: float) -> None:
    """Each look has a higher level than the one before, and the last less than alpha; one look has all of it."""
    levels = looks.levels(alpha)
    assert list(levels) == sorted(levels)
    assert levels[-1] < alpha
    assert looks.levels(alpha, 1) == pytest.approx((alpha,))
    assert norm.isf(levels[0]) == pytest.approx(norm.isf(levels[-1]) * 5**0.5, rel=1e-6)


def test_few_rows_are_looked_at_once() -> None:
    """Fewer than 20 rows a look are not cut up."""
    assert [looks.count(rows) for rows in (1, 99, 100, 5000)] == [1, 1, 5, 5]
