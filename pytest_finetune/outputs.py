"""Outputs made elsewhere: scores of the base model and of the adapter, paired by id.

Read are lm-evaluation-harness's `samples_*.jsonl` (as its ``lm_eval/loggers/evaluation_tracker.py`` writes
them under ``--log_samples``), and JSONL of ``id`` and ``score``. See docs/gate.md.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_finetune import choices, data, digest
from pytest_finetune.errors import SuiteError, named_choice
from pytest_finetune.metrics import Metric
from pytest_finetune.records import Example, Measurement, Message
from pytest_finetune.suite import OutputsSpec

SHOWN = 3
PLAIN = "score"  # how the metric of plain lines is called where the suite does not name it
WIDEST = 60  # characters of an id in a message
HASHES = {  # of what a line's model saw, and what a pair that differs in it is
    "doc_hash": "another document",
    "prompt_hash": "asked by another prompt",
    "target_hash": "held against another reference",
}


@dataclass(frozen=True, slots=True)
class Outputs:
    """Scores that were made elsewhere, on the same rows in the same order.

    Args:
        examples: the rows, named by id and content; one whose text is not in the files has its id as text.
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
    """One line of a file: a row under the file's own id, its score by a metric and filter, and what was answered."""

    key: str
    example: Example
    score: float
    text: str
    metric: str = ""
    filter: str = ""
    hashes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.example.file}:{self.example.line}"

    @property
    def scored(self) -> str:
        """The metric and filter as a suite names them."""
        return _shown(f"{self.metric},{self.filter}" if self.filter else self.metric)


def read(spec: OutputsSpec, name: str) -> Outputs:
    """Return the scores of both sides, paired by id.

    Args:
        spec: where they are.
        name: the general suite's, for messages.

    Raises:
        SuiteError: a file or line cannot be used, or the two sides are not of the same rows.
    """
    if spec.base == spec.adapter:  # it would lose nothing, whatever the adapter does
        raise SuiteError(f"{spec.base}: general {name}: both sides are this file; give each side its own")
    base, adapter = _side(spec.base, spec.metric), _side(spec.adapter, spec.metric)
    for have, lack, file in ((base, adapter, spec.adapter), (adapter, base, spec.base)):
        if missing := [key for key in have if key not in lack]:
            raise SuiteError(
                f"{file}: general {name}: {len(missing)} of {len(have)} ids of the other side are not in it (first: "
                f"{', '.join(map(_shown, missing[:SHOWN]))}); both sides must be scored on the same rows"
            )
    metric = _one_metric([*base.values(), *adapter.values()])
    for key, line in base.items():
        _refuse_unlike(line, adapter[key], name)
    return Outputs(
        examples=tuple(line.example for line in base.values()),
        base=tuple(line.score for line in base.values()),
        adapter=tuple(adapter[key].score for key in base),
        base_texts=tuple(line.text for line in base.values()),
        adapter_texts=tuple(adapter[key].text for key in base),
        metric=spec.metric or metric or PLAIN,
        of=spec.of,
        digest=digest.of([digest.of_file(Path(file)) for file in (spec.base, spec.adapter)]),
    )


def _one_metric(lines: Sequence[_Line]) -> str:
    """Return the metric of all lines: a loss by one is no gain by another. Plain lines do not say theirs."""
    named = [line for line in lines if line.metric]
    for line in named:
        other_filter = line.filter and named[0].filter and line.filter != named[0].filter
        if line.metric != named[0].metric or other_filter:
            raise SuiteError(
                f"{line.place}: scored by {line.scored}, and {named[0].place} by {named[0].scored}; name one that all "
                "lines have in [[general]] outputs.metric"
            )
    return named[0].metric if named else ""


def _refuse_unlike(base: _Line, adapter: _Line, name: str) -> None:
    """Refuse a pair whose sides saw different things, where both say what they saw."""
    for what, one, other in zip(HASHES.values(), base.hashes, adapter.hashes, strict=False):
        if one and other and one != other:
            there = f"{Path(base.example.file).name}:{base.example.line}"
            raise SuiteError(
                f"{adapter.place}: general {name}: id {_shown(base.key)} is {what} than in {there}; score both sides "
                "with the same version and settings of the task"
            )


def _side(file: str, metric: str) -> dict[str, _Line]:
    """Read one side by id, of the filter that ``metric`` may name behind a comma, as lm-eval's own results do."""
    if Path(file).suffix != ".jsonl" or not Path(file).is_file():
        raise SuiteError(f"{file}: outputs must be a .jsonl file")
    name, _, wanted = metric.partition(",")
    lines: dict[str, _Line] = {}
    filters = set()
    for path, number, row in data.rows([file]):
        place = f"{path}:{number}"
        if "doc_id" in row:
            filters.add(str(row.get("filter", wanted)))
            if wanted and row.get("filter", wanted) != wanted:
                continue
            line = _harness(place, row, name)
        else:
            line = _plain(place, row)
        first = lines.setdefault(line.key, line)
        if first is not line:
            raise SuiteError(
                f"{place}: id {_shown(line.key)} stands in line {first.example.line}, too{_hint(first, line)}"
            )
    if not lines:
        raise SuiteError(f"{file}: outputs metric {metric!r}: filter {named_choice(wanted, map(_shown, filters))}")
    return lines


