"""The terminal's report: one block a suite, claims last, where the eye ends."""

import shutil
from collections.abc import Iterable, Iterator

from pytest_finetune import curves, policy
from pytest_finetune.curate import describe
from pytest_finetune.records import (
    Adapter,
    Baseline,
    Candidate,
    Claim,
    LostExample,
    PolicyChange,
    Prompt,
    RunOutcome,
    RunRecord,
    Slice,
    SuiteRecord,
    TrainingCurve,
    Usage,
    Verdict,
)
from pytest_finetune.report import gist
from pytest_finetune.report.escape import visible
from pytest_finetune.report.wrap import wrapped

Line = tuple[str, str]  # text, colour ("" for none)
Entry = tuple[str, str, str]  # label, text, colour
COLOUR: dict[RunOutcome, str] = {
    "FAIL": "red",
    "ERROR": "red",
    "INCONCLUSIVE": "yellow",
    "PASS": "green",
    "SKIPPED": "yellow",
}
COLUMN = 14  # of the text: the longest label is INCONCLUSIVE
EXTERNAL = "made elsewhere"
PROMPTS_SHOWN = 4
BLOCKS = "▁▂▃▄▅▆▇█"


def run_lines(run: RunRecord, verbose: bool = False, explain: bool = False) -> Iterator[Line]:
    """Yield what a run found: what changed in its policy, and a block a suite that it looked at.

    Args:
        run: the whole run.
        verbose: show the worst lost examples.
        explain: say for each stage whether it was reused or made, and why.
    """
    yield from policy_lines(run.policy, run.policy_accepted)
    for suite in run.suites:
        if suite.rows:
            yield from suite_lines(suite, verbose)
            for name, why in suite.stages.items() if explain else ():
                yield from laid_out("stage", visible(f"{name}: {why}", 400), "")


def outcome_lines(run: RunRecord) -> Iterator[Line]:
    """Yield what a run came to, which pytest itself says at the end of one: the tests that did not pass, and all."""
    for test in run.tests:
        if test.outcome not in ("PASS", "SKIPPED"):
            first = next(iter(test.message.splitlines()), "no message")
            name = test.name.removeprefix(f"{test.file}::")  # two colons would show as an escape
            place = f"{test.file}:{test.line}  {name}"
            yield from laid_out(test.outcome, f"{place}: {visible(first, 400)}", COLOUR[test.outcome])
    yield from laid_out("outcome", f"{run.outcome}: {gist.said(run)} Tests: {gist.tests(run)}.", COLOUR[run.outcome])


def suite_lines(suite: SuiteRecord, verbose: bool = False) -> Iterator[Line]:
    """Yield the block of one suite, no wider than the terminal.

    Args:
        suite: what the run learned about it.
        verbose: show the worst lost examples; else say that there are some, where a verdict did not pass.
    """
    yield from headline(suite.name, suite.model, suite.file)
    for entry in entries(suite, verbose):
        yield from laid_out(*entry)


def headline(name: str, model: str, file: str) -> Iterator[Line]:
    """Yield the head of a suite's block."""
    for line in wrapped("", visible(f"{name}  (model {model}, {file})"), columns()):
        yield line, "bold"


def columns() -> int:
    """Return the width of the terminal."""
    return shutil.get_terminal_size().columns


def laid_out(label: str, text: str, colour: str) -> Iterator[Line]:
    """Yield one thing as lines no wider than the terminal, escaped, its text in the column of all texts."""
    for line in wrapped(f"  {label:<{COLUMN}}", visible(text), columns()):
        yield line, colour


def policy_lines(changes: Iterable[PolicyChange], accepted: bool) -> Iterator[Line]:
    """Yield how the policy differs from the base branch's."""
    for change in changes:
        text, colour = policy.line(change), ""
        if change.lowers:
            text += f"; lowers the bar, {'' if accepted else 'not '}accepted"
            colour = "yellow" if accepted else "red"
        yield from laid_out("policy", text, colour)


