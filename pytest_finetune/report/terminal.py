"""The terminal's report: one block a suite, claims last, where the eye ends."""

from collections.abc import Iterator

from pytest_finetune.curate import describe
from pytest_finetune.records import Adapter, Baseline, Claim, LostExample, SuiteRecord, TrainingCurve
from pytest_finetune.report.escape import visible

Line = tuple[str, str]  # text, colour ("" for none)
COLOUR = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}
EXTERNAL = "made elsewhere"


def suite_lines(suite: SuiteRecord, failed_only_lost: bool = True) -> Iterator[Line]:
    """Yield the block of one suite.

    Args:
        suite: what the run learned about it.
        failed_only_lost: show lost examples only of verdicts that did not pass.
    """
    yield f"{suite.name}  (model {suite.model}, {suite.file})", "bold"
    if suite.rows:
        yield f"  data      {_rows(suite.rows)}", ""
    for finding in suite.findings:
        yield f"  data      {visible(describe(finding), 300)}", "red" if finding.refuses else "yellow"
    if suite.baseline:
        yield from _baseline(suite.baseline)
    if suite.adapter:
        yield _training(suite.adapter), ""
    for verdict in suite.verdicts:
        for claim in verdict.claims:
            yield f"  {claim.outcome:<13} {claim_text(claim)}", COLOUR[claim.outcome]
        if verdict.lost and not (failed_only_lost and verdict.outcome == "PASS"):
            yield from _lost(verdict.lost)


def claim_text(claim: Claim) -> str:
    """Return one line: estimate, interval, bound, n and what would settle it."""
    if claim.kind == "superiority":
        said = f"{claim.after} beats {claim.before} by {points(claim.bound)} on {claim.on}"
    elif claim.kind == "retention":
        said = f"{claim.after} keeps {claim.on}: mean drop below {points(-claim.bound)}"
    else:
        said = f"{claim.after} keeps {claim.on}: drop below {points(-claim.bound)}"
    text = (
        f"{said}: {percent(claim.before_mean)} -> {percent(claim.after_mean)}, {signed(claim.estimate)} "
        f"[{signed(claim.low)}, {signed(claim.high)}], n {claim.n}, won {claim.wins}, lost {claim.losses}"
    )
    if claim.outcome == "INCONCLUSIVE":
        more = (
            f"about {claim.n_needed} rows would settle it"
            if claim.n_needed
            else "it lies at the bound: no number of rows would settle it"
        )
        text += f"; not settled by {claim.n} rows, {more}"
    return text


def points(difference: float) -> str:
    """Return a difference of means in points."""
    return f"{100 * difference:.1f} points"


def percent(mean: float) -> str:
    """Return a mean score as a percentage."""
    return f"{100 * mean:.1f} %"


def signed(difference: float) -> str:
    """Return a difference in points with its sign, for intervals."""
    return f"{100 * difference:+.1f}"


def _rows(rows: dict[str, int]) -> str:
    general = [count for name, count in rows.items() if name.startswith("general ")]
    text = f"{rows['train']} train, {rows['dev']} dev, {rows['heldout']} held-out"
    return text + (f", {len(general)} general suites of {min(general)} to {max(general)}" if general else "")


def _baseline(baseline: Baseline) -> Iterator[Line]:
    for candidate in baseline.candidates:
        best = candidate.name == baseline.prompt.name and candidate.shots == len(baseline.prompt.shots)
        score = f"{percent(candidate.score)} of {candidate.n} dev rows" if candidate.n else "does not fit the context"
        shots = f"{candidate.shots} shot{'' if candidate.shots == 1 else 's'}"
        yield f"  baseline  {candidate.name}, {shots}: {score}{'  <- best' if best else ''}", ""


def _training(adapter: Adapter) -> str:
    curve = adapter.curve
    if curve is None:
        return f"  adapter   {EXTERNAL}, {adapter.path}, sha256 {adapter.digest[:12]}"
    return f"  training  {adapter.method}, {_curve(curve)}, sha256 {adapter.digest[:12]}"


def _curve(curve: TrainingCurve) -> str:
    dev = dict(curve.dev_loss_nats)
    last = curve.dev_loss_nats[-1]
    text = (
        f"{curve.steps} steps in {curve.seconds:.1f} s, {curve.trainable_parameters:,} weights, "
        f"loss {curve.train_loss_nats[0][1]:.3f} -> {curve.train_loss_nats[-1][1]:.3f}, "
        f"dev loss {dev[curve.best_step]:.3f} (best, step {curve.best_step})"
    )
    return text if last[0] == curve.best_step else f"{text} {last[1]:.3f} (last)"


def _lost(lost: tuple[LostExample, ...]) -> Iterator[Line]:
    yield "  worst lost examples", ""
    for example in lost:
        yield f"    {example.place}  {visible(example.asked, 100)}", ""
        yield f"      reference {visible(example.reference, 100)}", ""
        yield f"      before    {visible(example.before, 100)}", ""
        yield f"      after     {visible(example.after, 100)}", ""
