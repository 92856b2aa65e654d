"""The statistics against published values, simulation-free properties and scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from pytest_finetune import stats


def test_tango_reproduces_the_paper() -> None:
    """Tango 1998, table: 12 and 2 discordant of 44 give the 95 % interval 0.059 to 0.3994 (score)."""
    limits = stats.tango(12, 2, 44, 0.025, 0.025)
    assert limits.estimate == pytest.approx(10 / 44)
    assert stats.tango_z(12, 2, 44, limits.low) == pytest.approx(1.959964, abs=1e-4)
    assert stats.tango_z(12, 2, 44, limits.high) == pytest.approx(-1.959964, abs=1e-4)


def test_tango_at_zero_is_mcnemar() -> None:
    """At a difference of 0 the statistic is McNemar's: (b - c) / sqrt(b + c)."""
    assert stats.tango_z(12, 2, 44, 0.0) == pytest.approx(10 / 14**0.5)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 500))
    wins = draw(st.integers(0, n))
    return wins, draw(st.integers(0, n - wins)), n


@given(tables())
def test_tango_limits_hold_the_estimate_and_mirror(table: tuple[int, int, int]) -> None:
    """The interval holds the estimate, stays in [-1, 1], and mirrors when wins and losses are swapped."""
    wins, losses, n = table
    limits = stats.tango(wins, losses, n, 0.05, 0.05)
    mirrored = stats.tango(losses, wins, n, 0.05, 0.05)
    assert -1 <= limits.low <= limits.estimate + 1e-9
    assert limits.estimate - 1e-9 <= limits.high <= 1
    assert mirrored.low == pytest.approx(-limits.high, abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=50).filter(lambda d: max(d) - min(d) > 1e-3))
def test_paired_t_is_scipys(differences: list[float]) -> None:
    """Without clusters the limits are those of scipy's one-sample t."""
    limits = stats.paired_t(differences, 0.05, 0.05)
    interval = ttest_1samp(differences, 0.0).confidence_interval(0.90)
    assert limits.low == pytest.approx(interval.low, abs=1e-9)
    assert limits.high == pytest.approx(interval.high, abs=1e-9)


def test_clusters_widen() -> None:
    """Rows repeated inside clusters do not count as new evidence."""
    rows = [0.1, 0.3, -0.1, 0.4, 0.2]
    once = stats.paired_t(rows, 0.05, 0.05)
    tenfold = stats.paired_t(rows * 10, 0.05, 0.05, [f"c{i}" for i in range(5)] * 10)
    assert tenfold.low == pytest.approx(once.low)


def test_pooled_without_any_difference_is_not_certain() -> None:
    """Suites without a discordant row still leave room for a drop."""
    assert stats.pooled([[0.0] * 100] * 5, 0.05, 0.05).low < 0


@pytest.mark.parametrize(("distance", "rows"), [(0.02, 149), (0.05, 59)])
def test_smallest_suite(distance: float, rows: int) -> None:
    """GATE.md: with no discordance a suite needs 149 rows for 0.02 and 59 for 0.05."""
    assert stats.rows_at_least(distance) == rows


def test_rows_needed_shrinks_with_the_distance() -> None:
    """The planner asks for more rows the nearer the truth lies to the bound, and none at it."""
    needed = [stats.rows_needed(d, 0.05, 0.2) for d in (0.08, 0.10, 0.15)]
    assert needed == sorted(needed, key=lambda n: -(n or 0))
    assert stats.rows_needed(0.05, 0.05, 0.2) is None
