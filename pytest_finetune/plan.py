"""The plan: what a run would do, take and cost, and what its data can prove, before any compute."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean

from pytest_finetune import baseline, curate, memory, speed
from pytest_finetune.lengths import Lengths
from pytest_finetune.methods import AUTO, METHODS
from pytest_finetune.mix import NO_PROMPT
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.protocol import Turns
from pytest_finetune.records import Message
from pytest_finetune.report.terminal import Entry, Line, headline, laid_out, points
from pytest_finetune.stats import planner
from pytest_finetune.suite import RANKED, model_folder

DISCORDANCE = 0.2  # assumed share of rows on which adapter and baseline disagree
GENERAL_DISCORDANCE = 0.1
PROMISE = 0.05  # what a true gain lies above the margin, of an adapter worth having
SAMPLE = 500  # rows of each kind whose length is counted
USUAL = {"rank": (8, 16), "alpha": (16, 32), "epochs": (1, 3)}  # small LoRA first


def lines(pipeline: Pipeline) -> Iterator[Line]:
    """Yield the plan of one suite, no wider than the terminal."""
    spec = pipeline.spec
    yield from headline(spec.name, spec.model, str(spec.file))
    for entry in _entries(pipeline):
        yield from laid_out(*entry)


def _entries(pipeline: Pipeline) -> Iterator[Entry]:
    """Yield what there is to say; where the suite's data is refused, that is the plan."""
    data = pipeline.curated
    refused = any(finding.refuses for finding in data.findings)
    rows = f"{len(data.train)} train, {len(data.dev)} dev, {len(data.heldout)} held-out"
    yield "data", f"{rows}: {'refused' if refused else 'fit to use'}", "red" if refused else ""
    for finding in data.findings:
        yield "data", curate.describe(finding), "red" if finding.refuses else "yellow"
    if refused:
        return
    yield from _method(pipeline)
    yield from _work(pipeline)
    yield from proofs(pipeline)


def _method(pipeline: Pipeline) -> Iterator[Entry]:
    spec, training = pipeline.spec, pipeline.training
    why = f": {pipeline.advice.reason}" if spec.training.method == AUTO else ", as the suite says"
    yield "method", f"{training.method}{why}", ""
    if training.method not in METHODS:
        return
    for name, (least, most) in USUAL.items():
        value = getattr(training, name)
        if not least <= value <= most and (name == "epochs" or training.method in RANKED) and not spec.ladder:
            yield "method", f"{name} = {value:g} is outside of the usual {least} to {most}", "yellow"
    if not spec.general:
        yield "method", "no [[general]] suite: forgetting goes unseen, and nothing is replayed against it", "yellow"
    elif not any(general.replay for general in spec.general) or not spec.replay_share:
        yield "method", "no replay: general rows in the training mix are what prevents forgetting", "yellow"
    if pipeline.shape:
        load = replace(pipeline.load, checkpointing=pipeline.checkpointing)
        need = memory.estimate(pipeline.shape, training.method, load)
        low, high = need.low / memory.GIB, need.high / memory.GIB
        have = f" of {pipeline.workplace.memory_bytes / memory.GIB:.1f}" if pipeline.workplace.memory_bytes else ""
        work = f"{load.rows} rows of up to {load.tokens} tokens at once"
        work += ", with activation checkpointing" if load.checkpointing else ""
        yield "memory", f"{low:.1f} to {high:.1f} GiB{have} ({load.device}, {work})", ""


def _work(pipeline: Pipeline) -> Iterator[Entry]:
    spec, data, training = pipeline.spec, pipeline.data, pipeline.training
    counted = _Counter(pipeline)
    parameters = pipeline.shape.parameters if pipeline.shape else 0
    operations = 0.0
    asked = baseline.answers_expected(spec, data)
    dev = counted.tokens([pipeline.plain.before(example) for example in data.dev])
    yield (
        "baseline",
        f"about {asked} answers on {len(data.dev)} dev rows{counted.said(asked * dev, 'without examples')}",
        "",
    )
    operations += speed.answering_operations(parameters, asked * dev)
    if training.method in METHODS:
        rows = pipeline.train_spec(training).train
        steps = math.ceil(math.ceil(len(rows) / training.batch_size) * training.epochs)
        tokens = counted.tokens([(*row.messages, Message("assistant", row.completion)) for row in rows])
        total = tokens * len(rows) * training.epochs * max(1, len(spec.ladder))
        climb = f"up to {len(spec.ladder)} times " if spec.ladder else ""
        mix = f"{len(rows)} rows ({len(rows) - len(data.train)} replay)"
        yield "training", f"{climb}{mix}, {steps} steps{counted.said(total)}", ""
        operations += speed.training_operations(parameters, total, training.method == "full")
    judged = counted.tokens([pipeline.serve.before(example) for example in data.heldout]) * len(data.heldout)
    judged += sum(counted.tokens([NO_PROMPT.before(e) for e in rows]) * len(rows) for rows in data.general.values())
    answers = 2 * (len(data.heldout) + sum(map(len, data.general.values())))
    written = answers * counted.answer
    yield "judging", f"{answers} answers, before and after{counted.said(2 * judged + written)}", ""
    operations += speed.answering_operations(parameters, 2 * judged + written)
    device = pipeline.workplace.device
    low, high = speed.seconds(operations, device)
    if high:
        took = f"{_duration(low)} to {_duration(high)}"
        yield "time", f"about {took} of arithmetic on {device}, with an empty store", ""


