"""Assessing: what a spool holds of a candidate, scored and judged."""

from dataclasses import replace
from pathlib import Path

from pytest_finetune.errors import SuiteError, named_choice
from pytest_finetune.metrics import Metric, resolve
from pytest_finetune.shadow import quality
from pytest_finetune.shadow.config import Limits
from pytest_finetune.shadow.quality import References
from pytest_finetune.shadow.spool import Spool
from pytest_finetune.shadow.verdict import Scored, ShadowVerdict, decide, first_of_each


def chosen(spool: Spool, candidate: str) -> str:
    """Return the candidate that is meant: the named one, by its name or the beginning of it, or the only one.

    Raises:
        SuiteError: there is none, or there are several.
    """
    names = spool.candidates()
    found = [name for name in names if name.startswith(candidate)]
    if len(found) == 1 or candidate in found:
        return candidate if candidate in found else found[0]
    if not names:
        raise SuiteError(f"{spool.path}: no exchange in it yet; send traffic through `pytest-finetune shadow`")
    if candidate:
        raise SuiteError(f"--candidate={candidate}: {named_choice(candidate, names)}")
    raise SuiteError(f"{spool.path} has several candidates; name one with --candidate: {', '.join(names)}")


def assess(
    spool: Spool, candidate: str, limits: Limits, metric: Metric | None = None, known: References | None = None
) -> ShadowVerdict:
    """Return the verdict on a candidate.

    Args:
        spool: holds the pairs, and keeps what they scored.
        candidate: its name there.
        limits: what must be proven, and where references and judge are.
        metric: how references are compared with answers, where they are given here.
        known: references; those of ``limits`` if absent.

    Raises:
        SuiteError: references, metric or judge are wrong.
    """
    pairs = list(spool.pairs(candidate))
    firsts = first_of_each([pair for pair in pairs if not pair.primary.error])
    if limits.references and known is None:
        metric, known = resolve(limits.metric, Path.cwd(), limits.schema), quality.references(Path(limits.references))
    scored: list[Scored] = []
    notes: list[str] = []
    if metric and known:
        scored.append(quality.by_references(spool, firsts, metric, known))
        if not scored[-1].scores:
            notes.append("no pair has a reference: they go by the primary's answer id, or by what was asked")
    if limits.judge:
        judged, contradicting = quality.by_judge(spool, firsts, limits.judge)
        scored.append(judged)
        notes.append(f"the judge contradicted itself in {contradicting:.1%} of pairs when their order was turned")
    attempt = spool.candidates().index(candidate) + 1
    verdict = decide(candidate, pairs, limits, scored, attempt)
    return replace(verdict, notes=(*verdict.notes, *notes))
