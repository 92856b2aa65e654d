"""The verdict of a shadow: PROMOTE, HOLD or REJECT, valid whenever one looks. See docs/shadow-verdict.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_finetune import ledger
from pytest_finetune.records import Claim, Kind, Outcome
from pytest_finetune.shadow.config import Limits
from pytest_finetune.shadow.exchange import Pair
from pytest_finetune.stats import eprocess

Decision = Literal["PROMOTE", "HOLD", "REJECT"]
DECISIONS: Mapping[Outcome, Decision] = {"PASS": "PROMOTE", "INCONCLUSIVE": "HOLD", "FAIL": "REJECT"}
LEVEL = 0.95  # the percentile of seconds that is compared
LARGEST = 10.0  # a ratio of which no more is known
ERRORS, VALIDITY, REFUSALS, LATENCY = "answers without a fault", "valid answers", "no refusals", "speed at p95"
SIDES = ("primary", "candidate")


@dataclass(frozen=True, slots=True)
class Drift:
    """How the answers differ: information, and no claim, since a good fine-tune should differ.

    ``agreement`` is the share of pairs of equal text and tool calls; the ratios are the candidate's mean by the
    primary's, 0 where nothing was counted.
    """

    agreement: float
    characters_ratio: float
    tokens_ratio: float
    first_seconds: tuple[float, float] = (0.0, 0.0)
    seconds: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ShadowVerdict:
    """What the pairs so far say of a candidate.

    ``more`` is how many pairs more the slowest claim is expected to take, None where it cannot be told; ``left_out``
    counts pairs whose primary failed, of which only the candidate's errors count. ``attempt`` counts the candidates
    that were judged on this traffic, and ``alpha`` is the level that is left for this one.
    """

    outcome: Decision
    candidate: str
    claims: tuple[Claim, ...]
    pairs: int
    conversations: int
    left_out: int
    quality_judged: bool
    more: int | None
    drift: Drift
    attempt: int
    alpha: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """What pairs scored by one metric: the primary's score and the candidate's, by the number of the exchange."""

    name: str
    scores: Mapping[int, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Levels:
    """At which claims are proven, and refuted: one that is suffices, so that their number corrects it."""

    prove: float
    refute: float


def decide(
    candidate: str, pairs: Sequence[Pair], limits: Limits, quality: Sequence[Scored] | None, attempt: int = 1
) -> ShadowVerdict:
    """Return the verdict over all pairs so far.

    Args:
        candidate: whose pairs they are.
        pairs: in the order in which they were completed.
        limits: what must be proven.
        quality: scores of pairs, by metric; None: quality is no question here, as in the canary.
        attempt: which candidate on this traffic it is, from 1: several are several chances.
    """
    pairs = [pair for pair in pairs if not 400 <= pair.primary.status < 500]  # the caller's mistake, and nobody else's
    both = [pair for pair in pairs if not pair.primary.error]
    alpha = ledger.alpha_of(limits.alpha, attempt)
    firsts = first_of_each(both)
    scored = [
        (one, [one.scores[p.exchange.number] for p in firsts if p.exchange.number in one.scores])
        for one in quality or ()
    ]
    answered = [pair for pair in both if not pair.candidate.error]
    count = 1 + bool(limits.schema) + 1 + (limits.latency_of != "none") + len(scored)
    levels = _Levels(alpha, alpha / count)
    claims = [_errors(pairs, limits.error_rate, levels)]
    if limits.schema:
        valid = [(float(p.primary.valid is True), float(p.candidate.valid is True)) for p in both]
        claims.append(_paired(VALIDITY, "valid", valid, limits.max_invalid_rise, levels))
    willing = [(float(not p.primary.refused), float(not p.candidate.refused)) for p in answered]
    claims.append(_paired(REFUSALS, "not refused", willing, limits.max_refusal_rise, levels))
    if limits.latency_of != "none":
        claims.append(_latency(answered, limits, levels))
    claims += [_paired(one.name, one.name, both_scores, limits.max_drop, levels) for one, both_scores in scored]
    outcomes = {claim.outcome for claim in claims}
    outcome: Outcome = "FAIL" if "FAIL" in outcomes else "INCONCLUSIVE" if "INCONCLUSIVE" in outcomes else "PASS"
    notes, more = [], _more(claims)
    if quality is not None and not scored:
        notes.append("quality was not judged: give references and a metric, or a judge")
        if limits.require_quality and outcome == "PASS":
            outcome, more = "INCONCLUSIVE", None
    return ShadowVerdict(
        outcome=DECISIONS[outcome],
        candidate=candidate,
        claims=tuple(claims),
        pairs=len(pairs),
        conversations=len(firsts),
        left_out=len(pairs) - len(both),
        quality_judged=bool(scored),
        more=more,
        drift=_drift(answered),
        attempt=attempt,
        alpha=alpha,
        notes=tuple(notes),
    )


def first_of_each(pairs: Sequence[Pair]) -> list[Pair]:
    """Return one pair a conversation, the first: later turns depend on it, and would count one mistake often."""
    firsts: dict[str, Pair] = {}
    for pair in pairs:
        firsts.setdefault(pair.exchange.conversation, pair)
    return list(firsts.values())


def _more(claims: Sequence[Claim]) -> int | None:
    """Return how many pairs more the slowest open claim takes."""
    waits = [None if c.n_needed is None else c.n_needed - c.n for c in claims if c.outcome == "INCONCLUSIVE"]
    known = [wait for wait in waits if wait is not None]
    return None if len(known) < len(waits) else max(known, default=0)


def _claim(name: str, kind: Kind, metric: str, n: int, bound: float, levels: _Levels) -> Claim:
    """Return a claim of which nothing is known yet."""
    return Claim(
        name=name,
        kind=kind,
        on=name,
        metric=metric,
        before="" if kind == "level" else SIDES[0],
        after=SIDES[1],
        before_mean=0.0,
        after_mean=0.0,
        estimate=0.0,
        low=0.0 if kind == "level" else -1.0,
        high=1.0,
        bound=bound,
        n=n,
        wins=0,
        losses=0,
        ties=0,
        alpha=levels.prove,
        alpha_refute=levels.refute,
        outcome="INCONCLUSIVE",
        n_needed=None,
        detectable=1.0,
        statistic="e-process",
        look=1,
        looks=1,
    )


def _decided(claim: Claim, proof: float, refutation: float, rate: float) -> Claim:
    """Return a claim with what the evidence for and against it says.

    Args:
        claim: with its limits.
        proof: log evidence that it holds.
        refutation: log evidence that it does not.
        rate: nats a pair at which the evidence for it (or against it) grows.
    """
    proven, refuted = proof >= -math.log(claim.alpha), refutation >= -math.log(claim.alpha_refute)
    holds = claim.estimate > claim.bound
    wait = eprocess.expected_more(proof if holds else refutation, rate, claim.alpha if holds else claim.alpha_refute)
    return replace(
        claim,
        outcome="PASS" if proven else "FAIL" if refuted else "INCONCLUSIVE",
        n_needed=None if wait is None else claim.n + wait,
        detectable=min(1.0, claim.bound + max(0.0, claim.estimate - claim.low)),
    )


def _errors(pairs: Sequence[Pair], limit: float, levels: _Levels) -> Claim:
    n, errors = len(pairs), sum(bool(pair.candidate.error) for pair in pairs)
    claim = _claim(ERRORS, "level", "error rate", n, 1 - limit, levels)
    if not n:
        return claim
    claim = replace(
        claim,
        after_mean=1 - errors / n,
        estimate=1 - errors / n,
        low=1 - eprocess.rate_limits(errors, n, levels.prove)[1],
        high=1 - eprocess.rate_limits(errors, n, levels.refute)[0],
        wins=n - errors,
        losses=errors,
    )
    proof, refutation = eprocess.rate_below(errors, n, limit), eprocess.rate_above(errors, n, limit)
    return _decided(claim, proof, refutation, eprocess.rate_growth(errors, n, limit))


def _paired(name: str, metric: str, scores: Sequence[tuple[float, float]], drop: float, levels: _Levels) -> Claim:
    claim = _claim(name, "guard", metric, len(scores), -drop, levels)
    if not scores:
        return claim
    differences = [after - before for before, after in scores]
    low = eprocess.mean_limits(differences, levels.prove)[0]
    high = eprocess.mean_limits(differences, levels.refute)[1]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    claim = replace(
        claim,
        before_mean=math.fsum(before for before, _ in scores) / len(scores),
        after_mean=math.fsum(after for _, after in scores) / len(scores),
        estimate=math.fsum(differences) / len(scores),
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        ties=len(scores) - wins - losses,
    )
    proof, refutation = eprocess.mean_above(differences, -drop), eprocess.mean_below(differences, -drop)
    sign = 1 if claim.estimate > -drop else -1
    return _decided(claim, proof, refutation, eprocess.growth([sign * d for d in differences], -sign * drop))


def _latency(pairs: Sequence[Pair], limits: Limits, levels: _Levels) -> Claim:
    """Judge the candidate's speed: the primary's 95th percentile of seconds, by the candidate's.

    Each percentile has limits of its own at half the level, so that both hold together.
    """
    name = "first_seconds" if limits.latency_of == "first_token" else "seconds"
    bound = 1 / limits.latency_ratio
    claim = _claim(LATENCY, "level", f"p95 of {name.replace('_', ' ')}", len(pairs), bound, levels)
    primary, candidate = ([getattr(getattr(pair, side), name) for pair in pairs] for side in SIDES)
    if not pairs:
        return replace(claim, high=LARGEST)

    def ratio(above: float, below: float) -> float:
        return min(above / below, LARGEST) if below > 0 and not math.isinf(above) else LARGEST

    slow, fast = (eprocess.quantile_limits(primary, LEVEL, level / 2) for level in (levels.prove, levels.refute))
    worst = eprocess.quantile_limits(candidate, LEVEL, levels.prove / 2)[1]
    best = eprocess.quantile_limits(candidate, LEVEL, levels.refute / 2)[0]
    estimate = ratio(_quantile(primary), _quantile(candidate))
    low, high = 0.0 if math.isinf(worst) else ratio(slow[0], worst), ratio(fast[1], best)
    outcome: Outcome = "PASS" if low > bound else "FAIL" if high < bound else "INCONCLUSIVE"
    return replace(
        claim,
        after_mean=estimate,
        estimate=estimate,
        low=low,
        high=high,
        outcome=outcome,
        n_needed=_rows_for_ratio(claim.n, estimate, low, high, bound),
        detectable=bound + max(0.0, estimate - low),
    )


def _rows_for_ratio(n: int, estimate: float, low: float, high: float, bound: float) -> int | None:
    """Return about how many pairs settle a ratio: limits come nearer by the root of their number."""
    distance = abs(math.log(max(estimate, 1e-9) / bound))
    if distance < 1e-3:
        return None
    reached = low if estimate > bound else high
    if reached <= 0 or reached >= LARGEST:  # so few that a percentile has no limit yet
        return max(2 * n, 150)
    return max(n + 1, math.ceil(n * (abs(math.log(estimate / reached)) / distance) ** 2))


def _quantile(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(LEVEL * len(ordered)) - 1)]


def _drift(pairs: Sequence[Pair]) -> Drift:
    if not pairs:
        return Drift(0.0, 0.0, 0.0)

    def ratio(name: str) -> float:
        before, after = (sum(getattr(getattr(pair, side), name) for pair in pairs) for side in SIDES)
        return float(after / before) if before and after else 0.0

    def p95(name: str) -> tuple[float, float]:
        before, after = (_quantile([getattr(getattr(pair, side), name) for pair in pairs]) for side in SIDES)
        return before, after

    return Drift(
        agreement=sum(pair.agrees for pair in pairs) / len(pairs),
        characters_ratio=ratio("characters"),
        tokens_ratio=ratio("completion_tokens"),
        first_seconds=p95("first_seconds"),
        seconds=p95("seconds"),
    )