def proofs(pipeline: Pipeline) -> Iterator[Entry]:
    """Yield what the suite's data can prove and what it cannot, by its sizes alone."""
    data, gate = pipeline.curated, pipeline.spec.gate
    rows = len(data.heldout)
    gain = min(gate.margin + PROMISE, 1.0)
    need = planner.rows_needed(gain, gate.margin, DISCORDANCE, gate.alpha)
    least = planner.detectable(rows, gate.margin, DISCORDANCE, gate.alpha)
    claim = f"show that a gain of {points(gain)} is above the margin of {points(gate.margin)}"
    yield _proof(
        f"{rows} held-out rows", claim, rows, need, DISCORDANCE, f"; the least gain they show is {points(least)}"
    )
    sizes = [len(examples) for examples in pipeline.general.values()]
    for size in sorted(set(sizes)):
        names = [name for name, examples in pipeline.general.items() if len(examples) == size]
        need = planner.rows_needed(0.0, -gate.guard, GENERAL_DISCORDANCE, gate.alpha)
        claim = f"rule out a drop of {points(gate.guard)}"
        yield _proof(f"{size} general rows ({', '.join(names)})", claim, size, need, GENERAL_DISCORDANCE)
    for general in pipeline.spec.general:
        if general.name not in pipeline.general:
            yield "proof", f"{general.name} is a task of lm-eval, whose documents are counted when it runs", ""
    if sizes and len(sizes) == len(pipeline.spec.general):
        # Suites count equally: together they are worth their number times the harmonic mean of their sizes.
        pooled = round(len(sizes) ** 2 / sum(1 / size for size in sizes))
        need = planner.rows_needed(0.0, -gate.max_drop, GENERAL_DISCORDANCE, gate.alpha)
        claim = f"rule out a mean drop of {points(gate.max_drop)}"
        yield _proof(f"{sum(sizes)} general rows in {len(sizes)} suites", claim, pooled, need, GENERAL_DISCORDANCE)


def unproven(pipeline: Pipeline) -> Iterator[str]:
    """Yield what the suite's data cannot prove."""
    for _, text, colour in proofs(pipeline):
        if colour:
            yield text


class _Counter:
    """Counts tokens where the model's tokenizer is on this disk."""

    def __init__(self, pipeline: Pipeline) -> None:
        folder = model_folder(pipeline.spec.model, pipeline.spec.folder)
        self._lengths = Lengths(folder) if folder and Lengths.available(folder) else None
        self.answer = self.tokens([(Message("assistant", e.reference),) for e in pipeline.data.heldout])

    def tokens(self, turns: Sequence[Turns]) -> float:
        """Return the mean length of a conversation, of a sample of them; 0 where that cannot be counted."""
        sample = turns[:: max(1, len(turns) // SAMPLE)]
        return mean(self._lengths.of(sample)) if self._lengths and sample else 0.0

    def said(self, tokens: float, note: str = "") -> str:
        """Return so many tokens in words, or nothing where they were not counted."""
        return f", {tokens:,.0f} tokens{f' {note}' if note else ''}" if tokens else ""


def _proof(who: str, claim: str, rows: int, need: int | None, discordance: float, but: str = "") -> Entry:
    shown = need is not None and rows >= need
    assumed = f"{need or 'no number'} would, at 80 % power and discordance {discordance:g}"
    return "proof", f"{who} {'can' if shown else 'cannot'} {claim} ({assumed}){but}", "" if shown else "yellow"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )
