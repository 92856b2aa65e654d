"""The verdict of a shadow as lines of text."""

from collections.abc import Iterator, Mapping

from pytest_finetune.report.escape import visible
from pytest_finetune.report.terminal import claim_text, percent
from pytest_finetune.shadow.verdict import ShadowVerdict


def lines(verdict: ShadowVerdict, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield the lines of a verdict, with what became of the traffic."""
    yield f"shadow of {visible(verdict.candidate)}: {verdict.outcome}"
    tried = f", attempt {verdict.attempt} on this traffic" if verdict.attempt > 1 else ""
    yield f"  {verdict.pairs:,} pairs, {verdict.conversations:,} conversations, alpha {verdict.alpha:.3g}{tried}"
    for claim in verdict.claims:
        yield f"  {claim.outcome:<12} {claim_text(claim)}"
    if verdict.outcome == "HOLD":
        yield f"  {_wait(verdict)}"
    yield from (f"  note: {visible(note)}" for note in verdict.notes)
    if verdict.left_out:
        yield f"  note: the primary failed {verdict.left_out:,} pairs, of which only the candidate's faults count"
    drift = verdict.drift
    yield (
        f"  for information: {percent(drift.agreement)} of pairs agree, {drift.characters_ratio:.2f} x the length, "
        f"{drift.tokens_ratio:.2f} x the tokens; p95 to the first token {_both(drift.first_seconds)}, "
        f"whole {_both(drift.seconds)}"
    )
    yield f"  traffic: {', '.join(f'{visible(name)} {count:,}' for name, count in counts.items()) or 'none yet'}"


def _wait(verdict: ShadowVerdict) -> str:
    if not any(claim.outcome == "INCONCLUSIVE" for claim in verdict.claims):
        return "every claim is proven, but for quality, which is not judged"
    if verdict.more is None:
        return "how many pairs more it takes cannot be told: a claim lies at its limit, or there is no pair for it yet"
    return f"about {verdict.more:,} pairs more are expected to settle it; look as often as you like"


def _both(seconds: tuple[float, float]) -> str:
    return f"{seconds[0]:.3f} -> {seconds[1]:.3f} s"
