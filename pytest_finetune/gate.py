"""The gate's decision: measurements in, claims and a verdict out. See docs/gate.md."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Claim, Kind, Measurement, Outcome, Slice
from pytest_finetune.stats import bootstrap, limits, looks, planner
from pytest_finetune.stats.holm import holm
from pytest_finetune.stats.limits import Limits, Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """What one claim compares on one data set: the same rows in the same order, before and after.

    Args:
        after: who must prove itself; one measurement a seed.
        before: what it is compared with; None where its own level is judged.

    Raises:
        SuiteError: there are no rows, the two are not of the same ones, or a score is not in [0, 1].
    """

    after: tuple[Measurement, ...]
    before: Measurement | None = None

    def __post_init__(self) -> None:
        known = self.before or self.after[0]
        for made in self.after:
            if not known.ids or made.ids != known.ids:
                raise SuiteError(f"{made.on}: {known.subject} and {made.subject} were not measured on the same rows")
        _ = self.samples  # which looks at the scores

    @property
    def first(self) -> Measurement:
        """The measurement after the change, of the first seed."""
        return self.after[0]

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The paired differences, one sample a seed."""
        before = self.before.scores if self.before else ()
        try:
            return tuple(limits.sample(before, made.scores, made.clusters) for made in self.after)
        except ValueError as error:
            raise SuiteError(f"{self.first.on}: metric {self.first.metric}: {error}") from error

    @property
    def is_whole(self) -> bool:
        """Whether the metric is one of the whole data set."""
        return self.first.whole is not None

    @property
    def estimate(self) -> float:
        """The difference of the mean scores, or of the metric of the whole data set."""
        before = self.before.mean if self.before else 0.0
        return sum(made.mean for made in self.after) / len(self.after) - before

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Rows, and how many of them were won and lost, on average over the seeds."""
        before = np.asarray(self.before.scores) if self.before else 0.0
        change = np.array([made.scores for made in self.after]) - before
        won, lost = (int(np.count_nonzero(sign * change > 0)) // len(change) for sign in (1, -1))
        return change.shape[1], won, lost


@dataclass(frozen=True, slots=True)
class Rule:
    """How often a verdict may be wrong.

    Args:
        alpha: one-sided level at which each claim is proven. All claims must hold, so their number
            calls for no correction (intersection-union test, Berger 1982, Technometrics 24:295).
        refute: level at which each claim is refuted: alpha by their number, since one suffices.
        looks: how often growing data is looked at; 1 where all is measured at once.
    """

    alpha: float
    refute: float
    looks: int = 1

    def at(self, look: int) -> tuple[float, float]:
        """Return the levels of proving and refuting at a look."""
        return looks.levels(self.alpha, self.looks)[look - 1], looks.levels(self.refute, self.looks)[look - 1]


def claim(kind: Kind, name: str, pairs: Sequence[Pair], bound: float, rule: Rule, look: int = 1) -> Claim:
    """Decide one claim at one look: the true value (a difference, or a level) lies above ``bound``.

    Args:
        kind: what the claim is for.
        name: how reports call it.
        pairs: one, or several whose differences are pooled with equal weight.
        bound: the margin, minus the largest drop allowed, or the least level.
        rule: how often the verdict may be wrong.
        look: which of the rule's looks this is, from 1.
    """
    alpha, refute = rule.at(look)
    found = limits_of(pairs, alpha, refute)
    outcome: Outcome = "PASS" if found.low > bound else "FAIL" if found.high < bound else "INCONCLUSIVE"
    counted = [pair.counts for pair in pairs]
    n, wins, losses = (sum(column) for column in zip(*counted, strict=True))
    discordance = sum(pair.samples[0].squares / pair.samples[0].rows for pair in pairs) / len(pairs)
    worth = limits.worth([pair.samples[0] for pair in pairs])
    needed = planner.rows_needed(found.estimate, bound, discordance, rule.alpha)
    first = pairs[0]
    return Claim(
        name=name,
        kind=kind,
        on=first.first.on if len(pairs) == 1 else f"{len(pairs)} general suites",
        metric=first.first.metric if len({p.first.metric for p in pairs}) == 1 else "several",
        before=first.before.subject if first.before else "",
        after=first.first.subject,
        before_mean=sum(p.before.mean if p.before else 0.0 for p in pairs) / len(pairs),
        after_mean=sum(sum(m.mean for m in p.after) / len(p.after) for p in pairs) / len(pairs),
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        bound=bound,
        n=n,
        wins=wins,
        losses=losses,
        ties=n - wins - losses,
        alpha=alpha,
        alpha_refute=refute,
        outcome=outcome,
        n_needed=None if needed is None else math.ceil(needed * n / worth),
        detectable=planner.detectable(worth, bound, discordance, rule.alpha),
        statistic=found.statistic,
        look=look,
        looks=rule.looks,
    )


def limits_of(pairs: Sequence[Pair], alpha: float, refute: float) -> Limits:
    """Return the limits of what the pairs show, by the statistic that holds its level there."""
    if any(pair.is_whole for pair in pairs):
        return bootstrap.limits([_redrawn(pair) for pair in pairs], alpha, refute)
    if len(pairs[0].samples) > 1:
        return limits.over_seeds(list(zip(*(pair.samples for pair in pairs), strict=True)), alpha, refute)
    if len(pairs) > 1:
        return limits.pooled([pair.samples[0] for pair in pairs], alpha, refute)
    (sample,) = pairs[0].samples
    if pairs[0].before is None and sample.binary:
        return limits.proportion(round(float(sample.totals.sum())), sample.rows, alpha, refute)
    return limits.limits(sample, alpha, refute)


def _redrawn(pair: Pair) -> bootstrap.Redrawn:
    """Return a pair's estimate, its resamples, and how many independent draws it has."""
    if not pair.is_whole:
        raise SuiteError(
            f"{pair.first.on}: metric {pair.first.metric} is of single rows, and is pooled with one of a whole data "
            "set; take one kind for all general suites"
        )
    before = np.asarray(pair.before.redrawn if pair.before else 0.0)
    after = np.mean([made.redrawn for made in pair.after], axis=0)
    level = pair.before.mean if pair.before else 0.0
    of_seeds = np.array([made.mean - level for made in pair.after])
    return bootstrap.Redrawn(of_seeds, after - before, pair.samples[0].totals.size)


