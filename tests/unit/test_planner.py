"""The planner: rows needed and differences shown, against the figures of the design and each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune.stats import limits, looks, planner


@pytest.mark.parametrize(("distance", "rows"), [(0.02, 149), (0.05, 59)])
def test_rows_without_a_loss(distance: float, rows: int) -> None:
    """Without a lost row 149 rule out a drop of 2 points, and 59 one of 5."""
    assert planner.rows_at_least(distance) == rows


@pytest.mark.parametrize(
    ("difference", "bound", "discordance", "rows"),
    [
        (0.08, 0.05, 0.2, 1320), (0.10, 0.05, 0.2, 461), (0.15, 0.05, 0.2, 116),
        (0.0, -0.02, 0.05, 804), (0.0, -0.02, 0.1, 1581), (0.0, -0.02, 0.2, 3107),
        (0.0, -0.05, 0.05, 150), (0.0, -0.05, 0.1, 261), (0.0, -0.05, 0.2, 505),
    ],
)  # fmt: skip
def test_rows_needed_are_the_designs(difference: float, bound: float, discordance: float, rows: int) -> None:
    """The formula is within 12 % of what simulation found."""
    assert planner.rows_needed(difference, bound, discordance) == pytest.approx(rows, rel=0.12)


def test_at_the_bound_no_number_would_do() -> None:
    """A truth at the bound is never settled."""
    assert planner.rows_needed(0.05, 0.05, 0.2) is None


@given(st.integers(50, 20_000), st.sampled_from([0.0, 0.05, -0.02]), st.floats(0.02, 0.5))
def test_detectable_is_what_the_rows_show(n: int, bound: float, discordance: float) -> None:
    """The smallest difference that n rows show needs about n rows."""
    shown = planner.detectable(n, bound, discordance)
    assert bound < shown <= 1
    need = planner.rows_needed(shown, bound, discordance)
    assert need is not None
    assert need <= max(n * 1.01 + 1, planner.rows_at_least(shown - bound))


@given(st.floats(0.005, 0.3))
def test_smallest_suite_can_pass_and_a_smaller_one_cannot(drop: float) -> None:
    """So many rows without a lost one prove the guard at the gate's last look, and one row less never does."""
    n = planner.smallest_suite(drop, 0.05)

    def proves(rows: int) -> bool:
        last = looks.levels(0.05, looks.count(rows))[-1]
        nothing_lost = limits.sample([1.0] * rows, [1.0] * rows)
        return limits.limits(nothing_lost, last, 0.05).low > -drop and rows >= planner.rows_at_least(drop)

    assert proves(n)
    assert n == limits.FEWEST_ROWS or not proves(n - 1)