def _hint(first: _Line, second: _Line) -> str:
    if first.filter == second.filter:
        return ""
    return f'; choose a filter: outputs.metric = "{first.scored}" or "{second.scored}"'


def _plain(place: str, row: dict[str, Any]) -> _Line:
    for field in ("id", "score"):
        if field not in row:
            raise SuiteError(f"{place}: the row has no field {field!r} (nor is it lm-eval's: it has no 'doc_id')")
    texts = {name: _text(row.get(name)) for name in ("prompt", "reference", "cluster", "slice", "output")}
    key = _key(place, row["id"])
    example = _example(place, key, texts["prompt"], texts["reference"])
    example = replace(example, cluster=texts["cluster"], slice=texts["slice"])
    return _Line(key, example, _score(place, "score", row["score"]), texts["output"])


def _harness(place: str, row: dict[str, Any], name: str) -> _Line:
    """Read one line of lm-eval, which lists its metrics since 0.4.7."""
    listed = row.get("metrics")
    known = (
        [str(metric) for metric in listed]
        if isinstance(listed, list)
        else [key for key, value in row.items() if isinstance(value, (int, float)) and key != "doc_id"]
    )
    if not known:
        raise SuiteError(f"{place}: the line has no metric")
    if not name and len(known) == 1:
        name = known[0]
    if name not in row or name not in known:
        raise SuiteError(
            f"{place}: outputs metric {named_choice(name, map(_shown, known))}; name it in [[general]] outputs.metric"
        )
    key = _key(place, row["doc_id"])
    hashes = tuple(_text(row.get(field)) for field in HASHES)
    requests = _requests(row)
    answer, options = _answered(row, requests)
    target = _text(row.get("target"))
    reference = choices.reference(target, options)
    asked = _text(requests[0][0]) if requests and requests[0] else ""
    example = _example(place, key, asked, reference, hashes[0])
    return _Line(key, example, _score(place, name, row[name]), answer, name, _text(row.get("filter")), hashes)


def _requests(row: dict[str, Any]) -> list[list[Any]]:
    """Return lm-eval's requests: ``[[context, ...], ...]``, or by names since 0.4.3."""
    found = row.get("arguments")
    found = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(found, list):
        return []
    return [list(one.values()) if isinstance(one, dict) else one for one in found if isinstance(one, (dict, list))]


def _answered(row: dict[str, Any], requests: Sequence[list[Any]]) -> tuple[str, list[str]]:
    """Return the text that a line's model wrote; of a choice, its options by log-likelihood, and as they were given."""
    answers = row.get("filtered_resps") or row.get("resps") or [""]
    answers = answers if isinstance(answers, list) else [answers]
    odds = [_likelihood(answer) for answer in answers]
    if (
        len(odds) < 2
        or len(requests) != len(odds)
        or any(one is None or len(r) < 2 for one, r in zip(odds, requests, strict=True))
    ):
        return _text(answers[0]), []
    return choices.ranked([(_text(r[0]), _text(r[1])) for r in requests], [odd for odd in odds if odd is not None])


def _likelihood(answer: object) -> float | None:
    """Return the log-likelihood in lm-eval's ``[log-likelihood, is greedy]``, both written as text."""
    if not isinstance(answer, list) or len(answer) != 2 or answer[1] not in ("True", "False"):
        return None
    try:
        return float(answer[0])
    except (TypeError, ValueError, OverflowError):
        return None


def _key(place: str, value: object) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise SuiteError(f"{place}: the id {json.dumps(value)[:60]} is neither text nor a whole number")
    return str(value)


def _example(place: str, key: str, asked: str, reference: str, document: str = "") -> Example:
    # Ids such as 0, 1, 2 are in every task's file: the content says which rows those are, as the ledger must know.
    name = digest.of([key, document or [asked, reference]])
    file, _, line = place.rpartition(":")
    return Example(name, (Message("user", asked or key),), reference, file, int(line))


def _score(place: str, name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SuiteError(f"{place}: {_shown(name)} is {json.dumps(value)[:60]}; a score must be a number from 0 to 1")
    return float(value)


def _shown(key: str) -> str:
    return key if key.isprintable() and len(key) <= WIDEST else json.dumps(key)[:WIDEST]


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
