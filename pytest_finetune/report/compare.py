"""Two runs side by side, paired by example: what changed from the first to the second, and for which rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_finetune import gate
from pytest_finetune.errors import SuiteError
from pytest_finetune.gate import Pair
from pytest_finetune.records import Claim, Measurement, RunRecord, SuiteRecord
from pytest_finetune.report.escape import visible
from pytest_finetune.report.terminal import COLOUR, Entry, Line, laid_out, percent, signed

ALPHA = 0.025  # of each limit: both together make an interval of 95 %
WORST = 5


@dataclass(frozen=True, slots=True)
class Compared:
    """One subject on one data set, of the rows that both runs have; ``alone`` counts those that only one has."""

    before: Measurement
    after: Measurement
    alone: tuple[int, int]


def run_lines(first: RunRecord, second: RunRecord) -> Iterator[Line]:
    """Yield what changed from one run to another.

    Raises:
        SuiteError: no suite is in both.
    """
    before, after = ({suite.name: suite for suite in run.suites} for run in (first, second))
    common = [name for name in before if name in after]
    if not common:
        names = [", ".join(map(visible, suites)) or "none" for suites in (before, after)]
        raise SuiteError(f"no suite is in both runs: {names[0]} in the first, {names[1]} in the second")
    yield from laid_out("outcome", _changed((first.outcome, second.outcome)), "bold")
    for suites, where in ((before, "first"), (after, "second")):
        if alone := [name for name in suites if name not in common]:
            yield from laid_out("suites", f"only in the {where} run: {', '.join(alone)}", "yellow")
    for name in common:
        yield visible(name, 60), "bold"
        for entry in _entries(before[name], after[name]):
            yield from laid_out(*entry)


def compared(before: SuiteRecord, after: SuiteRecord) -> list[Compared]:
    """Return what both runs measured of a suite, each of the same rows in the same order."""
    known = {(made.subject, made.on, made.metric): made for made in before.measurements}
    pairs = [(known.get((made.subject, made.on, made.metric)), made) for made in after.measurements]
    return [_of_shared_rows(old, made) for old, made in pairs if old]


def _of_shared_rows(before: Measurement, after: Measurement) -> Compared:
    old, new = ({row: place for place, row in enumerate(made.ids)} for made in (before, after))
    shared = [row for row in old if row in new]
    alone = len(old) - len(shared), len(new) - len(shared)
    if before.ids == after.ids:
        return Compared(before, after, alone)
    # Resamples of other rows say nothing of these: single rows are compared.
    before, after = (gate.of_rows(made, [own[row] for row in shared]) for made, own in ((before, old), (after, new)))
    return Compared(before, after, alone)


def _entries(before: SuiteRecord, after: SuiteRecord) -> Iterator[Entry]:
    yield "adapter", _changed(f"sha256 {s.adapter.digest[:12]}" if s.adapter else "none" for s in (before, after)), ""
    found = compared(before, after)
    yield from map(_score, found)
    old, new = (
        {(claim.name, claim.on): claim for verdict in suite.verdicts for claim in verdict.claims}
        for suite in (before, after)
    )
    for key in {**old, **new}:
        yield _claim(*key, old.get(key), new.get(key))
    yield from _lost(found, after)


def _score(one: Compared) -> Entry:
    text = f"{one.after.subject} on {one.after.on} ({one.after.metric}): "
    alone = "".join(
        f", {count} rows only in the {where} run"
        for count, where in zip(one.alone, ("first", "second"), strict=True)
        if count
    )
    if not one.after.ids:
        return "score", f"{text}no row is in both runs{alone}", "yellow"
    pair = Pair((one.after,), one.before)
    limits = gate.limits_of([pair], ALPHA, ALPHA)
    n, won, lost = pair.counts
    text += (
        f"{percent(one.before.mean)} -> {percent(one.after.mean)}, {signed(limits.estimate)} "
        f"[{signed(limits.low)}, {signed(limits.high)}], n {n}, won {won}, lost {lost}, tied {n - won - lost}{alone}"
    )
    return "score", text, "green" if limits.low > 0 else "red" if limits.high < 0 else ""


def _claim(name: str, on: str, before: Claim | None, after: Claim | None) -> Entry:
    told = _changed(claim.outcome if claim else "not claimed" for claim in (before, after))
    return "claim", f"{name} on {on}: {told}", COLOUR[after.outcome] if after else "yellow"


def _changed(told: Iterable[str]) -> str:
    return " -> ".join(dict.fromkeys(told))


def _lost(found: list[Compared], suite: SuiteRecord) -> Iterator[Entry]:
    """Yield the rows whose score fell most from the first run to the second."""
    drops = [(one.before.scores[i] - one.after.scores[i], one, i) for one in found for i in range(len(one.after.ids))]
    worst = sorted((drop for drop in drops if drop[0] > 0), key=lambda drop: -drop[0])[:WORST]
    if worst:
        yield "lost", "worst lost examples, from the first run to the second", ""
    for _, one, i in worst:
        row = next((text for text in suite.texts.get(one.after.on, ()) if text.id == one.after.ids[i]), None)
        yield "asked", f"{one.after.subject}, {row.place}  {visible(row.asked, 200)}" if row else one.after.ids[i], ""
        if row:
            yield "reference", visible(row.reference, 200), ""
        yield "before", visible(one.before.outputs[i], 200), ""
        yield "after", visible(one.after.outputs[i], 200), ""
