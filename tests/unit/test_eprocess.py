"""E-processes: evidence whose chance to mislead is what it says, however often one looks."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from pytest_finetune.stats import eprocess

VALUES = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), max_size=40)
BOUNDS = st.floats(-0.9, 0.9)


@given(VALUES, BOUNDS, st.floats(0, 1))
def test_bets_on_a_mean_are_fair(values: list[float], bound: float, spread: float) -> None:
    """Under a mean at the bound the wealth is expected to stay, whatever came before: it is a martingale."""
    low, high = bound - spread * (1 + bound), bound + spread * (1 - bound)
    chance = 0.5 if high == low else (bound - low) / (high - low)  # of the higher value, so that the mean is the bound
    before = math.exp(eprocess.mean_above(values, bound))
    after = chance * math.exp(eprocess.mean_above([*values, high], bound))
    after += (1 - chance) * math.exp(eprocess.mean_above([*values, low], bound))
    assert after == pytest.approx(before, rel=1e-6)


@given(st.lists(st.booleans(), max_size=60), st.floats(0.01, 0.99))
def test_bets_on_a_rate_are_fair(events: list[bool], bound: float) -> None:
    """The same of rates; a rate above the bound only loses."""
    n, k = len(events), sum(events)
    before = math.exp(eprocess.rate_below(k, n, bound))
    for rate in (bound, (1 + bound) / 2):
        after = rate * math.exp(eprocess.rate_below(k + 1, n + 1, bound))
        after += (1 - rate) * math.exp(eprocess.rate_below(k, n + 1, bound))
        assert after <= before * (1 + 1e-6)


@pytest.mark.parametrize("bound", [-0.02, 0.0, 0.3])
def test_false_alarms_by_counting(bound: float) -> None:
    """Of all courses of 12 fair values, exactly counted, at most alpha ever reach 1 / alpha."""
    chance = (1 + bound) / 2
    reached = 0.0
    for course in product((1.0, -1.0), repeat=12):
        weight = math.prod(chance if value > 0 else 1 - chance for value in course)
        walk = (eprocess.mean_above(course[:i], bound) for i in range(1, 13))
        reached += weight * any(log >= math.log(5) for log in walk)
    assert 0 < reached <= 1 / 5


@given(VALUES, BOUNDS, st.randoms())
def test_order_is_nothing(values: list[float], bound: float, random: object) -> None:
    """Data that comes in another order is the same evidence, so that it can be made anew at each look."""
    turned = values[::-1]
    assert eprocess.mean_above(values, bound) == pytest.approx(eprocess.mean_above(turned, bound))
    assert eprocess.mean_below(values, bound) == pytest.approx(eprocess.mean_above([-v for v in values], -bound))


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.02, 0.9))
def test_the_mixture_is_the_integral(events: int, others: int, bound: float) -> None:
    """The closed form is what numerical integration over the prior gives."""

    def part(root: float) -> float:  # of theta = root^2, which takes the prior's pole away
        theta = root * root
        ratio = events * math.log(theta / bound) + others * math.log((1 - theta) / (1 - bound)) if theta else 0.0
        likelihood = math.exp(ratio) if theta else float(events == 0) * (1 - bound) ** -others
        return likelihood * 2 / math.sqrt(1 - theta)

    top, whole = (integrate.quad(f, 0, math.sqrt(bound))[0] for f in (part, lambda r: 2 / math.sqrt(1 - r * r)))
    expected = math.log(top / whole)
    assert eprocess.rate_below(events, events + others, bound) == pytest.approx(expected, abs=1e-5)


@given(VALUES)
def test_limits_of_a_mean_hold_it_between(values: list[float]) -> None:
    """The limits lie around the mean, narrow as data comes, and are what the evidence refutes."""
    low, high = eprocess.mean_limits(values, 0.05)
    mean = sum(values) / len(values) if values else 0.0
    assert -1 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1
    if low > -0.99:
        assert eprocess.mean_above(values, low - 1e-6) >= math.log(20) - 1e-3
    again = eprocess.mean_limits(values * 4, 0.05)
    assert again[0] >= low - 1e-9
    assert again[1] <= high + 1e-9


@pytest.mark.parametrize(("events", "trials"), [(0, 0), (0, 300), (3, 300), (150, 300), (300, 300)])
def test_limits_of_a_rate_hold_it_between(events: int, trials: int) -> None:
    """They lie around the share, and reach 0 and 1 where nothing speaks against it."""
    low, high = eprocess.rate_limits(events, trials, 0.05)
    share = events / trials if trials else 0.5
    assert 0 <= low <= share <= high <= 1
    assert (low == 0) == (events == 0)
    assert (high == 1) == (events == trials)


def test_limits_of_a_percentile_hold_it_however_often_one_looks() -> None:
    """At a look after every tenth value, 95th percentiles of heavy tails leave their limits seldom enough."""
    rng, missed = np.random.default_rng(1), 0
    truth = 0.05 ** (-1 / 1.5) - 1  # of a Pareto distribution without a variance
    for _ in range(60):
        values = rng.pareto(1.5, 600)
        limits = [eprocess.quantile_limits(values[:n], 0.95, 0.05) for n in range(10, 601, 10)]
        missed += any(low > truth or high < truth for low, high in limits)
    assert missed <= 10  # of 60 at 10 %, both sides; 11 and more have a chance of 4 % at the very limit
    assert limits[0][1] == math.inf
    assert limits[-1][0] > 1
    assert limits[-1][1] < 100


@given(VALUES, BOUNDS)
def test_a_course_is_every_look(values: list[float], bound: float) -> None:
    """The whole course at once is what a look after each value gives."""
    course = eprocess.mean_course(values, bound)
    assert course == pytest.approx([eprocess.mean_above(values[: i + 1], bound) for i in range(len(values))], abs=1e-9)


def test_how_many_more() -> None:
    """What is expected is what is then needed, about; at the limit it cannot be told."""
    assert eprocess.expected_more(0.0, eprocess.rate_growth(0, 0, 0.01), 0.05) is None
    values = [1.0] * 4 + [0.0] * 16
    wait = eprocess.expected_more(eprocess.mean_above(values, 0.0), eprocess.growth(values, 0.0), 0.05)
    assert wait is not None
    assert 0 < wait < 40
    whole = values * (1 + math.ceil(2 * wait / len(values)))
    assert eprocess.mean_above(whole, 0.0) >= math.log(20)
    assert eprocess.expected_more(5.0, 0.1, 0.05) == 0
