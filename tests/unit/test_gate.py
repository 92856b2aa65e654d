"""The gate's claims: every strange sample has a defined outcome, and none passes by accident."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_finetune import gate
from pytest_finetune.errors import SuiteError
from pytest_finetune.gate import Pair, Rule
from pytest_finetune.judge import Question, settle
from pytest_finetune.records import Measurement

RULE = Rule(0.05, 0.05 / 7)


def measured(scores: Sequence[float], name: str = "one", clusters: Sequence[str] = (), **more: object) -> Measurement:
    """Return a measurement of these scores."""
    ids = tuple(map(str, range(len(scores))))
    outputs = tuple("" for _ in scores)
    return Measurement(name, "rows", "metric", ids, outputs, tuple(scores), tuple(clusters), **more)  # type: ignore[arg-type]  # names vary


def pair(before: Sequence[float], after: Sequence[float], clusters: Sequence[str] = ()) -> Pair:
    """Return scores before and after."""
    return Pair((measured(after, "after", clusters),), measured(before, "before", clusters))


def outcome(pairs: Sequence[Pair], bound: float, rule: Rule = RULE) -> str:
    """Return the outcome of a claim."""
    return gate.claim("guard", "claim", pairs, bound, rule).outcome


@pytest.mark.parametrize("bad", [1.5, -0.1, math.nan, math.inf])
def test_scores_that_are_none_are_refused(bad: float) -> None:
    """A score outside of [0, 1], NaN or infinity is one line, on either side."""
    for before, after in (([0.0, bad], [1.0, 1.0]), ([0.0, 0.0], [1.0, bad])):
        with pytest.raises(SuiteError, match="not a number from 0 to 1"):
            pair(before, after)


def test_other_rows_are_refused() -> None:
    """Measurements of other rows, of fewer, or of none are no pair."""
    one = measured([0.0, 1.0])
    for other in (measured([1.0]), Measurement("x", "rows", "metric", ("a", "b"), ("", ""), (1.0, 1.0))):
        with pytest.raises(SuiteError, match="not measured on the same rows"):
            Pair((other,), one)
    with pytest.raises(SuiteError, match="not measured on the same rows"):
        Pair((measured([]),), measured([]))


@pytest.mark.parametrize("clusters", [(), ("same",)])
def test_one_row_proves_nothing(clusters: tuple[str, ...]) -> None:
    """One row, won or lost, settles neither a gain nor a drop."""
    for before, after in ((0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.2, 0.9)):
        for bound in (0.05, 0.0, -0.02):
            assert outcome([pair([before], [after], clusters)], bound) == "INCONCLUSIVE"


def test_one_cluster_proves_nothing() -> None:
    """A thousand rows of one cluster are one draw."""
    assert outcome([pair([0.0] * 1000, [1.0] * 1000, ["same"] * 1000)], 0.05) == "INCONCLUSIVE"


@pytest.mark.parametrize("n", [30, 99, 100, 1000])
def test_all_ties(n: int) -> None:
    """Rows of which none differs prove no gain, and a kept skill only where they are many enough."""
    for score in (0.0, 1.0, 0.5):
        assert outcome([pair([score] * n, [score] * n)], 0.0) == "INCONCLUSIVE"
        assert outcome([pair([score] * n, [score] * n)], 0.05) != "PASS"
    assert outcome([pair([1.0] * n, [1.0] * n)], -0.05) == ("PASS" if n >= 59 else "INCONCLUSIVE")


def test_all_wins_and_all_losses() -> None:
    """Enough rows that are all won prove a gain, all lost refute it; ones that differ by a constant, too."""
    for low, high in ((0.0, 1.0), (0.3, 0.9)):
        assert outcome([pair([low] * 100, [high] * 100)], 0.05) == "PASS"
        assert outcome([pair([high] * 100, [low] * 100)], 0.05) == "FAIL"
    assert outcome([pair([0.0] * 3, [1.0] * 3)], 0.05) == "INCONCLUSIVE"


@given(st.integers(1, 40), st.integers(2, 5))
def test_pooled_suites_of_few_rows(n: int, suites: int) -> None:
    """Suites without any lost row prove a pooled drop below 2 points only where that many rows could."""
    pairs = [pair([1.0] * n, [1.0] * n)] * suites
    if outcome(pairs, -0.02) == "PASS":
        assert n * suites >= 130  # 1.645^2 (1 / 0.02 - 1)


def test_levels_are_exact() -> None:
    """A level compares with nothing: 59 of 59 prove 95 %, 58 do not."""
    assert outcome([Pair((measured([1.0] * 59),))], 0.95) == "PASS"
    assert outcome([Pair((measured([1.0] * 58),))], 0.95) == "INCONCLUSIVE"
    assert outcome([Pair((measured([0.0] * 59),))], 0.5) == "FAIL"


def test_refuting_is_corrected_for_the_number_of_claims() -> None:
    """What refutes one claim alone does not refute one of seven."""
    just = pair([1.0] * 22 + [0.0] * 178, [0.0] * 22 + [0.0] * 178)
    assert outcome([just], -0.07, Rule(0.05, 0.05)) == "FAIL"
    assert outcome([just], -0.07, Rule(0.05, 0.05 / 7)) == "INCONCLUSIVE"


def _binary(rng: np.random.Generator) -> Pair:
    u = rng.random(300)
    return pair((u < 0.1).astype(float).tolist(), ((u >= 0.1) & (u < 0.25)).astype(float).tolist())


def _clustered(rng: np.random.Generator) -> Pair:
    change = np.repeat(0.05 + rng.uniform(-0.3, 0.3, 60), 5) + rng.uniform(-0.05, 0.05, 300)
    return pair([0.5] * 300, (0.5 + change).tolist(), [f"c{i // 5}" for i in range(300)])


def _skewed(rng: np.random.Generator) -> Pair:
    """A little gained on 19 rows of 20, nearly all lost on one: t alone passes 13 %."""
    lost = rng.random(100) < 0.05
    return pair([0.9] * 100, np.where(lost, 0.0, 1.0).tolist())


def _uneven(rng: np.random.Generator) -> Pair:
    """Three clusters of 60 rows beside 60 of three: t alone passes 11 %."""
    names = [f"c{i}" for i, size in enumerate([60] * 3 + [3] * 60) for _ in range(size)]
    change = 0.05 + rng.uniform(-0.3, 0.3, 63)
    return pair([0.5] * 360, (0.5 + change[[int(name[1:]) for name in names]]).tolist(), names)


def _all_or_nothing(rng: np.random.Generator) -> Pair:
    return pair([0.0] * 200, (rng.random(200) < 0.05).astype(float).tolist())


@pytest.mark.parametrize("draw", [_binary, _clustered, _skewed, _uneven, _all_or_nothing])
def test_false_passes_at_the_margin(draw: Callable[[np.random.Generator], Pair]) -> None:
    """Where the truth lies exactly at the margin, 5 % pass at most, and four standard errors."""
    rng, gates = np.random.default_rng(3), 500
    passed = sum(outcome([draw(rng)], 0.05) == "PASS" for _ in range(gates))
    assert passed / gates <= 0.05 + 4 * (0.05 * 0.95 / gates) ** 0.5


@pytest.mark.parametrize("bound", [-0.05, 0.0, 0.05])
def test_few_rows_pass_no_more_often_than_luck(bound: float) -> None:
    """From 1 to 29 rows, all won, pass only where that would happen to a model at the bound at 5 % at most."""
    for n in range(1, 30):
        for low, high in ((0.0, 1.0), (0.1, 1.0)):  # constant differences that are not binary, too
            if outcome([pair([low] * n, [high] * n)], bound) == "PASS":
                assert ((1 + bound) / 2) ** n <= 0.05


@given(st.integers(1, 60), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_constant_sample_has_an_outcome(n: int, before: float, after: float) -> None:
    """Whatever constants are compared, single rows or one cluster, the limits are numbers and hold the estimate."""
    for clusters in ([], ["same"] * n):
        made = gate.claim("guard", "claim", [pair([before] * n, [after] * n, clusters)], 0.0, RULE)
        assert -1 <= made.low <= made.estimate + 1e-9 <= made.high + 2e-9 <= 1 + 3e-9
        if clusters or n == 1 or before == after:
            assert made.outcome == "INCONCLUSIVE"


def test_a_slice_that_got_worse_is_named() -> None:
    """The average gains, one group of rows loses: it is listed first and marked; few rows that lose are not."""
    groups = ["a"] * 200 + ["b"] * 100 + ["c"] * 4
    before = [0.0] * 200 + [1.0] * 100 + [1.0] * 4
    after = [1.0] * 200 + [1.0] * 80 + [0.0] * 20 + [1.0, 1.0, 1.0, 0.0]
    of_groups = Pair((measured(after, slices=tuple(groups)),), measured(before, slices=tuple(groups)))
    worst, *_ = found = gate.slices(of_groups, 0.05)
    assert [one.name for one in found if one.worse] == ["b"]
    assert worst.name in ("b", "c")
    assert outcome([of_groups], 0.05) == "PASS"
    with pytest.raises(SuiteError, match="no row is of the slice 'd'; slices: a, b, c"):
        gate.sliced(of_groups, "d")


def test_slices_are_corrected_for_their_number() -> None:
    """A drop that one slice alone would show is no finding among twenty that are looked at."""
    drop = [1.0] * 8 + [0.0] * 2 + [1.0] * 92, [0.0] * 8 + [1.0] * 2 + [1.0] * 92  # one-sided p of about 0.03
    for others, worse in ((0, True), (19, False)):
        names = tuple(["drop"] * 102 + [f"s{i}" for i in range(others) for _ in range(30)])
        same = [1.0] * 30 * others
        before, after = measured(drop[0] + same, slices=names), measured(drop[1] + same, slices=names)
        found = {one.name: one.worse for one in gate.slices(Pair((after,), before), 0.05)}
        assert found["drop"] is worse
        assert sum(found.values()) == worse


def test_no_more_rows_are_won_and_lost_than_there_are() -> None:
    """Wins and losses, on average over the seeds, are no more than the rows."""
    seeds = (measured([1.0, 1.0, 0.0]), measured([1.0, 0.0, 0.0]))
    n, won, lost = Pair(seeds, measured([0.5] * 3)).counts
    assert won + lost <= n


def test_seeds_of_a_whole_metric_widen() -> None:
    """Seeds that differ widen the interval of a metric of the whole data set, too."""
    rng = np.random.default_rng(10)
    redrawn = tuple((0.5 + 0.01 * rng.standard_normal(1000)).tolist())

    def seeds(*values: float) -> Pair:
        rows = [0.0, 1.0] * 100
        made = (measured(rows, whole=v, redrawn=tuple(r + v - 0.5 for r in redrawn)) for v in values)
        return Pair(tuple(made), measured(rows, whole=0.5, redrawn=redrawn))

    apart, alike = (gate.limits_of([own], 0.05, 0.05) for own in (seeds(0.3, 0.6, 0.9), seeds(0.6, 0.6, 0.6)))
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def looked_at(before: Sequence[float], after: Sequence[float], seen: list[int]) -> Callable[[int, int], Pair]:
    """Return what measures a fifth more at every look."""

    def measure(number: int, look: int) -> Pair:
        seen.append(look)
        rows = round(len(before) * look / 5)
        return pair(before[:rows], after[:rows])

    return measure


@pytest.mark.parametrize(
    ("after", "said", "looks"), [(1.0, "PASS", 1), (0.0, "INCONCLUSIVE", 5)], ids=["collapse undone", "nothing"]
)
def test_looks_end_when_the_verdict_is_settled(after: float, said: str, looks: int) -> None:
    """What is plain after a fifth of the rows is measured no further; what is not, to the end."""
    seen: list[int] = []
    asked = [Question("superiority", "gain", (0,), 0.05 if after else 0.0)]
    settled = settle(asked, looked_at([0.0] * 500, [after] * 500, seen), Rule(0.05, 0.05, 5))
    assert settled.claims[0].outcome == said
    assert seen == list(range(1, looks + 1))


def test_a_settled_suite_is_measured_no_further() -> None:
    """Data sets that no open claim is about are left alone; a claim keeps the look that settled it."""
    seen: dict[int, int] = {}

    def measure(number: int, look: int) -> Pair:
        seen[number] = look
        rows = 100 * look
        gain = [1.0] * rows if number == 0 else [0.0, 1.0] * (rows // 2)
        return pair([0.0] * rows if number == 0 else [1.0, 0.0] * (rows // 2), gain)

    asked = [Question("guard", "settled", (0,), -0.05), Question("guard", "open", (1,), -0.01)]
    settled = settle(asked, measure, Rule(0.05, 0.001, 5))
    assert seen == {0: 1, 1: 5}
    assert [claim.look for claim in settled.claims] == [1, 5]


def test_no_claim_is_no_pass() -> None:
    """A verdict of nothing fails."""
    assert gate.outcome([]) == "FAIL"


def test_pooled_suites_are_worth_what_the_smallest_allows() -> None:
    """60 rows pooled with 5,000 show about as much as 240 rows of one suite, and the verdict says so."""
    few, many = pair([1.0] * 60, [1.0] * 58 + [0.0] * 2), pair([1.0] * 5000, [1.0] * 4900 + [0.0] * 100)
    claim = gate.claim("retention", "kept", [few, many], -0.02, RULE)
    alone = gate.claim("guard", "kept", [pair([1.0] * 237, [1.0] * 231 + [0.0] * 6)], -0.02, RULE)
    assert claim.detectable == pytest.approx(alone.detectable, abs=0.003)
