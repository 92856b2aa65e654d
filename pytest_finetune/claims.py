"""The gate as tests call it: each call proves its claims, or raises."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_finetune import digest, gate, ledger
from pytest_finetune.cases import FIXTURE
from pytest_finetune.errors import SuiteError
from pytest_finetune.gate import Pair, Rule
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.judge import Question, settle
from pytest_finetune.ledger import Attempt
from pytest_finetune.measure import Subject, in_looks, joined
from pytest_finetune.metrics import Metric, Score
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import Claim, Example, Judgement, LostExample, Measurement, Verdict, from_plain, to_plain
from pytest_finetune.report.terminal import claim_text
from pytest_finetune.rows import General, Rows
from pytest_finetune.stats import looks

LOST_SHOWN = 5
CODE = (
    *("claims.py", "gate.py", "judge.py", "measure.py", "outputs.py", "metrics/__init__.py", "metrics/text.py"),
    *("metrics/structured.py", "stats/limits.py", "stats/looks.py", "stats/bootstrap.py", "stats/planner.py"),
)


class ClaimNotProven(AssertionError):
    """The gate's FAIL or INCONCLUSIVE, with the verdict it comes from."""

    def __init__(self, verdict: Verdict, told: Sequence[Claim] = ()) -> None:
        self.verdict = verdict
        unproven = [claim for claim in verdict.claims if claim.outcome != "PASS"]
        lines = [f"{claim.outcome}: {claim_text(claim)}" for claim in unproven if claim not in told]
        if elsewhere := [claim.on for claim in unproven if claim in told]:
            lines.append(f"not proven, as its subtests say: {', '.join(elsewhere)}")
        super().__init__("\n".join(lines))


class Inconclusive(UserWarning):
    """The data cannot settle a claim, and the suite says to warn only."""


class Subtests(Protocol):
    """pytest's ``subtests`` fixture."""

    def test(self, msg: str | None = None) -> AbstractContextManager[None]:
        """Report what is raised inside as an outcome of its own."""


@dataclass(frozen=True)
class Compared:
    """One data set, and who is compared on it; ``before`` None judges the level of ``after``.

    ``known`` is the measurement of ``after`` where it was made already.
    """

    rows: Rows
    metric: Metric
    after: ModelHandle
    before: ModelHandle | None = None
    known: Measurement | None = None


@dataclass(frozen=True)
class Asked:
    """The test that asks: its name, who is told of verdicts, how its subtests are reported, and what cases came to."""

    test: str
    on_verdict: Callable[[Verdict], None] = lambda verdict: None
    subtests: Subtests | None = None
    cases: Callable[[Callable[..., object]], Measurement] | None = None


