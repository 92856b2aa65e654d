"""The plan: what a run would do, and what its data can prove, before any compute."""

import math
from collections.abc import Iterator
from itertools import chain

from pytest_finetune import baseline, memory, stats, workload
from pytest_finetune.methods import METHODS
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.report.terminal import Line, points
from pytest_finetune.suite import model_folder

DISCORDANCE = 0.2  # assumed share of rows on which adapter and baseline disagree
GENERAL_DISCORDANCE = 0.1


def lines(pipeline: Pipeline) -> Iterator[Line]:
    """Yield the plan of one suite.

    Raises:
        DataRefused: the data must not be used.
    """
    spec, data = pipeline.spec, pipeline.data
    training, gate = spec.training, spec.gate
    yield f"{spec.name}  (model {spec.model}, {spec.file})", "bold"
    yield f"  data      {len(data.train)} train, {len(data.dev)} dev, {len(data.heldout)} held-out", ""
    yield f"  baseline  about {baseline.answers_expected(spec, data)} answers on {len(data.dev)} dev rows", ""
    rows = len(pipeline.train_spec(training).train)
    steps = math.ceil(math.ceil(rows / training.batch_size) * training.epochs)
    yield f"  training  {training.method}, {rows} rows ({rows - len(data.train)} replay), {steps} steps", ""
    folder = model_folder(spec.model, spec.folder)
    if folder and training.method in METHODS:
        taught = [*data.train, *chain.from_iterable(data.replay.values())]
        load = workload.load_of(spec, taught, len(data.dev), pipeline.workplace.device)
        need = memory.estimate(memory.shape_of(folder), training.method, load)
        low, high = need.low / memory.GIB, need.high / memory.GIB
        yield f"  memory    {low:.1f} to {high:.1f} GiB ({load.device}, rows of up to {load.tokens} tokens)", ""
    yield _claim(
        f"a gain of {points(2 * gate.margin)} over the margin of {points(gate.margin)}",
        len(data.heldout),
        stats.rows_needed(2 * gate.margin, gate.margin, DISCORDANCE, gate.alpha),
    )
    for name, examples in data.general.items():
        yield _claim(
            f"general {name}: no drop of {points(gate.guard)} or more",
            len(examples),
            stats.rows_needed(0.0, -gate.guard, GENERAL_DISCORDANCE, gate.alpha),
        )
    if data.general:
        total = sum(map(len, data.general.values()))
        yield _claim(
            f"general, pooled: a mean drop below {points(gate.max_drop)}",
            total,
            stats.rows_needed(0.0, -gate.max_drop, GENERAL_DISCORDANCE, gate.alpha),
        )


def _claim(name: str, have: int, need: int | None) -> Line:
    enough = need is not None and have >= need
    said = "can be shown" if enough else "cannot be shown"
    needed = f"{need} would do" if need else "no number would do"
    return f"  claim     {name} {said} with {have} rows ({needed}, 80 % power)", "" if enough else "yellow"
