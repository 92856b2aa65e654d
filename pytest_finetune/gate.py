"""The gate's decision: measurements in, claims and a verdict out. See docs/gate.md."""

from collections.abc import Sequence
from typing import Literal

from pytest_finetune import stats
from pytest_finetune.errors import SuiteError
from pytest_finetune.records import Claim, Measurement, Outcome

Pair = tuple[Measurement, Measurement]  # before, after: the same rows in the same order
Kind = Literal["superiority", "retention", "guard"]


def claim(
    kind: Kind,
    name: str,
    pairs: Sequence[Pair],
    bound: float,
    alpha: float,
    claims_in_verdict: int,
) -> Claim:
    """Decide one claim: the true difference (after - before) lies above ``bound``.

    Args:
        kind: what the claim is for.
        name: how reports call it.
        pairs: one pair, or several whose differences are pooled with equal weight.
        bound: the margin, or minus the largest drop allowed.
        alpha: one-sided level at which the claim is proven.
        claims_in_verdict: refuting is corrected for this many (Bonferroni); proving needs no
            correction, since all claims must hold (intersection-union, Berger 1982).

    Raises:
        SuiteError: the pairs are empty or not of the same rows.
    """
    for before, after in pairs:
        if not before.ids or before.ids != after.ids:
            raise SuiteError(f"{before.on}: {before.subject} and {after.subject} were not measured on the same rows")
    alpha_refute = alpha / claims_in_verdict
    differences = [[y - x for x, y in zip(before.scores, after.scores, strict=True)] for before, after in pairs]
    flat = [d for rows in differences for d in rows]
    wins, losses = sum(d > 0 for d in flat), sum(d < 0 for d in flat)
    limits = _limits(pairs, differences, alpha, alpha_refute)
    outcome: Outcome = "PASS" if limits.low > bound else "FAIL" if limits.high < bound else "INCONCLUSIVE"
    squares = sum(d * d for d in flat) / len(flat)
    first_before, first_after = pairs[0]
    return Claim(
        name=name,
        kind=kind,
        on=first_before.on if len(pairs) == 1 else f"{len(pairs)} general suites",
        metric=first_before.metric if len({p[0].metric for p in pairs}) == 1 else "several",
        before=first_before.subject,
        after=first_after.subject,
        before_mean=sum(p[0].mean for p in pairs) / len(pairs),
        after_mean=sum(p[1].mean for p in pairs) / len(pairs),
        estimate=limits.estimate,
        low=limits.low,
        high=limits.high,
        bound=bound,
        n=len(flat),
        wins=wins,
        losses=losses,
        ties=len(flat) - wins - losses,
        alpha=alpha,
        alpha_refute=alpha_refute,
        outcome=outcome,
        n_needed=stats.rows_needed(limits.estimate, bound, squares, alpha) if outcome == "INCONCLUSIVE" else None,
        statistic=limits.statistic,
    )


def _limits(pairs: Sequence[Pair], differences: list[list[float]], alpha: float, alpha_refute: float) -> stats.Limits:
    if len(pairs) > 1:
        return stats.pooled(differences, alpha, alpha_refute)
    (before, after), rows = pairs[0], differences[0]
    clustered = len(set(before.clusters) - {""}) > 0
    binary = not clustered and {*before.scores, *after.scores} <= {0.0, 1.0}
    if binary:
        return stats.tango(sum(d > 0 for d in rows), sum(d < 0 for d in rows), len(rows), alpha, alpha_refute)
    return stats.paired_t(rows, alpha, alpha_refute, before.clusters)


def outcome(claims: Sequence[Claim]) -> Outcome:
    """Return PASS if every claim is proven, FAIL if one is refuted, else INCONCLUSIVE."""
    outcomes = {c.outcome for c in claims}
    return "FAIL" if "FAIL" in outcomes or not outcomes else "INCONCLUSIVE" if "INCONCLUSIVE" in outcomes else "PASS"
