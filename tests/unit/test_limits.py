"""The limits against published values, scipy, other formulas, and properties of every sample."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, skew, ttest_1samp
from scipy.stats import t as student
from statsmodels.regression.linear_model import OLS
from statsmodels.stats import contingency_tables
from statsmodels.stats.multitest import multipletests

from pytest_finetune.stats import bootstrap, limits
from pytest_finetune.stats.holm import holm
from pytest_finetune.stats.limits import Sample, sample

LEVELS = st.sampled_from([0.001, 0.01, 0.05, 0.2])
SCORES = st.floats(0, 1, allow_nan=False)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 500))
    wins = draw(st.integers(0, n))
    return wins, draw(st.integers(0, n - wins)), n


@st.composite
def paired(draw: st.DrawFn) -> Sample:
    """A sample of bounded, binary or clustered scores."""
    n = draw(st.integers(1, 60))
    score = draw(st.sampled_from([SCORES, st.sampled_from([0.0, 1.0])]))
    before, after = (draw(st.lists(score, min_size=n, max_size=n)) for _ in range(2))
    clusters = draw(st.one_of(st.just([]), st.lists(st.sampled_from("abcdefg"), min_size=n, max_size=n)))
    return sample(before, after, clusters)


def binary(wins: int, losses: int, n: int) -> Sample:
    """Return a sample of right and wrong answers."""
    ties = n - wins - losses
    return sample([0.0] * wins + [1.0] * losses + [1.0] * ties, [1.0] * wins + [0.0] * losses + [1.0] * ties)


def test_score_limit_reproduces_the_paper() -> None:
    """Tango 1998: 12 and 2 discordant of 44; at the score limits the statistic is 1.96 from 0."""
    for wins, losses in ((12, 2), (2, 12)):
        low = limits.score_low(wins, losses, 44, 0.025)
        assert limits.tango_z(wins, losses, 44, low) == pytest.approx(1.959964, abs=1e-4)
    assert limits.tango(12, 2, 44, 0.025, 0.025).estimate == pytest.approx(10 / 44)


def test_score_limit_gives_the_published_interval() -> None:
    """Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33:2850), airway reactivity: -0.517 to -0.026."""
    low, high = limits.score_low(1, 7, 21, 0.025), -limits.score_low(7, 1, 21, 0.025)
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(tables(), LEVELS)
def test_score_limit_solves_its_quartic(table: tuple[int, int, int], alpha: float) -> None:
    """The limit is a root of the quartic that the score equation is (Yang, Sun and Hardin 2013, Stat. Med. 32:1336)."""
    wins, losses, n = table
    square = NormalDist().inv_cdf(alpha) ** 2
    difference = np.polynomial.Polynomial([0, 1])
    bent = difference * (1 - difference)
    losing = ((wins - losses - n * difference) ** 2 / (square * n) - bent) / 2
    quartic = 2 * n * losing**2 + (-wins - losses + (2 * n - wins + losses) * difference) * losing - losses * bent
    low = limits.score_low(wins, losses, n, alpha)
    if low > -1 + 1e-6:
        assert np.abs(np.asarray(quartic.roots(), complex) - low).min() < 1e-4


@given(tables(), LEVELS)
def test_the_shipped_limit_is_never_above_the_score_limit(table: tuple[int, int, int], alpha: float) -> None:
    """What is added to Tango's interval only makes it stricter, and where nothing wins it is the exact binomial."""
    wins, losses, n = table
    assert limits.tango(wins, losses, n, alpha, alpha).low <= limits.score_low(wins, losses, n, alpha) + 1e-9
    exact = binomtest(losses, n).proportion_ci(1 - 2 * alpha, "exact").high
    assert limits.tango(0, losses, n, alpha, alpha).low <= -exact + 1e-9


def test_tango_at_zero_is_mcnemar() -> None:
    """At a difference of 0 the statistic is McNemar's, as statsmodels has it."""
    theirs = contingency_tables.mcnemar([[10, 12], [2, 20]], exact=False, correction=False)
    assert limits.tango_z(12, 2, 44, 0.0) ** 2 == pytest.approx(theirs.statistic)