class Gate:
    """Decides claims. Each call proves its claims, or raises ``ClaimNotProven``.

    Limits that a call does not give are the suite's.
    """

    def __init__(self, pipeline: Pipeline, asked: Asked) -> None:
        self._pipeline = pipeline
        self._limits = pipeline.spec.gate
        self._asked = asked

    def beats(
        self,
        adapter: ModelHandle,
        baseline: ModelHandle,
        *,
        on: Rows,
        metric: str | Score | None = None,
        margin: float | None = None,
    ) -> Verdict:
        """Prove that ``adapter`` scores higher than ``baseline`` by more than ``margin``.

        Also that no slice named in ``[gate.slices]`` drops by its limit or more.

        Raises:
            ClaimNotProven: a claim is refuted, or the rows do not settle it.
        """
        bound = self._limits.margin if margin is None else margin
        name = f"{adapter.name} beats {baseline.name}"
        questions = [Question("superiority", name, (0,), bound)]
        for part, drop in self._limits.slices.items():
            questions.append(Question("slice", f"keeps slice {part}", (0,), -drop, part))
        return self._decide(questions, [Compared(on, self._metric(metric, on), adapter, baseline)])

    def keeps(
        self,
        adapter: ModelHandle,
        base_model: ModelHandle,
        *,
        on: General,
        max_drop: float | None = None,
        guard: float | None = None,
        metric: str | Score | None = None,
    ) -> Verdict:
        """Prove that ``adapter`` lost less than ``max_drop`` of ``base_model``'s general skills in the
        mean, and less than ``guard`` of any single one. Each general suite shows as a subtest.

        Raises:
            ClaimNotProven: a claim is refuted, or the rows do not settle it.
            SuiteError: the suite has no general suite.
        """
        if not on:
            raise SuiteError(f"{self._pipeline.spec.file}: no [[general]] suite; without one forgetting goes unseen")
        compared = [Compared(rows, self._metric(metric, rows), adapter, base_model) for rows in on.values()]
        drop = self._limits.max_drop if max_drop is None else max_drop
        one = self._limits.guard if guard is None else guard
        questions = [Question("retention", "keeps general skills", tuple(range(len(compared))), -drop)]
        questions += [Question("guard", f"keeps {name}", (i,), -one) for i, name in enumerate(on)]
        return self._decide(questions, compared)

    def reaches(self, adapter: ModelHandle, *, on: Rows, at_least: float, metric: str | Score | None = None) -> Verdict:
        """Prove that ``adapter`` scores more than ``at_least``, compared with nobody.

        Raises:
            ClaimNotProven: the claim is refuted, or the rows do not settle it.
        """
        question = Question("level", f"{adapter.name} reaches {at_least:g}", (0,), at_least)
        return self._decide([question], [Compared(on, self._metric(metric, on), adapter)])

    def pass_rate(self, test: Callable[..., object], *, at_least: float) -> Verdict:
        """Prove that more than ``at_least`` of a per-case test's cases pass.

        Args:
            test: a test function of the same module that uses the ``case`` fixture; its cases ran before.
            at_least: share of cases.

        Raises:
            ClaimNotProven: the claim is refuted, or the cases do not settle it.
            SuiteError: some cases did not run.
        """
        if self._asked.cases is None or FIXTURE not in inspect.signature(test).parameters:
            raise SuiteError(f"gate.pass_rate({test.__name__}): no per-case test; give it the argument {FIXTURE!r}")
        made = self._asked.cases(test)
        rows = Rows(test.__name__, self._pipeline.data.heldout, "")
        question = Question("level", f"{test.__name__} passes", (0,), at_least)
        compared = Compared(rows, Metric(test.__name__, "text"), AdapterHandle(self._pipeline), known=made)
        return self._decide([question], [compared])

    def _refuse_other(self, compared: Compared) -> None:
        """Refuse scores of another adapter than the one that is judged: what ships is what was scored."""
        outputs, adapter = compared.rows.outputs, compared.after
        if outputs is None or not isinstance(adapter, AdapterHandle):
            return
        place, own, of = f"{self._pipeline.spec.file}: general {compared.rows.name}", adapter.digest, outputs.of
        if self._pipeline.workplace.seeds > 1:
            raise SuiteError(
                f"{place}: its outputs are of one adapter, and --finetune-seeds judges a recipe; leave one of them out"
            )
        if not own.startswith(of) or not (of or self._pipeline.workplace.external):
            known = f"are of the adapter {of}" if of else "do not say which adapter they are of"
            raise SuiteError(
                f"{place}: its outputs {known}, and {own[:12]} is judged; "
                f'score that one, and write outputs.of = "{own[:12]}"'
            )

    def _metric(self, given: str | Score | None, on: Rows) -> Metric:
        return on.outputs.as_metric() if on.outputs else self._pipeline.metric(given or on.metric)

    def _rule(self, attempt: int, looks: int = 1) -> Rule:
        # One superiority claim, pooled retention, a guard for each general suite, and each named slice.
        claims = 2 + len(self._pipeline.spec.general) + len(self._limits.slices)
        return Rule(ledger.alpha_of(self._limits.alpha, attempt), self._limits.alpha / claims, looks)

    def _decide(self, questions: Sequence[Question], compared: Sequence[Compared]) -> Verdict:
        for one in compared:
            self._refuse_other(one)
        judged = [_Judged(self._pipeline, one) for one in compared]
        attempt = self._attempt(questions, judged)
        spec, place = self._pipeline.spec, self._pipeline.workplace
        tried = place.store.ledger.number(attempt)
        rule = self._rule(tried, self._looks(judged))
        key = self._pipeline.measurer.key(
            None,
            digest.of_code(*CODE),
            [to_plain(question) for question in questions],
            [one.inputs for one in judged],
            [to_plain(rule), self._limits.alpha, place.early_stop],
            [spec.generation, spec.labels, spec.answer_schema],
        )

        def decide() -> object:
            settled = settle(questions, lambda number, look: judged[number].pair(look, rule.looks), rule)
            pairs = settled.pairs
            if not place.early_stop:  # the same verdict, and all rows in the report
                pairs = {number: one.pair(rule.looks, rule.looks) for number, one in enumerate(judged)}
            verdict = Verdict(
                test=self._asked.test,
                outcome=gate.outcome(settled.claims),
                claims=settled.claims,
                slices=tuple(s for pair in pairs.values() for s in gate.slices(pair, self._limits.alpha)),
                lost=_worst([(one.compared.rows, pairs[i]) for i, one in enumerate(judged)]),
                digests=self._digests(judged, attempt),
            )
            made = [m for pair in pairs.values() for m in (pair.before, *pair.after) if m]
            return to_plain(Judgement(verdict, tuple(made)))

        found = from_plain(Judgement, place.store.json("verdict", key, decide))
        place.store.ledger.decided(attempt, found.verdict.outcome)
        spent = ledger.alpha_spent(self._limits.alpha, place.store.ledger.attempts(attempt))
        worn = replace(found.verdict, test=self._asked.test, attempt=tried, alpha_spent=spent)
        return self._told(Judgement(worn, found.measurements))

    def _looks(self, judged: Sequence["_Judged"]) -> int:
        """Return how often the data is looked at while it grows."""
        at_once = any(one.compared.metric.whole or one.compared.known for one in judged)
        place = self._pipeline.workplace
        if at_once or place.seeds > 1:
            return 1
        return looks.count(min(len(one.compared.rows) for one in judged))

    def _attempt(self, questions: Sequence[Question], judged: Sequence["_Judged"]) -> Attempt:
        suite, rows = self._pipeline.spec.name, judged[0].compared.rows
        # General suites are shared, and the adapters of each suite are attempts of their own.
        scope = [f"of {suite}"] if rows.is_general else []
        metrics = sorted({one.compared.metric.name for one in judged})
        after = judged[0].compared.after
        return Attempt(
            suite=suite,
            data=f"{len(judged)} general suites" if rows.is_general else rows.name,
            question=" ".join([questions[0].kind, *metrics, *scope]),
            rows=tuple(example.id for one in judged for example in one.compared.rows),
            subjects=digest.of(judged[0].subjects),
            adapter=after.digest if isinstance(after, AdapterHandle) else "",
        )

    def _digests(self, judged: Sequence["_Judged"], attempt: Attempt) -> dict[str, str]:
        named = {
            "model": self._pipeline.model.digest,
            "adapter": attempt.adapter,
            "subjects": attempt.subjects,
            "rows": digest.of([one.rows for one in judged]),
            "metric": digest.of([one.metric for one in judged]),
        }
        if given := [one.given for one in judged if one.given]:
            named["outputs"] = digest.of(given)
        return {name: value for name, value in named.items() if value}

    def _told(self, judgement: Judgement) -> Verdict:
        verdict = judgement.verdict
        self._pipeline.judged(judgement)
        self._asked.on_verdict(verdict)
        blocking = ("FAIL",) if self._limits.on_inconclusive == "warn" else ("FAIL", "INCONCLUSIVE")
        subtests = self._asked.subtests
        told = [claim for claim in verdict.claims if claim.kind == "guard" and subtests]
        for claim in told:
            assert subtests
            with subtests.test(claim.on):
                if claim.outcome in blocking:
                    raise ClaimNotProven(replace(verdict, outcome=claim.outcome, claims=(claim,)))
        if verdict.outcome in blocking:
            raise ClaimNotProven(verdict, told)
        if verdict.outcome != "PASS":
            warnings.warn(Inconclusive(str(ClaimNotProven(verdict))), stacklevel=4)
        return verdict