def outcome(claims: Sequence[Claim]) -> Outcome:
    """Return PASS if every claim is proven, FAIL if one is refuted, else INCONCLUSIVE."""
    outcomes = {c.outcome for c in claims}
    return "FAIL" if "FAIL" in outcomes or not outcomes else "INCONCLUSIVE" if "INCONCLUSIVE" in outcomes else "PASS"


def sliced(pair: Pair, name: str) -> Pair:
    """Return the rows of one slice.

    Raises:
        SuiteError: no row is of that slice.
    """
    rows = [i for i, own in enumerate(pair.first.slices) if own == name]
    if not rows:
        known = ", ".join(sorted(set(filter(None, pair.first.slices)))) or "none; name the column in [data] fields"
        raise SuiteError(f"{pair.first.on}: no row is of the slice {name!r}; slices: {known}")
    return Pair(tuple(of_rows(m, rows) for m in pair.after), of_rows(pair.before, rows) if pair.before else None)


def of_rows(made: Measurement, rows: Sequence[int]) -> Measurement:
    """Return what was measured of these rows; a metric of the whole data set becomes one of single rows."""

    def taken(values: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(values[i] for i in rows) if values else ()

    return Measurement(
        subject=made.subject,
        on=made.on,
        metric=made.metric if made.whole is None else f"{made.metric} (single rows)",
        ids=taken(made.ids),
        outputs=taken(made.outputs),
        scores=taken(made.scores),
        clusters=taken(made.clusters),
        slices=taken(made.slices),
    )


def _limits_at(pair: Pair, level: float) -> Limits:
    return limits_of([pair], level, level)


def slices(pair: Pair, alpha: float) -> tuple[Slice, ...]:
    """Return how each slice of a data set fared, worst first: an average must not hide a group that got worse."""
    names = sorted(set(filter(None, pair.first.slices))) if pair.before else []
    parts = [sliced(pair, name) for name in names]
    p_values = holm([limits.p_worse(partial(_limits_at, part)) for part in parts])
    found = []
    for name, part, p_value in zip(names, parts, p_values, strict=True):
        shown = limits_of([part], alpha, alpha)
        assert part.before
        after = sum(made.mean for made in part.after) / len(part.after)
        n = len(part.first.ids)
        numbers = (part.before.mean, after, shown.estimate, shown.low, shown.high, p_value)
        found.append(Slice(pair.first.on, name, n, *numbers, worse=p_value <= alpha))
    return tuple(sorted(found, key=lambda one: one.estimate))