@given(tables(), LEVELS)
def test_tango_limits_hold_the_estimate_and_mirror(table: tuple[int, int, int], alpha: float) -> None:
    """The interval holds the estimate, stays in [-1, 1], and mirrors when wins and losses are swapped."""
    wins, losses, n = table
    found, mirrored = limits.tango(wins, losses, n, alpha, alpha), limits.tango(losses, wins, n, alpha, alpha)
    assert -1 <= found.low <= found.estimate + 1e-9
    assert found.estimate - 1e-9 <= found.high <= 1
    assert mirrored.low == pytest.approx(-found.high, abs=1e-9)


@given(tables(), LEVELS)
def test_more_wins_never_lower_the_limit(table: tuple[int, int, int], alpha: float) -> None:
    """A row that turns from a tie to a win, or from a loss to a tie, raises the limit."""
    wins, losses, n = table
    low = limits.tango(wins, losses, n, alpha, alpha).low
    if losses:
        assert limits.tango(wins, losses - 1, n, alpha, alpha).low >= low - 1e-9
    if wins + losses < n:
        assert limits.tango(wins + 1, losses, n, alpha, alpha).low >= low - 1e-9


@given(paired(), LEVELS)
def test_limits_hold_the_estimate_mirror_and_nest(drawn: Sample, alpha: float) -> None:
    """Of every sample: the interval holds the mean, mirrors with it, and is wider at a smaller alpha."""
    found, wider = limits.limits(drawn, alpha, alpha), limits.limits(drawn, alpha / 3, alpha / 3)
    assert -1 <= found.low <= found.estimate + 1e-9 <= found.high + 2e-9 <= 1 + 3e-9
    mirrored = limits.limits(drawn.mirrored(), alpha, alpha)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-6)
    assert wider.low <= found.low + 1e-9
    assert wider.high >= found.high - 1e-9


@given(st.lists(st.floats(0, 1), min_size=15, max_size=40).filter(lambda scores: np.ptp(scores) > 1e-3))
def test_paired_t_is_scipys(scores: list[float]) -> None:
    """Without clusters and without skewness the t limits are those of scipy's one-sample t."""
    even = [*scores, *(1 - score for score in scores)]
    found = limits.cluster_t(sample([], even), 0.05, 0.05)
    interval = ttest_1samp(even, 0.0).confidence_interval(0.90)
    assert found.low == pytest.approx(max(interval.low, -1), abs=1e-6)
    assert found.high == pytest.approx(min(interval.high, 1), abs=1e-6)


def test_cluster_t_is_the_sandwich() -> None:
    """Without skewness the cluster-robust limits are those of statsmodels' regression on a constant."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 300)
    change = np.clip(0.2 * rng.standard_normal(300), -0.5, 0.5)
    groups, change = np.concatenate([groups, groups + 40]), np.concatenate([change, -change])
    names = [f"c{i}" for i in groups]
    found = limits.cluster_t(sample([0.5] * 600, (0.5 + change).tolist(), names), 0.05, 0.05)
    fit = OLS(change, np.ones(600)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int(0.1)[0]), abs=1e-9)
    count = np.unique(groups).size
    meat = sum((change[groups == g] - change.mean()).sum() ** 2 for g in np.unique(groups))
    error = math.sqrt(count / (count - 1) * meat) / 600
    assert found.high == pytest.approx(change.mean() + error * student.ppf(0.95, count - 1), abs=1e-9)


def test_a_cluster_that_holds_most_rows_is_one_draw() -> None:
    """Forty rows beside a cluster of 500 do not make 41 draws: 5 % pass at the truth, at most."""
    rng, passed = np.random.default_rng(4), 0
    sizes = np.array([500.0, *[1.0] * 40])
    for _ in range(200):
        drawn = Sample(rng.uniform(-0.3, 0.3, 41) * sizes, sizes, 1.0)
        passed += limits.limits(drawn, 0.05, 0.05).low > 0
    assert passed <= 200 * 0.05


def test_rows_of_their_own_names_are_independent() -> None:
    """Clusters of one row each are no clusters: binary scores take Tango's interval."""
    before, after = [0.0] * 60, [1.0] * 20 + [0.0] * 40
    assert limits.limits(sample(before, after, [f"c{i}" for i in range(60)]), 0.05, 0.05) == limits.limits(
        sample(before, after), 0.05, 0.05
    )