def entries(suite: SuiteRecord, verbose: bool) -> Iterator[Entry]:
    """Yield what there is to say of a suite, each thing with its label; texts are not escaped yet."""
    if suite.rows:
        yield "data", _rows(suite.rows), ""
    for finding in suite.findings:
        yield "data", visible(describe(finding), 300), "red" if finding.refuses else "yellow"
    if suite.baseline:
        yield from _baseline(suite.baseline, suite.target)
    if suite.adapter:
        yield from _training(suite.adapter)
    yield from _cost(suite)
    for verdict in suite.verdicts:
        if verbose:
            yield from _lost(verdict.lost)
        elif verdict.lost and verdict.outcome != "PASS":
            yield "lost", f"{len(verdict.lost)} worst lost examples: -v shows them", ""
    for verdict in suite.verdicts:
        yield from _slices(verdict.slices)
        if verdict.attempt > 1:
            yield "worn", _worn(verdict), "yellow"
        for claim in verdict.claims:
            yield claim.outcome, claim_text(claim), COLOUR[claim.outcome]


def claim_text(claim: Claim) -> str:
    """Return one line: estimate, interval, bound, n and what would settle it."""
    if claim.kind == "level":
        text = (
            f"{claim.after} reaches {percent(claim.bound)} on {claim.on}: {percent(claim.after_mean)} "
            f"[{percent(claim.low)}, {percent(claim.high)}], n {claim.n}"
        )
    else:
        limit = points(abs(claim.bound))
        promise = {
            "superiority": f"{claim.after} beats {claim.before} by {limit} on {claim.on}",
            "retention": f"{claim.after} keeps {claim.on}: mean drop below {limit}",
            "guard": f"{claim.after} keeps {claim.on}: drop below {limit}",
            "slice": f"{claim.after} {claim.name} of {claim.on}: drop below {limit}",
        }[claim.kind]
        text = (
            f"{promise}: {percent(claim.before_mean)} -> {percent(claim.after_mean)}, {signed(claim.estimate)} "
            f"[{signed(claim.low)}, {signed(claim.high)}], n {claim.n}, won {claim.wins}, lost {claim.losses}"
        )
    if claim.look < claim.looks:
        text += f", look {claim.look} of {claim.looks}"
    if claim.outcome != "INCONCLUSIVE":
        return text
    if claim.look < claim.looks:
        return f"{text}; still open when another claim was refuted"
    if claim.n_needed is None:
        return f"{text}; not settled by {claim.n} rows; it lies at the bound: no number of rows would settle it"
    shown = percent(claim.detectable) if claim.kind == "level" else f"a difference of {signed(claim.detectable)}"
    if claim.n_needed <= claim.n:
        return f"{text}; not settled by these rows, though so many settle such a difference 4 times in 5"
    return (
        f"{text}; not settled by {claim.n} rows, which would show {shown}; about {claim.n_needed} rows would settle it"
    )


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
    if not general:
        return text
    span = f"{min(general)} to {max(general)}" if min(general) < max(general) else f"{min(general)}"
    return f"{text}, {len(general)} general suite{'s' if len(general) > 1 else ''} of {span}"


def _baseline(baseline: Baseline, target: float | None) -> Iterator[Entry]:
    goal = 1.0 if target is None else target
    gap, closed = goal - baseline.plain_score, baseline.score - baseline.plain_score
    share = ""
    if gap > 0:
        span = f"{percent(baseline.plain_score)} to {percent(goal)}"
        share = f"; prompting closed {closed / gap:.0%} of the gap from {span}"
    tried = f"{len(baseline.candidates)} prompts tried in {baseline.answers} answers on {baseline.rows} dev rows"
    yield "baseline", f"{tried}{share}", ""
    for candidate in sorted(baseline.candidates, key=lambda c: (-c.n, -c.score))[:PROMPTS_SHOWN]:
        shots = f", {candidate.shots} shot{'' if candidate.shots == 1 else 's'}"
        text = visible(candidate.name, 60) + (f"{shots} {candidate.selection}" if candidate.shots else "")
        if not candidate.chat:
            text += ", no chat template"
        score = f"{percent(candidate.score)} of {candidate.n} dev rows" if candidate.n else "does not fit the context"
        mark = "  <- best" if is_best(candidate, baseline.prompt) else ""
        yield "baseline", f"{text}: {score}{mark}", ""


def is_best(candidate: Candidate, best: Prompt) -> bool:
    """Whether a prompt that was tried is the one that was chosen."""
    tried = (candidate.name, candidate.shots, candidate.selection, candidate.chat)
    return tried == (best.name, best.count, best.selection, best.chat)


