"""The gate as tests call it: each call proves its claims, or raises."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_finetune import digest, gate, ledger
from pytest_finetune.cases import FIXTURE
from pytest_finetune.comparison import Comparison
from pytest_finetune.errors import SuiteError
from pytest_finetune.gate import Pair, Rule
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.judge import Question, settle
from pytest_finetune.ledger import Attempt
from pytest_finetune.metrics import Metric, Score
from pytest_finetune.metrics.code import code_of
from pytest_finetune.pipeline import Pipeline
from pytest_finetune.records import Claim, Judgement, LostExample, Measurement, Verdict, from_plain, to_plain
from pytest_finetune.report.terminal import claim_text
from pytest_finetune.rows import General, Rows
from pytest_finetune.shadow.config import Limits
from pytest_finetune.shadowed import ShadowHandle

LOST_SHOWN = 5


# What a cell's gate returns, so that a test goes on to its next claim; the test is then reported as skipped.
UNJUDGED = Verdict("", "PASS", ())


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
class Asked:
    """The test that asks: its name, who is told of verdicts, how its subtests are reported, and what cases came to."""

    test: str
    on_verdict: Callable[[Verdict], None] = lambda verdict: None
    subtests: Subtests | None = None
    cases: Callable[[Callable[..., object]], Measurement] | None = None
    on_measured: Callable[[], None] = lambda: None


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
        bound = _share("gate.beats: margin", self._limits.margin if margin is None else margin)
        if isinstance(baseline, AdapterHandle) and not isinstance(adapter, AdapterHandle):
            raise SuiteError("gate.beats(baseline, adapter): the arguments are swapped; the adapter comes first")
        name = f"{adapter.name} beats {baseline.name}"
        judged = [self._comparison(on, metric, adapter, baseline)]
        questions = [Question("superiority", name, (0,), bound)]
        for part, drop in self._limits.slices.items() if not on.is_general else ():
            questions.append(Question("slice", f"keeps slice {part}", (0,), -drop, part))
        return self._decide(questions, judged)

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
        if not isinstance(on, General):
            raise SuiteError(f"gate.keeps: on = {on!r:.60}: give the fixture `general`")
        if not on:
            raise SuiteError(f"{self._pipeline.spec.file}: no [[general]] suite; without one forgetting goes unseen")
        compared = [self._comparison(rows, metric, adapter, base_model) for rows in on.values()]
        drop = _share("gate.keeps: max_drop", self._limits.max_drop if max_drop is None else max_drop)
        one = _share("gate.keeps: guard", self._limits.guard if guard is None else guard)
        questions = [Question("retention", "keeps general skills", tuple(range(len(compared))), -drop)]
        questions += [Question("guard", f"keeps {name}", (i,), -one) for i, name in enumerate(on)]
        return self._decide(questions, compared)

    def reaches(self, adapter: ModelHandle, *, on: Rows, at_least: float, metric: str | Score | None = None) -> Verdict:
        """Prove that ``adapter`` scores more than ``at_least``, compared with nobody.

        Raises:
            ClaimNotProven: the claim is refuted, or the rows do not settle it.
        """
        bound = _share("gate.reaches: at_least", at_least)
        question = Question("level", f"{adapter.name} reaches {bound:g}", (0,), bound)
        return self._decide([question], [self._comparison(on, metric, adapter)])

    def pass_rate(self, test: Callable[..., object], *, at_least: float) -> Verdict:
        """Prove that more than ``at_least`` of a per-case test's cases pass.

        Args:
            test: a test function of the same module that uses the ``case`` fixture; its cases ran before.
            at_least: share of cases.

        Raises:
            ClaimNotProven: the claim is refuted, or the cases do not settle it.
            SuiteError: some cases did not run.
        """
        place = f"gate.pass_rate({getattr(test, '__name__', test)!s})"
        if self._asked.cases is None or not callable(test) or FIXTURE not in inspect.signature(test).parameters:
            raise SuiteError(f"{place}: no per-case test; give a test function that has the argument {FIXTURE!r}")
        if self._pipeline.workplace.seeds > 1:
            raise SuiteError(f"{place}: cases are of one adapter, and --finetune-seeds judges a recipe; leave one out")
        _share(f"{place}: at_least", at_least)
        made = self._asked.cases(test)
        rows = Rows(test.__name__, self._pipeline.data.heldout, "")
        question = Question("level", f"{test.__name__} passes", (0,), at_least)
        adapter, metric = AdapterHandle(self._pipeline), Metric(test.__name__, "text", code=code_of(test))
        return self._decide([question], [Comparison(self._pipeline, rows, metric, adapter, known=made)])

    def holds(
        self,
        shadow: ShadowHandle,
        *,
        metric: str | Score | None = None,
        max_drop: float | None = None,
        candidate: str = "",
    ) -> Verdict:
        """Prove on live traffic that the candidate breaks no hard gate, and scores less than ``max_drop`` below the
        primary where a held-out row's question was asked.

        Args:
            shadow: the spool of ``--finetune-shadow``.
            metric: of single answers; the suite's if absent.
            max_drop: the suite's if absent.
            candidate: its name in the spool, or how it begins; needed where there are several.

        Raises:
            ClaimNotProven: a claim is refuted, or the pairs so far do not settle it.
        """
        if not isinstance(shadow, ShadowHandle):
            raise SuiteError(f"gate.holds: shadow = {shadow!r:.60}: give the fixture `shadow`")
        if self._pipeline.workplace.measures is not None:
            self._asked.on_measured()
            return UNJUDGED
        drop = _share("gate.holds: max_drop", self._limits.max_drop if max_drop is None else max_drop)
        limits = Limits(alpha=self._limits.alpha, schema=self._pipeline.spec.answer_schema, max_drop=drop)
        meant = self._pipeline.metric(metric or self._limits.metric)
        return self._told(Judgement(shadow.verdict(self._asked.test, limits, meant, candidate), ()), {})

    def _comparison(
        self, rows: Rows, metric: str | Score | None, after: ModelHandle, before: ModelHandle | None = None
    ) -> Comparison:
        if not isinstance(rows, Rows):
            raise SuiteError(f"gate: on = {rows!r:.60}: give rows, such as the fixture `heldout` or general['NAME']")
        given = rows.outputs or rows.harness  # which are scored already, or score themselves
        meant = given.as_metric() if given else self._pipeline.metric(metric or rows.metric)
        return Comparison(self._pipeline, rows, meant, after, before)

    def _rule(self, attempt: int, looks: int = 1) -> Rule:
        # One superiority claim, pooled retention, a guard for each general suite, and each named slice.
        claims = 2 + len(self._pipeline.spec.general) + len(self._limits.slices)
        return Rule(ledger.alpha_of(self._limits.alpha, attempt), self._limits.alpha / claims, looks)

    def _decide(self, questions: Sequence[Question], judged: Sequence[Comparison]) -> Verdict:
        if self._pipeline.workplace.measures is not None:
            return self._measured(judged)
        attempt = self._attempt(questions, judged)
        place = self._pipeline.workplace
        tried = place.store.ledger.number(attempt)
        rule = self._rule(tried, self._looks(judged))
        inputs = {**self._inputs(questions, judged, attempt), "attempt": tried, "looks": rule.looks}
        made = False

        def decide() -> object:
            nonlocal made
            made = True
            settled = settle(
                questions,
                lambda number, look: judged[number].pair(look, rule.looks),
                rule,
                lambda number, look: judged[number].expect(look if place.early_stop else rule.looks, rule.looks),
            )
            pairs = settled.pairs
            if not place.early_stop:  # the same verdict, and all rows in the report
                pairs = {number: one.pair(rule.looks, rule.looks) for number, one in enumerate(judged)}
            verdict = Verdict(
                test=self._asked.test,
                outcome=gate.outcome(settled.claims),
                claims=settled.claims,
                slices=tuple(s for pair in pairs.values() for s in gate.slices(pair, self._limits.alpha)),
                lost=_worst([(one.rows, pairs[i]) for i, one in enumerate(judged)]),
                digests=self._digests(judged, attempt),
            )
            measured = [m for pair in pairs.values() for m in (pair.before, *pair.after) if m]
            return to_plain(Judgement(verdict, tuple(measured)))

        key = digest.of(to_plain(inputs))
        found = from_plain(Judgement, decide() if place.rejudge else place.store.json("verdict", key, decide))
        name = f"verdict of {self._asked.test.rpartition('::')[2]} ({questions[0].kind} on {attempt.data})"
        self._pipeline.stages.add(name, inputs, made)
        # What was looked up rests on what it did when it was decided, of which this run may have read nothing.
        place.store.ledger.decided(attempt, found.verdict.outcome, place.store.rested_on if made else None)
        spent = ledger.alpha_spent(self._limits.alpha, place.store.ledger.attempts(attempt))
        worn = replace(found.verdict, test=self._asked.test, attempt=tried, alpha_spent=spent)
        return self._told(Judgement(worn, found.measurements), {one.rows.name: one.rows for one in judged})

    def _measured(self, judged: Sequence[Comparison]) -> Verdict:
        """Measure all that a verdict may rest on, and judge nothing: other seeds are measured elsewhere."""
        looks = self._looks(judged)
        for one in judged:
            one.expect(looks, looks)
        for one in judged:
            one.pair(looks, looks)
        self._asked.on_measured()
        return UNJUDGED

    def _inputs(
        self, questions: Sequence[Question], judged: Sequence[Comparison], attempt: Attempt
    ) -> dict[str, object]:
        """Return by name what a verdict depends on, but for what the ledger says."""
        spec, pipeline = self._pipeline.spec, self._pipeline
        subjects = [one.inputs["subjects"] for one in judged]
        return {
            **pipeline.measurer.inputs(),
            "adapter": attempt.adapter,
            "adapters and prompts": digest.of(subjects),
            **{_limit(question): question.bound for question in questions},
            # The name of a level holds its bound, which stands above.
            "claims": [[q.kind, judged[0].after.name if q.kind == "level" else q.name, q.data] for q in questions],
            "[gate] alpha": self._limits.alpha,
            "general suites and slices": len(spec.general) + len(self._limits.slices),
            "metric": [one.inputs["metric"] for one in judged],
            **{f"{one.rows.name} rows": one.row_names for one in judged},
            "outputs made elsewhere": [one.inputs["given"] for one in judged],
            "early stop": pipeline.workplace.early_stop,
            "[generation] max_new_tokens": spec.generation.max_new_tokens,
            "[answer] labels": spec.labels,
            "[answer] schema": digest.of(spec.answer_schema),
            "code": digest.of_package(),
        }

    def _looks(self, judged: Sequence[Comparison]) -> int:
        """Return how often the data is looked at while it grows."""
        if any(one.known for one in judged):
            return 1
        whole = any(one.metric.whole for one in judged)
        return self._pipeline.looks([len(one.rows) for one in judged], whole)

    def _attempt(self, questions: Sequence[Question], judged: Sequence[Comparison]) -> Attempt:
        suite, rows = self._pipeline.spec.name, judged[0].rows
        # General suites are shared, and the adapters of each suite are attempts of their own.
        scope = [f"of {suite}"] if rows.is_general else []
        metrics = sorted({one.metric.name for one in judged})
        after = judged[0].after
        return Attempt(
            suite=suite,
            data=f"{len(judged)} general suites" if rows.is_general else rows.name,
            question=" ".join([questions[0].kind, *metrics, *scope]),
            rows=tuple(example.id for one in judged for example in one.rows),
            subjects=digest.of(self._judged_by(judged)),
            adapter=after.digest if isinstance(after, AdapterHandle) else "",
        )

    def _judged_by(self, judged: Sequence[Comparison]) -> list[object]:
        """Return who is compared and by what, limits apart: an interval holds for all of them."""
        spec = self._pipeline.spec
        compared = [[one.inputs["subjects"], one.inputs["metric"]] for one in judged]
        asked = spec.generation.max_new_tokens
        return [self._pipeline.model.digest, asked, spec.labels, spec.answer_schema, compared]

    def _digests(self, judged: Sequence[Comparison], attempt: Attempt) -> dict[str, str]:
        named = {
            "model": self._pipeline.model.digest,
            "adapter": attempt.adapter,
            "subjects": attempt.subjects,
            "rows": digest.of([one.inputs["rows"] for one in judged]),
            "metric": digest.of([one.inputs["metric"] for one in judged]),
        }
        if given := [one.inputs["given"] for one in judged if one.inputs["given"]]:
            named["outputs"] = digest.of(given)
        return {name: value for name, value in named.items() if value}

    def _told(self, judgement: Judgement, rows: Mapping[str, Rows]) -> Verdict:
        verdict = judgement.verdict
        self._pipeline.judged(judgement, rows)
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


def _limit(question: Question) -> str:
    """Return where people set the bound of a claim."""
    names = {"superiority": "margin", "retention": "max_drop", "guard": "guard"}
    if question.kind == "slice":
        return f"[gate.slices] {question.slice}"
    return f"[gate] {names[question.kind]}" if question.kind in names else "at_least"


def _share(what: str, value: float) -> float:
    """Return a limit, checked: reports speak of points and percent, and code of shares."""
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise SuiteError(f"{what} = {value!r}: must be a share from 0 to 1, and below it; 5 points are 0.05")
    return float(value)


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
