"""Outputs made elsewhere: scores of the base model and of the adapter, paired by id.

Read are lm-evaluation-harness's `samples_*.jsonl` (as its ``lm_eval/loggers/evaluation_tracker.py`` writes
them under ``--log_samples``), and JSONL of ``id`` and ``score``. See docs/gate.md.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_finetune import data, digest
from pytest_finetune.errors import SuiteError, named_choice
from pytest_finetune.metrics import Metric
from pytest_finetune.records import Example, Measurement, Message
from pytest_finetune.suite import OutputsSpec

SHOWN = 3
PLAIN = "score"  # how the metric of plain lines is called where the suite does not name it


@dataclass(frozen=True, slots=True)
class Outputs:
    """Scores that were made elsewhere, on the same rows in the same order.

    Args:
        examples: the rows; one whose text is not in the files has its id as text.
        base: score of the base model on each, from 0 to 1.
        adapter: score of the adapter.
        base_texts: what the base model answered, or nothing.
        adapter_texts: what the adapter answered.
        metric: what the scores are of.
        of: the start of the digest of the adapter that they are of; empty: not said.
        digest: names the bytes of both sides' files.
    """

    examples: tuple[Example, ...]
    base: tuple[float, ...]
    adapter: tuple[float, ...]
    base_texts: tuple[str, ...]
    adapter_texts: tuple[str, ...]
    metric: str
    of: str
    digest: str

    def as_metric(self) -> Metric:
        """Return the metric as a name; nothing is scored by it."""
        return Metric(self.metric, "text")

    def measured(self, subject: str, on: str, part: Sequence[Example], of_adapter: bool) -> Measurement:
        """Return one side's scores of some of the rows."""
        scores, texts = (self.adapter, self.adapter_texts) if of_adapter else (self.base, self.base_texts)
        place = {example.id: i for i, example in enumerate(self.examples)}
        rows = [place[example.id] for example in part]
        return Measurement(
            subject=subject,
            on=on,
            metric=self.metric,
            ids=tuple(example.id for example in part),
            outputs=tuple(texts[i] for i in rows),
            scores=tuple(scores[i] for i in rows),
            clusters=tuple(example.cluster for example in part),
            slices=tuple(example.slice for example in part),
        )


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a file: a row, its score, and what was answered."""

    example: Example
    score: float
    text: str
    document: str


def read(spec: OutputsSpec, name: str) -> Outputs:
    """Return the scores of both sides, paired by id.

    Args:
        spec: where they are.
        name: the general suite's, for messages.

    Raises:
        SuiteError: a file or line cannot be used, or the two sides are not of the same rows.
    """
    base, adapter = _side(spec.base, spec.metric), _side(spec.adapter, spec.metric)
    for have, lack, file in ((base, adapter, spec.adapter), (adapter, base, spec.base)):
        if missing := [key for key in have if key not in lack]:
            raise SuiteError(
                f"{file}: general {name}: {len(missing)} of {len(have)} ids of the other side are not in it (first: "
                f"{', '.join(missing[:SHOWN])}); both sides must be scored on the same rows"
            )
    for key, line in base.items():
        if line.document and adapter[key].document and line.document != adapter[key].document:
            raise SuiteError(
                f"{spec.adapter}: general {name}: id {key} is another document than in {Path(spec.base).name}; score "
                "both sides on the same version of the task"
            )
    return Outputs(
        examples=tuple(line.example for line in base.values()),
        base=tuple(line.score for line in base.values()),
        adapter=tuple(adapter[key].score for key in base),
        base_texts=tuple(line.text for line in base.values()),
        adapter_texts=tuple(adapter[key].text for key in base),
        metric=spec.metric or PLAIN,
        of=spec.of,
        digest=digest.of([digest.of_file(Path(file)) for file in (spec.base, spec.adapter)]),
    )


def _side(file: str, metric: str) -> dict[str, _Line]:
    lines: dict[str, _Line] = {}
    for row_place, row in _rows(file):
        if "doc_id" in row:
            line = _harness(row_place, row, metric)
            if line is None:  # of another filter
                continue
        else:
            line = _plain(row_place, row)
        key = line.example.id
        if key in lines:
            hint = f"; name one of its filters, metric = {metric + ',FILTER'!r}" if row.get("filter") else ""
            raise SuiteError(f"{row_place}: id {key} stands in line {lines[key].example.line}, too{hint}")
        lines[key] = line
    if not lines:
        raise SuiteError(f"{file}: no line is of metric {metric!r}; see the filters in it")
    return lines


def _rows(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, number, row in data.rows([file]):
        yield f"{place}:{number}", row


def _plain(place: str, row: dict[str, Any]) -> _Line:
    for field in ("id", "score"):
        if field not in row:
            raise SuiteError(f"{place}: the row has no field {field!r} (nor is it lm-eval's: it has no 'doc_id')")
    texts = {name: _text(row.get(name, "")) for name in ("prompt", "reference", "cluster", "slice", "output")}
    example = _example(place, row["id"], texts["prompt"], texts["reference"])
    example = replace(example, cluster=texts["cluster"], slice=texts["slice"])
    return _Line(example, _score(place, "score", row["score"]), texts["output"], "")


def _harness(place: str, row: dict[str, Any], metric: str) -> _Line | None:
    """Read one line of lm-eval; ``metric`` may name a filter behind a comma, as lm-eval's own results do."""
    name, _, wanted = metric.partition(",")
    if wanted and row.get("filter", wanted) != wanted:
        return None
    known = [str(m) for m in row.get("metrics", ())] or [
        key for key, value in row.items() if isinstance(value, (int, float)) and key != "doc_id"
    ]
    if not name and len(known) == 1:
        name = known[0]
    if name not in row or name not in known:
        raise SuiteError(f"{place}: outputs metric {named_choice(name, known)}; name it in [[general]] outputs.metric")
    answers = row.get("filtered_resps") or row.get("resps") or [""]
    example = _example(place, row["doc_id"], _asked(row), _text(row.get("target", "")))
    return _Line(example, _score(place, name, row[name]), _text(answers[0]), str(row.get("doc_hash", "")))


def _asked(row: dict[str, Any]) -> str:
    """Return the text of lm-eval's first request: ``[[context, ...], ...]``, or by names since 0.4.4."""
    arguments = row.get("arguments")
    if isinstance(arguments, dict):
        arguments = [list(request.values()) for request in arguments.values() if isinstance(request, dict)]
    first = arguments[0] if isinstance(arguments, list) and arguments else ""
    return _text(first[0] if isinstance(first, list) and first else first)


def _example(place: str, name: object, asked: str, reference: str) -> Example:
    if not isinstance(name, (str, int)):
        raise SuiteError(f"{place}: the id {name!r} is neither text nor a whole number")
    file, _, line = place.rpartition(":")
    return Example(str(name), (Message("user", asked or str(name)),), reference, file, int(line))


def _score(place: str, name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
        raise SuiteError(f"{place}: {name} is {json.dumps(value)[:60]}; a score must be a number from 0 to 1")
    return float(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