def _training(adapter: Adapter) -> Iterator[Entry]:
    name = f"sha256 {adapter.digest[:12]}"
    if adapter.prompt:
        yield "prompt", f"the best prompt ships, {name}; nothing is trained", ""
        return
    if adapter.curve is None:
        yield "adapter", f"{EXTERNAL}, {adapter.path}, {name}", ""
        return
    for rung in adapter.rungs:
        yield "ladder", f"rank {rung.rank}, {rung.trainable_parameters:,} weights: {percent(rung.score)} of dev", ""
    yield "training", f"{adapter.method}, {_curve(adapter.curve)}, {name}", ""
    scores = f", dev score {_drawn(adapter.curve.dev_scores)}" if adapter.curve.dev_scores else ""
    yield "training", f"by evaluation: dev loss {_drawn(adapter.curve.dev_loss_nats)}{scores}", ""
    if curves.overfits(adapter.curve):
        shipped = "best" if adapter.curve.shipped_step == adapter.curve.best_step else "last"
        yield "training", f"overfits: {curves.rise(adapter.curve)}; the {shipped} one ships", "yellow"


def _curve(curve: TrainingCurve) -> str:
    text = (
        f"{curve.steps} steps in {curve.seconds:.1f} s, {curve.trainable_parameters:,} weights, "
        f"{_losses(curve)}"
        f"dev loss {dict(curve.dev_loss_nats)[curve.best_step]:.3f} (best, step {curve.best_step})"
    )
    score = dict(curve.dev_scores).get(curve.best_step)
    return text if score is None else f"{text}, dev score {percent(score)}"


def _losses(curve: TrainingCurve) -> str:
    """Say how the training loss fell; a run of few steps logs none."""
    losses = [loss for _, loss in curve.train_loss_nats]
    return f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, " if losses else ""


def _drawn(points: tuple[tuple[int, float], ...]) -> str:
    """Return a curve as a row of blocks, the lowest value the lowest block."""
    values = [value for _, value in points]
    low, span = min(values), max(values) - min(values) or 1.0
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def _cost(suite: SuiteRecord) -> Iterator[Entry]:
    used = {m.subject: m.usage for m in suite.measurements if m.on == "held-out" and m.usage}
    before, after = used.get("baseline"), used.get("adapter")
    if before is None or after is None:
        return
    text = f"a request: baseline {_usage(before)}, adapter {_usage(after)}"
    if suite.adapter and suite.adapter.curve:
        seconds = suite.adapter.curve.seconds
        requests = curves.payback_requests(seconds, before, after)
        paid = f"are paid back after {requests:,} requests" if requests else "are never paid back by speed"
        text += f"; {seconds:.1f} s of training {paid}"
    yield "cost", text, ""


def _usage(usage: Usage) -> str:
    return f"{usage.prompt_tokens:.0f} + {usage.new_tokens:.0f} tokens, {1000 * usage.seconds:.1f} ms"


def _slices(slices: tuple[Slice, ...]) -> Iterator[Entry]:
    for one in slices:
        worse = f", worse (Holm p {one.p_worse:.2g})" if one.worse else ""
        text = (
            f"{visible(one.name, 40)} of {one.on}: {percent(one.before_mean)} -> {percent(one.after_mean)}, "
            f"{signed(one.estimate)} [{signed(one.low)}, {signed(one.high)}], n {one.n}{worse}"
        )
        yield "slice", text, "yellow" if one.worse else ""


def _worn(verdict: Verdict) -> str:
    return (
        f"attempt {verdict.attempt} on these rows: proven at alpha / {verdict.attempt**2}, so that all attempts so far "
        f"pass a bad adapter with a chance of {100 * verdict.alpha_spent:.1f} % at most; fresh rows start anew"
    )


def _lost(lost: tuple[LostExample, ...]) -> Iterator[Entry]:
    if lost:
        yield "lost", "worst lost examples", ""
    for example in lost:
        yield "asked", f"{example.place}  {visible(example.asked, 200)}", ""
        yield "reference", visible(example.reference, 200), ""
        yield "before", visible(example.before, 200), ""
        yield "after", visible(example.after, 200), ""