def test_a_long_tail_moves_its_own_side_only() -> None:
    """Rare large losses lower the lower limit, as Hall's transformed t has it, and leave the upper one."""
    after = [0.9] * 190 + [0.1] * 10
    found = limits.cluster_t(sample([0.9] * 200, after), 0.05, 0.05)
    interval = ttest_1samp(np.subtract(after, 0.9), 0.0).confidence_interval(0.90)
    assert found.high == pytest.approx(interval.high)
    t = (found.estimate - found.low) / (interval.high - found.estimate) * student.ppf(0.95, 199)
    a = skew(after) / math.sqrt(200) / 3
    assert t + a * t**2 + a**2 * t**3 / 3 + a / 2 == pytest.approx(student.ppf(0.95, 199))


def test_clusters_widen() -> None:
    """Rows repeated inside clusters do not count as new evidence."""
    rng = np.random.default_rng(1)
    after = rng.random(40).tolist()
    once = limits.limits(sample([0.5] * 40, after), 0.05, 0.05)
    tenfold = limits.limits(sample([0.5] * 400, after * 10, [f"c{i}" for i in range(40)] * 10), 0.05, 0.05)
    assert tenfold.low == pytest.approx(once.low)


@given(st.integers(0, 80), st.integers(1, 80), LEVELS)
def test_proportion_is_clopper_and_pearsons(successes: int, more: int, alpha: float) -> None:
    """The exact limits are scipy's."""
    n = successes + more
    found = limits.proportion(successes, n, alpha, alpha)
    interval = binomtest(successes, n).proportion_ci(1 - 2 * alpha, "exact")
    assert found.low == pytest.approx(interval.low, abs=1e-9)
    assert found.high == pytest.approx(interval.high, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_betting_holds_its_level_exactly(n: int) -> None:
    """Of all orders of a few won, tied and lost rows, those that exclude the truth come up at 5 % at most."""
    changes = list(itertools.product((1, 0, -1), repeat=n))
    lows = [limits.betting_low(Sample(np.array(c, float), np.ones(n), 1.0), 0.05) for c in changes]
    for winning, losing in ((0.35, 0.25), (0.55, 0.45), (0.1, 0.0), (0.02, 0.04), (0.9, 0.0)):
        chances = {1: winning, 0: 1 - winning - losing, -1: losing}
        truth = winning - losing + 1e-9
        excluded = [c for c, low in zip(changes, lows, strict=True) if low > truth]
        assert math.fsum(math.prod(chances[change] for change in c) for c in excluded) <= 0.05


@pytest.mark.parametrize("alpha", [0.05, 0.04, 0.007, 4.5e-5])
def test_few_rows_that_are_all_won_hold_the_level(alpha: float) -> None:
    """From 1 to 29 rows, all won: the likeliest truth at the limit gives that with a chance of alpha at most."""
    for n in range(1, 30):
        low = limits.limits(binary(n, 0, n), alpha, alpha).low
        assert ((1 + low) / 2) ** n <= alpha * (1 + 1e-6)


def test_wins_that_come_first_are_no_gain() -> None:
    """The betting bound goes by an order; wherever it has been, the limits hold the mean."""
    found = limits.limits(sample([0.0] * 10 + [1.0] * 19, [1.0] * 10 + [0.0] * 19), 0.05, 0.05)
    assert found.low <= found.estimate < 0


@given(st.lists(SCORES, min_size=1, max_size=40), LEVELS)
def test_betting_stays_below_the_mean(scores: list[float], alpha: float) -> None:
    """The lower limit lies below the mean, and the smaller alpha the lower."""
    drawn = sample([], scores)
    low = limits.betting_low(drawn, alpha)
    assert low <= drawn.mean + 1e-9
    assert limits.betting_low(drawn, alpha / 2) <= low + 1e-9


@given(tables().filter(lambda table: table[2] >= 30 and table[0] <= table[1]), LEVELS)
def test_one_pooled_suite_is_tango(table: tuple[int, int, int], alpha: float) -> None:
    """Pooling one suite gives its own score limit."""
    alone = limits.score_low(*table, alpha)
    assert limits.pooled([binary(*table)], alpha, alpha).low == pytest.approx(alone, abs=1e-6)


def test_pooled_suites_that_are_all_won_are_not_certain() -> None:
    """Thirty rows of thirty, all won, leave the room that Tango's interval leaves, and mirror."""
    won, lost = (limits.pooled([binary(*table)], 0.05, 0.05) for table in ((30, 0, 30), (0, 30, 30)))
    assert won.low == pytest.approx((30 - 2.7055) / (30 + 2.7055), abs=1e-4)  # n (1 - d) / (1 + d) = z^2
    assert lost.high == pytest.approx(-won.low)


def test_pooled_without_any_difference_is_not_certain() -> None:
    """Suites without a discordant row still leave room for a drop, and more suites leave less."""
    five, two = (limits.pooled([binary(0, 0, 100)] * count, 0.05, 0.05).low for count in (5, 2))
    assert two < five < 0


def test_seeds_widen() -> None:
    """Seeds that differ widen the interval of the same mean; seeds that do not add no certainty from nothing."""
    rng = np.random.default_rng(2)
    before = (rng.random(400) < 0.5).astype(float).tolist()
    after = [(rng.random(400) < p).astype(float).tolist() for p in (0.5, 0.6, 0.7)]
    apart = limits.over_seeds([[sample(before, scores)] for scores in after], 0.05, 0.05)
    alike = limits.over_seeds([[sample(before, after[1])]] * 3, 0.05, 0.05)
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)
    won = limits.over_seeds([[binary(5, 0, 5)]] * 3, 0.05, 0.05)
    assert won.low < 0.9


