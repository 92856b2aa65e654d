"""Runs as records, for tests of reports: every kind of claim, outcome and finding, and as many rows as asked."""

from collections.abc import Callable
from dataclasses import replace

from pytest_finetune.records import (
    Adapter,
    Baseline,
    Candidate,
    Claim,
    Finding,
    Kind,
    Measurement,
    Outcome,
    PolicyChange,
    Prompt,
    RowText,
    RunRecord,
    Slice,
    SuiteRecord,
    TestRecord,
    TrainingCurve,
    Usage,
    Verdict,
)

Said = Callable[[str], str]
NUMBERS: dict[Outcome, tuple[float, float, float]] = {  # low, estimate, high
    "PASS": (0.21, 0.3, 0.39),
    "FAIL": (-0.2, -0.13, -0.06),
    "INCONCLUSIVE": (-0.04, 0.06, 0.16),
}


def run(suites: int = 2, rows: int = 12, said: Said = str) -> RunRecord:
    """Return a run whose first suite fails.

    Args:
        suites: how many.
        rows: of each suite; the first third is won, the next lost, the rest tied.
        said: makes every free text of the run, from a plain one.
    """
    return RunRecord(
        version="0.1.0",
        started="2026-11-25T03:51:00+00:00",
        seconds=61.5,
        libraries={"numpy": "2.4.6"},
        suites=tuple(_suite(number, rows, said) for number in range(suites)),
        outcome="FAIL",
        tests=(
            TestRecord(
                said("suites/test_a.py::test_beats"), said("suites/test_a.py"), 4, "FAIL", said("FAIL: refuted\nline 2")
            ),
            TestRecord("suites/test_b.py::test_beats", "suites/test_b.py", 4, "PASS"),
        ),
        policy=(PolicyChange(said("suite 0"), said("[gate] margin"), said("0.1"), said("0.05"), lowers=True),),
    )


def _suite(number: int, rows: int, said: Said) -> SuiteRecord:
    outcomes: tuple[Outcome, ...] = ("PASS", "FAIL", "INCONCLUSIVE", "PASS") if number == 0 else ("PASS",)
    kinds: tuple[Kind, ...] = ("superiority", "guard", "slice", "level")
    claims = tuple(_claim(kind, outcome, said) for kind, outcome in zip(kinds, outcomes, strict=False))
    third = rows // 3
    ids = tuple(f"{number}-{i}" for i in range(rows))
    plain = Prompt(said("name the colour"), said("Name the colour.\nOne word."))
    before = Measurement(
        subject="baseline",
        on="held-out",
        metric="exact_match",
        ids=ids,
        outputs=tuple(said(f"the box {i} is red") for i in range(rows)),
        scores=tuple(float(third <= i < 2 * third) for i in range(rows)),
        slices=tuple(said(("warm", "cold")[i % 2]) for i in range(rows)),
        usage=Usage(120.4, 3.2, 0.0107),
    )
    outputs = tuple(said(f"the box {i} is green") for i in range(rows))
    after = replace(before, subject="adapter", outputs=outputs, scores=tuple(float(i < third) for i in range(rows)))
    return SuiteRecord(
        name=said(f"suite {number}"),
        file=said(f"suites/{number}/suite.toml"),
        model=said("embedded"),
        model_digest="a" * 64,
        rows={"train": 700, "dev": 80, said("heldout"): rows},
        findings=(Finding(said("conflicts"), said("same prompt, two answers"), (said("train.jsonl:1"),), True, 0, 1),),
        baseline=Baseline(
            prompt=plain,
            score=0.42,
            plain_score=0.2,
            rows=80,
            answers=292,
            candidates=(
                Candidate(plain.name, 0, "", True, 0.42, 80),
                Candidate(said("another"), 4, said("nearest"), False, 0.2, 16),
                Candidate(said("too long"), 64, "", True, 0.0, 0),
            ),
        ),
        target=0.9,
        adapter=Adapter(said("adapter"), "b" * 64, "lora", _curve()),
        measurements=(before, after),
        verdicts=(
            Verdict(
                test=said(f"suites/{number}/test_it.py::test_beats"),
                outcome="FAIL" if number == 0 else "PASS",
                claims=claims,
                slices=(Slice(said("held-out"), said("warm"), rows, 0.5, 0.4, -0.1, -0.2, 0.0, 0.004, worse=True),),
                attempt=2,
                digests={"model": "a" * 64},
            ),
        ),
        stages={said("data"): said("made: no such entry")},
        texts={
            "held-out": tuple(
                RowText(
                    ids[i],
                    said(f"heldout.jsonl:{i + 1}"),
                    said(f"What colour\nis box {i}?"),
                    said(f"the box {i} is green"),
                )
                for i in range(rows)
            )
        },
    )


def _claim(kind: Kind, outcome: Outcome, said: Said) -> Claim:
    low, estimate, high = (value + 0.5 if kind == "level" else value for value in NUMBERS[outcome])
    names = {"superiority": "adapter beats baseline", "guard": "keeps copy", "slice": "keeps slice", "level": "reaches"}
    return Claim(
        name=said(names.get(kind, kind)),
        kind=kind,
        on="held-out",
        metric="exact_match",
        before="" if kind == "level" else "baseline",
        after="adapter",
        before_mean=0.4,
        after_mean=0.4 + estimate,
        estimate=estimate,
        low=low,
        high=high,
        bound={"superiority": 0.1, "level": 0.7}.get(kind, -0.05),
        n=300,
        wins=120,
        losses=30,
        ties=150,
        alpha=0.05,
        alpha_refute=0.01,
        outcome=outcome,
        n_needed=1200,
        detectable=0.09,
        statistic="t",
        look=1,
        looks=1,
    )


def _curve() -> TrainingCurve:
    return TrainingCurve(
        steps=40,
        seconds=12.5,
        trainable_parameters=122_880,
        peak_bytes=240 * 2**20,
        train_loss_nats=((10, 2.1), (20, 0.8), (30, 0.3), (40, 0.1)),
        dev_loss_nats=((20, 0.9), (30, 0.5), (40, 0.7)),
        best_step=30,
        shipped_step=40,
        steps_per_epoch=20,
        dev_scores=((20, 0.4), (30, 0.6), (40, 0.7)),
    )
