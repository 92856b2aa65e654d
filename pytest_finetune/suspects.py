"""Suspects: train references that models which never saw them find unlikely."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from pytest_finetune import digest
from pytest_finetune.curate import summary
from pytest_finetune.curate.tables import place
from pytest_finetune.lengths import TURN_TOKENS, Lengths
from pytest_finetune.measure import Measurer
from pytest_finetune.records import (
    Adapter,
    Conversation,
    CuratedData,
    Example,
    Flag,
    Message,
    Prompt,
    TrainSpec,
)
from pytest_finetune.suite import SuiteSpec, model_folder
from pytest_finetune.tuning import tuned

CHECK = "wrong_references"
MOST_LABELS = 500  # more distinct references are no label set, and each row is scored against each label
RANK = 8
SCALE = 1.4826  # a normal distribution's standard deviation over its median absolute deviation
FAR = 3.5  # such deviations above the median; Iglewicz and Hoaglin 1993 call that an outlier
APART_NATS = math.log(2)  # and half as likely a token as the median at the least
CHARACTERS_A_TOKEN = 4


class Suspect(NamedTuple):
    """A row whose reference is doubted, and why."""

    example: Example
    reason: str


def screen(spec: SuiteSpec, data: CuratedData, measurer: Measurer) -> CuratedData:
    """Return the data with the suspected wrong references of train found, and dropped where the suite says so.

    Every row is judged by a small LoRA that was trained on the other folds: one that saw the row
    would have learned its mistake.

    Raises:
        EngineError, SuiteError: as training does.
    """
    check = spec.checks[CHECK]
    if check.on_issue == "off":
        return data
    suspects = find(spec, data, measurer)
    if not suspects:
        return data
    drops = check.on_issue == "drop"
    folder = str(spec.folder)
    flags = [Flag(CHECK, "train", place(s.example, folder), s.reason, "", drops) for s in suspects]
    message = f"{len(suspects)} train references are unlikely to models trained on the other rows; most doubted first"
    found = summary(CHECK, message, check, flags)
    left = {s.example.id for s in suspects} if drops else set()
    train = tuple(example for example in data.train if example.id not in left)
    return replace(data, train=train, findings=(*data.findings, found), flags=(*data.flags, *flags))


def find(spec: SuiteSpec, data: CuratedData, measurer: Measurer) -> list[Suspect]:
    """Return the doubted rows of train, most doubted first.

    With a label set and cleanlab installed, confident learning decides (Northcutt et al. 2021, JAIR
    70:1373); otherwise the loss a token, where it lies far above the median.
    """
    order = sorted(range(len(data.train)), key=lambda i: digest.of(["fold", data.train[i].id]))
    folds = int(spec.checks[CHECK].settings["folds"])
    labels = _labels(spec, data.train)
    nats: dict[int, Sequence[float]] = {}  # by row: of each label, or of the reference
    for fold in range(folds):
        own = sorted(order[fold::folds])
        rest = sorted(set(order) - set(own))
        adapter = _trained(spec, data, measurer, rest)
        rows = [data.train[i] for i in own]
        nats |= dict(zip(own, _likelihoods(spec, measurer, adapter, rows, labels), strict=True))
    matrix = [nats[i] for i in range(len(data.train))]
    return _by_labels(data.train, labels, matrix) if labels else _by_loss(spec, data.train, matrix)


def _labels(spec: SuiteSpec, train: Sequence[Example]) -> tuple[str, ...]:
    """Return the label set, of labels that train has; nothing where references are free text."""
    present = {example.reference for example in train}
    if spec.labels:
        present &= set(spec.labels)
    elif spec.task != "classification" or len(present) > min(MOST_LABELS, len(train) // 2):
        return ()
    return tuple(sorted(present)) if len(present) > 1 else ()


def _trained(spec: SuiteSpec, data: CuratedData, measurer: Measurer, rows: Sequence[int]) -> Adapter:
    serve = Prompt("serve", spec.serve)
    settings = spec.training
    if settings.method not in ("lora", "qlora"):
        # A small LoRA judges in place of the method; a learning rate is chosen for one method.
        settings = replace(settings, method="lora", learning_rate=0.0)
    train, dev = (
        tuple(Conversation(serve.before(example), example.reference) for example in examples)
        for examples in ([data.train[i] for i in rows], data.dev)
    )
    job = TrainSpec(measurer.model, replace(settings, rank=min(RANK, settings.rank)), train, dev)
    return tuned(job, measurer.store, measurer.engine, measurer.device)


def _likelihoods(
    spec: SuiteSpec, measurer: Measurer, adapter: Adapter, rows: Sequence[Example], labels: tuple[str, ...]
) -> list[Sequence[float]]:
    """Return each row's log-likelihoods in nats: of every label, or else of its reference alone."""
    serve = Prompt("serve", spec.serve)
    prompts = [serve.before(example) for example in rows]
    if labels:
        return list(measurer.likelihoods(adapter, prompts, labels))
    return list(measurer.own_likelihoods(adapter, prompts, [example.reference for example in rows]))