class _Judged:
    """One compared data set, measured as far as the looks have come."""

    def __init__(self, pipeline: Pipeline, compared: Compared) -> None:
        self.compared = compared
        self._pipeline = pipeline
        general = compared.rows.is_general
        self._after = compared.after.subjects(general)
        self._before = compared.before.subject(general) if compared.before else None
        self._cut: list[tuple[Example, ...]] = []
        self._parts: dict[tuple[int, int], Measurement] = {}
        self.subjects = [self._named(subject) for subject in (*self._after, self._before) if subject]
        self.rows = [[e.id, e.cluster, e.slice] for e in compared.rows]
        metric = compared.metric
        self.metric = [metric.name, metric.module, metric.key, metric.code]
        known, outputs = compared.known, compared.rows.outputs
        self.given = digest.of(to_plain(known)) if known else outputs.digest if outputs else ""

    @property
    def inputs(self) -> list[object]:
        """All that what is measured depends on."""
        return [self.rows, self.metric, self.subjects, self.given]

    def pair(self, look: int, looks: int) -> Pair:
        """Return what the rows up to a look show."""
        if self.compared.known:
            return Pair((self.compared.known,))
        self._cut = self._cut or in_looks(self.compared.rows, looks)
        parts = [part for part in self._cut[:look] if part]

        def up_to_now(number: int, subject: Subject) -> Measurement:
            for i, part in enumerate(parts):
                if (number, i) not in self._parts:
                    self._parts[number, i] = self._measured(subject, part)
            return joined([self._parts[number, i] for i in range(len(parts))])

        before = up_to_now(-1, self._before) if self._before else None
        return Pair(tuple(up_to_now(i, subject) for i, subject in enumerate(self._after)), before)

    def _measured(self, subject: Subject, part: tuple[Example, ...]) -> Measurement:
        rows = self.compared.rows
        if rows.outputs:
            return rows.outputs.measured(subject.name, rows.name, part, of_adapter=subject is not self._before)
        return self._pipeline.measure(subject, rows.name, part, self.compared.metric)

    def _named(self, subject: Subject) -> list[object]:
        """Return what names a subject: its weights, and its prompt with the rows that it may show."""
        shown = [e.id for e in self._pipeline.data.train] if subject.prompt.retrieved else []
        return [subject.adapter.digest if subject.adapter else "", to_plain(subject.prompt), shown]


def _worst(judged: Sequence[tuple[Rows, Pair]]) -> tuple[LostExample, ...]:
    """Return the rows that lost most, the first of each data set before the second of any."""
    ranked = []
    for rows, pair in judged:
        if not pair.before:
            continue
        by_id = {example.id: example for example in rows}
        before, after = pair.before, pair.first
        drops = [(x - y, i) for i, (x, y) in enumerate(zip(before.scores, after.scores, strict=True)) if x > y]
        for rank, (drop, i) in enumerate(sorted(drops, key=lambda one: -one[0])[:LOST_SHOWN]):
            row = by_id[after.ids[i]]
            place = f"{Path(row.file).name}:{row.line}"
            ranked.append(
                (rank, LostExample(place, row.text, row.reference, before.outputs[i], after.outputs[i], drop))
            )
    return tuple(lost for _, lost in sorted(ranked, key=lambda one: one[0])[:LOST_SHOWN])