def test_seeds_that_differ_alone_are_a_t_of_their_means() -> None:
    """Where rows add next to nothing, the limits are scipy's t of the seeds' means."""
    rng = np.random.default_rng(6)
    means = [0.3, 0.4, 0.6]
    seeds = [[sample([], (mean + rng.uniform(-1e-6, 1e-6, 20_000)).tolist())] for mean in means]
    found = limits.over_seeds(seeds, 0.05, 0.05)
    interval = ttest_1samp(means, 0.0).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx(tuple(interval), abs=1e-3)


def test_seeds_have_satterthwaites_freedom() -> None:
    """The limits are those of both variances, with the freedom that Satterthwaite gives their sum."""
    rng = np.random.default_rng(7)
    rows = [rng.uniform(0, 1, 50) for _ in range(3)]
    of_rows = limits._smoothed_variance(sample([], np.mean(rows, axis=0).tolist()))
    of_seeds = float(np.var([own.mean() for own in rows], ddof=1)) / 3
    freedom = (of_rows + of_seeds) ** 2 / (of_rows**2 / 49 + of_seeds**2 / 2)
    low = np.mean(rows) - student.ppf(0.95, freedom) * math.sqrt(of_rows + of_seeds)
    found = limits.over_seeds([[sample([], own.tolist())] for own in rows], 0.05, 0.05)
    assert found.low == pytest.approx(low, abs=1e-9)


@pytest.mark.parametrize("n", range(1, 30))
def test_seeds_of_few_rows_hold_the_level(n: int) -> None:
    """Three seeds that win each of a few rows know no more than the rows do."""
    low = limits.over_seeds([[binary(n, 0, n)]] * 3, 0.05, 0.05).low
    assert ((1 + max(low, -1.0)) / 2) ** n <= 0.05 * (1 + 1e-6)


def test_pooled_rows_of_few_each_pass_nothing() -> None:
    """Three suites of one row, all won: half as likely as not for a model that lost as much as is allowed."""
    assert limits.pooled([binary(1, 0, 1)] * 3, 0.05, 0.05).low < -0.02


@given(st.lists(tables(), min_size=1, max_size=4), LEVELS)
def test_pooled_holds_the_estimate_mirrors_and_nests(drawn: list[tuple[int, int, int]], alpha: float) -> None:
    """Of any suites: the interval holds the mean, mirrors with it, and is wider at a smaller alpha."""
    suites = [binary(*table) for table in drawn]
    found, wider = limits.pooled(suites, alpha, alpha), limits.pooled(suites, alpha / 3, alpha / 3)
    mirrored = limits.pooled([suite.mirrored() for suite in suites], alpha, alpha)
    assert -1 <= found.low <= found.estimate + 1e-9 <= found.high + 2e-9 <= 1 + 3e-9
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-6)
    assert wider.low <= found.low + 1e-9
    assert wider.high >= found.high - 1e-9


