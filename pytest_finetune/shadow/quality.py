"""Quality: which side answered better, by references where there are some, or by a judge of the user's."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_finetune import digest
from pytest_finetune.errors import SuiteError
from pytest_finetune.metrics import Metric, function_in
from pytest_finetune.metrics.code import code_of
from pytest_finetune.shadow.exchange import Pair
from pytest_finetune.shadow.spool import Spool
from pytest_finetune.shadow.verdict import Scored

Judge = Callable[[dict[str, Any], str, str], float]
TIE = 0.5


@dataclass(frozen=True, slots=True)
class References:
    """Right answers, by the id of the primary's answer or by the digest of what was asked."""

    by_id: Mapping[str, str]
    by_asked: Mapping[str, str]

    def of(self, pair: Pair) -> str | None:
        """Return the reference of a pair, if there is one."""
        by_id = self.by_id.get(pair.primary.answer_id) if pair.primary.answer_id else None
        return self.by_asked.get(pair.exchange.asked_digest) if by_id is None else by_id


def references(file: Path) -> References:
    """Read references: rows of ``reference`` (or ``completion``), and ``id`` or ``prompt``.

    Raises:
        SuiteError: naming the file, the line and what is wrong with it.
    """
    by_id: dict[str, str] = {}
    by_asked: dict[str, str] = {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{file}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            answer = row.get("reference", row.get("completion"))
        except (ValueError, AttributeError, RecursionError):
            raise SuiteError(f"{file}:{number}: no JSON object; write one a line") from None
        named = [(by_id, row.get("id")), (by_asked, row.get("prompt"))]
        if not isinstance(answer, str) or not any(isinstance(name, str) for _, name in named):
            raise SuiteError(f"{file}:{number}: it needs a text 'reference', and an 'id' or a 'prompt' that it is of")
        for known, name in named:
            if isinstance(name, str):
                known[name if known is by_id else digest.of(name)] = answer
    return References(by_id, by_asked)


def of_rows(rows: Iterable[tuple[str, str]]) -> References:
    """Return references of what was asked and its right answer, a row each."""
    return References({}, {digest.of(asked): answer for asked, answer in rows})


def by_references(spool: Spool, pairs: Sequence[Pair], metric: Metric, known: References) -> Scored:
    """Score pairs that have a reference; a side that failed has 0.

    What was scored is kept with its reference, and counts on when the texts are purged.

    Raises:
        SuiteError: the metric is not of single answers, or a score is not in [0, 1].
    """
    if metric.kind == "choice" or metric.whole:
        raise SuiteError(f"metric {metric.name!r} is not of single answers; take one such as exact_match")
    found = [(pair, answer) for pair in pairs if (answer := known.of(pair)) is not None]
    keys = {answer: digest.of(["references", metric.identity, answer]) for _, answer in found}
    kept = {answer: spool.scored(keys[answer]) for answer in {answer for pair, answer in found if not _has_text(pair)}}
    scores = {
        pair.exchange.number: kept[answer][pair.exchange.number]
        for pair, answer in found
        if not _has_text(pair) and pair.exchange.number in kept[answer]
    }
    found = [(pair, answer) for pair, answer in found if _has_text(pair)]
    texts = [(said.text, answer) for pair, answer in found for said in (pair.primary, pair.candidate)]
    values = iter(_values(metric, texts))
    with spool.transaction():
        for pair, answer in found:
            before, after = next(values), next(values)
            scores[pair.exchange.number] = (before, 0.0 if pair.candidate.error else after)
            spool.score(keys[answer], {pair.exchange.number: scores[pair.exchange.number]})
    return Scored(metric.name, scores)


def by_judge(spool: Spool, pairs: Sequence[Pair], named: str) -> tuple[Scored, float]:
    """Have a judge compare each pair in both orders; return the scores, and how often the orders contradicted.

    A pair that agrees is a tie without being asked about, one of which a side failed is the other's. What was
    judged is kept, and never asked again.

    Args:
        spool: keeps the scores.
        pairs: what to judge.
        named: FILE.py:FUNCTION of ``(request, first, second)``, which returns how much better the first is than the
            second: from 0 to 1, 0.5 for a tie.

    Raises:
        SuiteError: the judge fails, or returns something else.
    """
    judge: Judge = function_in("[verdict] judge", named, Path())
    key = digest.of(["judge", code_of(judge)])
    contradicting = f"{key} contradictions"
    known, unlike = spool.scored(key), spool.scored(contradicting)
    for pair in pairs:
        number = pair.exchange.number
        if number in known or not (pair.candidate.error or pair.agrees or _has_text(pair)):
            continue
        if pair.candidate.error or pair.agrees:
            better, contradicts = (0.0 if pair.candidate.error else TIE), False
        else:
            better, contradicts = _judged(judge, named, pair)
            unlike[number] = (0.0, float(contradicts))
            spool.score(contradicting, {number: unlike[number]})
        known[number] = (1 - better, better)
        spool.score(key, {number: known[number]})
    share = sum(one for _, one in unlike.values()) / len(unlike) if unlike else 0.0
    return Scored("judge", known), share


def _judged(judge: Judge, named: str, pair: Pair) -> tuple[float, bool]:
    """Return how much better the candidate's answer is, and whether the two orders contradict each other."""
    said = pair.primary.text, pair.candidate.text
    request = pair.exchange.request or {}
    values = []
    for first, second in (said, said[::-1]):
        try:
            value = float(judge(request, first, second))
        except Exception as error:
            raise SuiteError(
                f"[verdict] judge {named}: {type(error).__name__} on exchange {pair.exchange.number}: {error}"
            ) from error
        if not 0 <= value <= 1:
            raise SuiteError(
                f"[verdict] judge {named}: {value} on exchange {pair.exchange.number}; it must return 0 to 1"
            )
        values.append(value)
    primary_first, candidate_first = values
    if (primary_first - TIE) * (candidate_first - TIE) > 0:  # whoever came first was better
        return TIE, True
    return (candidate_first + 1 - primary_first) / 2, False


def _has_text(pair: Pair) -> bool:
    """Whether the texts of a pair are kept: not where only digests are, or after a purge."""
    return pair.exchange.request is not None


def _values(metric: Metric, texts: Sequence[tuple[str, str]]) -> list[float]:
    if metric.kind == "hub":
        from pytest_finetune.metrics.hub import scores  # evaluate takes 6 s of CPU to import

        said, right = zip(*texts, strict=True) if texts else ((), ())
        values = list(scores(metric.module, metric.key, said, right))
    else:
        values = [float(metric.score(*pair)) for pair in texts]
    for value, (text, _) in zip(values, texts, strict=True):
        if not 0 <= value <= 1:
            raise SuiteError(f"metric {metric.name}: {value} for {text[:60]!r}; a score must be from 0 to 1")
    return values
