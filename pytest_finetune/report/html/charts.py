"""Where the marks of a chart stand, in per cent of its width and height; the templates draw them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_finetune.records import Baseline, Claim, TrainingCurve
from pytest_finetune.report.terminal import percent, signed

Point = tuple[float, float]  # from the left and from the top
Tick = tuple[float, str]
MARGIN = 0.06  # of a chart's span, left free at both ends
STEPS = (1, 2, 5, 10)  # of round ticks, times a power of ten
Named = tuple[str, Claim]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from ``low`` to ``high``."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where a value stands; one beyond the axis (or infinite) stands at its end."""
        held = min(max(value, self.low), self.high)
        return round(100 * (held - self.low) / (self.high - self.low), 2)

    def values(self, count: int) -> list[float]:
        """Return round values on the axis, about ``count``."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in STEPS if s * power >= 0.7 * rough)
        return [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def axis(values: Iterable[float], least: float = -math.inf, most: float = math.inf) -> Axis:
    """Return the axis that shows all finite values, and goes from ``least`` to ``most`` at the widest."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    margin = MARGIN * (high - low) or 0.05
    return Axis(max(low - margin, least), min(high + margin, most))


# --- claims ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One claim of a forest plot: its interval, and the bound that the interval must lie above."""

    name: str
    claim: Claim
    low: float
    high: float
    estimate: float
    bound: float


@dataclass(frozen=True, slots=True)
class Forest:
    """Claims on one axis; ``zero`` is where nothing has changed, None for levels."""

    title: str
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    zero: float | None


def forests(claims: Sequence[Named]) -> list[Forest]:
    """Return named claims: the differences, and apart from them the levels."""
    levels = [named for named in claims if named[1].kind == "level"]
    differences = [named for named in claims if named[1].kind != "level"]
    return [_forest(some, some is levels) for some in (differences, levels) if some]


def _forest(claims: Sequence[Named], level: bool) -> Forest:
    ends = [value for _, c in claims for value in (c.low, c.high, c.estimate, c.bound)]
    scale = axis(ends if level else [*ends, 0.0], 0.0 if level else -1.0, 1.0)
    rows = tuple(Row(name, c, *(scale.at(v) for v in (c.low, c.high, c.estimate, c.bound))) for name, c in claims)
    ticks = tuple(
        (scale.at(v), f"{100 * v:.3g}" if level else "0" if not v else signed(v).replace(".0", ""))
        for v in scale.values(5)
    )
    title = "Score, %" if level else "Difference, points"
    return Forest(title, rows, ticks, None if level else scale.at(0.0))


# --- lines and dots --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A named series; ``name`` also chooses its colour. Few points show as dots, too."""

    name: str
    kind: str
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """The points as SVG's polyline wants them."""
        return " ".join(f"{x},{y}" for x, y in self.points)


@dataclass(frozen=True, slots=True)
class Chart:
    """Series on two axes; ``levels`` are lines across, ``steps`` lines down, ``dots`` single points."""

    title: str
    said: str
    x_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    levels: tuple[Tick, ...] = ()
    steps: tuple[Tick, ...] = ()
    dots: tuple[tuple[float, float, bool], ...] = ()


def curves(curve: TrainingCurve) -> list[Chart]:
    """Return the charts of a training run: losses, and scores on the dev split where they were taken."""
    x = Axis(0, max(curve.steps, 1))
    best = dict(curve.dev_loss_nats).get(curve.best_step)
    found = []
    if curve.train_loss_nats or curve.dev_loss_nats:
        said = f"Loss over {curve.steps} steps" + (
            "" if best is None else f"; dev loss is best at step {curve.best_step}"
        )
        series = (("train loss", "train", curve.train_loss_nats), ("dev loss", "dev", curve.dev_loss_nats))
        found.append(_curve("Loss, nats a token", said, x, series, curve))
    if curve.dev_scores:
        said = f"Dev score ends at {percent(curve.dev_scores[-1][1])}"
        found.append(_curve("Dev score, %", said, x, (("dev score", "dev", curve.dev_scores),), curve))
    return found


Series = tuple[str, str, tuple[tuple[int, float], ...]]


def _curve(title: str, said: str, x: Axis, series: Iterable[Series], curve: TrainingCurve) -> Chart:
    drawn = [one for one in series if one[2]]
    share = title.endswith("%")
    steps = {curve.best_step: "best", curve.shipped_step: "ships"}  # one line where they are the same
    y = axis([value for _, _, points in drawn for _, value in points], 0.0)
    return Chart(
        title=title,
        said=said,
        x_name="step",
        x_ticks=tuple((x.at(v), f"{v:g}") for v in x.values(4)),
        y_ticks=tuple((100 - y.at(v), f"{100 * v:.3g}" if share else f"{v:.3g}") for v in y.values(4)),
        lines=tuple(
            Line(name, kind, tuple((x.at(step), round(100 - y.at(v), 2)) for step, v in points))
            for name, kind, points in drawn
        ),
        steps=tuple((x.at(step), name) for step, name in steps.items()),
    )


def climb(baseline: Baseline, best: Sequence[bool], target: float | None) -> Chart:
    """Return how the search for the best prompt went: every prompt by the dev rows it was asked and its score.

    Args:
        baseline: what was tried.
        best: for each candidate, whether it was chosen.
        target: the score that is wanted, if one is.
    """
    asked = sorted({c.n for c in baseline.candidates if c.n})
    y = axis([c.score for c in baseline.candidates if c.n] + [baseline.plain_score, target or 0.0], 0.0, 1.0)
    x = {n: round(100 * (i + 0.5) / len(asked), 2) for i, n in enumerate(asked)}

    def across(value: float) -> float:
        return round(100 - y.at(value), 2)

    levels = [(across(baseline.plain_score), f"plain instruction {percent(baseline.plain_score)}")]
    if target is not None:
        levels.append((across(target), f"target {percent(target)}"))
    return Chart(
        title="Dev score of each prompt, %",
        said=f"{len(baseline.candidates)} prompts tried; the best scores {percent(baseline.score)}",
        x_name="dev rows asked",
        x_ticks=tuple((x[n], f"{n}") for n in asked),
        y_ticks=tuple((across(v), f"{100 * v:.3g}") for v in y.values(4)),
        levels=tuple(levels),
        dots=tuple((x[c.n], across(c.score), won) for c, won in zip(baseline.candidates, best, strict=True) if c.n),
    )