def test_smoothed_variance_is_that_of_a_ratio() -> None:
    """Of clusters of unequal sizes it is the variance of what their totals differ from what sizes explain."""
    rng = np.random.default_rng(8)
    sizes = rng.integers(1, 20, 20_000).astype(float)
    totals = np.full(20_000, 0.5)  # whatever the size
    own = Sample(totals, sizes, 1.0)
    ratio = ((totals - own.mean * sizes) ** 2).sum() / sizes.sum() ** 2
    assert limits._smoothed_variance(own) == pytest.approx(ratio + 1 / 20_000**2, rel=0.01)
    rows = rng.choice([-1.0, 0.0, 1.0], 50)
    plain = ((rows @ rows + 1) / 52 - (rows.sum() / 52) ** 2) / 50  # one discordant row of two more
    assert limits._smoothed_variance(Sample(rows, np.ones(50), float(rows @ rows))) == pytest.approx(plain)


def test_bootstrap_of_a_mean_is_its_t() -> None:
    """Of the mean of rows, the paired bootstrap gives the limits of t, near enough."""
    change = np.random.default_rng(9).uniform(-0.3, 0.5, 200)
    redrawn = np.array([change[list(rows)].mean() for rows in bootstrap.resamples((), 200)])
    found = bootstrap.limits([bootstrap.Redrawn(np.array([change.mean()]), redrawn, 200)], 0.05, 0.05)
    assert found.low == pytest.approx(ttest_1samp(change, 0).confidence_interval(0.9).low, abs=0.003)


def test_resamples_keep_clusters_whole_and_are_the_same_for_all() -> None:
    """Rows of one cluster are drawn together; the draws are the same each time, which pairs them."""
    clusters = ["a", "a", "", "b", "b", "b"]
    drawn = list(bootstrap.resamples(clusters, 6, 50))
    assert drawn == list(bootstrap.resamples(clusters, 6, 50))
    for rows in drawn:
        assert rows.count(0) == rows.count(1)
        assert rows.count(3) == rows.count(4) == rows.count(5)
        assert sum(rows.count(row) for row in (0, 2, 3)) == 3


@pytest.mark.parametrize("n", [1, 3, 29])
def test_bootstrap_of_few_rows_proves_nothing(n: int) -> None:
    """Resamples of a few rows hardly differ, and say nothing."""
    found = bootstrap.limits([bootstrap.Redrawn(np.ones(1), np.ones(1000), n)], 0.05, 0.05)
    assert (found.low, found.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [([], []), ([0.0], [0.0, 1.0]), ([0.0], [1.5]), ([-0.1], [0.5]), ([0.0], [math.nan]), ([0.0], [math.inf])],
)
def test_what_is_no_score_is_refused(before: list[float], after: list[float]) -> None:
    """No rows, unequal ones, and scores that are not in [0, 1] are no sample."""
    with pytest.raises(ValueError, match=r"scores; there must be|not a number from 0 to 1"):
        sample(before, after)


def test_p_worse_is_where_the_limit_meets_zero() -> None:
    """The p-value of a drop is the level at which its limit is 0; a gain has the p-value 1."""
    drop, gain = binary(5, 20, 200), binary(20, 5, 200)
    p_value = limits.p_worse(lambda level: limits.limits(drop, level, level))
    assert limits.limits(drop, 0.05, p_value * 1.01).high < 0 < limits.limits(drop, 0.05, p_value * 0.99).high + 1e-6
    assert limits.p_worse(lambda level: limits.limits(gain, level, level)) == 1.0


def test_holm_by_hand() -> None:
    """Four p-values, adjusted by hand."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_statsmodels() -> None:
    """Of p-values with ties, zeros and ones."""
    rng = np.random.default_rng(5)
    for count in (1, 2, 5, 12):
        p_values = np.round(rng.random(count) ** 3, 2).tolist()
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_value(p_values: list[float]) -> None:
    """Adjusted p-values are no smaller, at most 1, and in the same order."""
    adjusted = holm(p_values)
    assert all(p <= q + 1e-12 and q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
