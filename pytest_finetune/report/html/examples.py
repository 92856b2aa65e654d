"""The examples of a run, side by side and packed into the page: gzip and base64, which a browser inflates."""

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pytest_finetune.records import Measurement, RowText, RunRecord, SuiteRecord
from pytest_finetune.report.escape import printable

SHORTEST = 16  # characters that a text keeps, however many examples there are


@dataclass(frozen=True, slots=True)
class Packed:
    """The examples as the page holds them; ``cut`` is the length that texts were cut to, 0 for none."""

    data: str
    rows: int
    cut: int


def pack(run: RunRecord, limit: int) -> Packed:
    """Return all examples of a run in at most ``limit`` bytes, their texts cut where it must be."""
    sets = [_rows(suite, *pair) for suite in run.suites for pair in _pairs(suite)]
    rows = sum(len(one["rows"]) for one in sets)
    longest = max((len(text) for one in sets for row in one["rows"] for text in row[1:5]), default=0)
    packed, length = _packed(sets, longest), longest
    while len(packed) > limit and length > SHORTEST:
        length = max(length // 2, SHORTEST)
        packed = _packed(sets, length)
    return Packed(packed, rows, 0 if length == longest else length)


def _pairs(suite: SuiteRecord) -> Iterator[tuple[Measurement | None, Measurement]]:
    """Yield what claims compare, a data set each; what only reaches a level is compared with nothing.

    General suites that are pooled in one claim are also guarded by one each.
    """
    measured = {(m.subject, m.on, m.metric): m for m in suite.measurements}
    claims = [claim for verdict in suite.verdicts for claim in verdict.claims]
    seen = set()
    for claim in sorted(claims, key=lambda one: not one.before):
        of = (claim.after, claim.on, claim.metric)
        after, before = measured.get(of), measured.get((claim.before, claim.on, claim.metric))
        if after and of not in seen and (before is None or before.ids == after.ids):
            seen.add(of)
            yield before, after


def _rows(suite: SuiteRecord, before: Measurement | None, after: Measurement) -> dict[str, Any]:
    texts = {text.id: text for text in suite.texts.get(after.on, ())}
    rows = []
    for i, key in enumerate(after.ids):
        text = texts.get(key, RowText(key, key, "", ""))
        outputs = (before.outputs[i] if before else "", after.outputs[i])
        words = [printable(said, keep="\n\t") for said in (text.place, text.asked, text.reference, *outputs)]
        part = printable(after.slices[i]) if after.slices else ""
        scores = [round(before.scores[i], 4) if before else None, round(after.scores[i], 4)]
        rows.append([*words, part, *scores])
    names = {"suite": suite.name, "on": after.on, "metric": after.metric, "after": after.subject}
    return {key: printable(name) for key, name in names.items()} | {
        "before": printable(before.subject) if before else "",
        "rows": rows,
    }


def _packed(sets: list[dict[str, Any]], length: int) -> str:
    """Return the examples, texts cut to ``length``; the same ones give the same bytes."""
    cut = [
        one | {"rows": [[row[0], *(_cut(t, length) for t in row[1:5]), *row[5:]] for row in one["rows"]]}
        for one in sets
    ]
    plain = json.dumps(cut, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(plain, 9, mtime=0)).decode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