def _by_labels(train: Sequence[Example], labels: tuple[str, ...], nats: Sequence[Sequence[float]]) -> list[Suspect]:
    known = [i for i, example in enumerate(train) if example.reference in labels]
    given = [labels.index(train[i].reference) for i in known]
    shares = [_softmax(nats[i]) for i in known]
    doubted = _confident(given, shares)
    if doubted is None:
        losses = [-math.log(max(row[label], 1e-12)) for row, label in zip(shares, given, strict=True)]
        doubted = [k for k in _far_above(losses) if max(shares[k]) > shares[k][given[k]]]
    suspects = []
    for k in doubted:
        best = shares[k].index(max(shares[k]))
        reason = f"{labels[given[k]]!r} has {shares[k][given[k]]:.3f}, {labels[best]!r} {shares[k][best]:.3f}"
        suspects.append(Suspect(train[known[k]], reason))
    return suspects


def _confident(given: list[int], shares: list[list[float]]) -> list[int] | None:
    """Return what cleanlab doubts, most doubted first; None without cleanlab."""
    try:
        import cleanlab.filter  # an extra; brings scikit-learn, 2 s to import
        import numpy as np
    except ImportError:
        return None
    found = cleanlab.filter.find_label_issues(
        np.array(given), np.array(shares), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return [int(i) for i in found]


def _by_loss(spec: SuiteSpec, train: Sequence[Example], nats: Sequence[Sequence[float]]) -> list[Suspect]:
    folder = model_folder(spec.model, spec.folder)
    if folder and Lengths.available(folder):
        turns = [(Message("assistant", example.reference),) for example in train]
        tokens = [count - TURN_TOKENS + 1 for count in Lengths(folder).of(turns)]  # and its end mark
    else:
        tokens = [len(example.reference) // CHARACTERS_A_TOKEN + 1 for example in train]
    losses = [-row[0] / count for row, count in zip(nats, tokens, strict=True)]
    middle = statistics.median(losses)
    return [Suspect(train[i], f"{losses[i]:.2f} nats a token, median {middle:.2f}") for i in _far_above(losses)]


def _far_above(losses: list[float]) -> list[int]:
    """Return the outliers upwards, farthest first: a robust z above ``FAR``, and ``APART_NATS`` at least."""
    middle = statistics.median(losses)
    spread = SCALE * statistics.median(abs(loss - middle) for loss in losses)
    limit = middle + max(FAR * spread, APART_NATS)
    return sorted((i for i, loss in enumerate(losses) if loss > limit), key=lambda i: -losses[i])


def _softmax(nats: Sequence[float]) -> list[float]:
    top = max(nats)
    weights = [math.exp(value - top) for value in nats]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
