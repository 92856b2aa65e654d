"""The gate on real adapters of the embedded model: what must not pass, and what must be refused.

    python -m benchmarks.gate_real [--store DIR] [--out FILE]

60 gates in which nothing got better: the base model against itself, asked in another order and batch size;
adapters trained on shuffled labels against the best prompt; and against each other, where the truth lies at
the bound of 0. And 40 adapters whose training teaches one general skill wrongly. About half an hour on
2 cores; a store given by name resumes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pytest_finetune import digest, fixtures, gate, suite
from pytest_finetune.claims import Asked, ClaimNotProven, Gate
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.handles import AdapterHandle, ModelHandle
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.records import CuratedData, Example, Generation, Verdict
from pytest_finetune.store import Store

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "results" / "gate_real.md"
NULLS, PLANTED = 20, 40  # gates of each null kind, and adapters with a regression
ROWS, EPOCHS = 240, 3.0
SPOILT = "sort"
ALPHA = 0.05


class Bench:
    """The intent suite, cut short, with one engine and one store for all its variations."""

    def __init__(self, engine: EngineProcess, folder: Path) -> None:
        spec = suite.load(ROOT / "eval_suites" / "intent" / suite.FILE, ROOT)
        self._workplace = Workplace(Store(folder), lambda name: engine)
        self._spec = replace(spec, shots=(0,), chat_template="on", answer_format=False)

    def pipeline(self, seed: int, change: Callable[[CuratedData], CuratedData], batch: int = 96) -> Pipeline:
        """Return the suite with a seed and changed data."""
        training = replace(self._spec.training, seed=seed, epochs=EPOCHS)
        generation = Generation(self._spec.generation.max_new_tokens, batch)
        made = Pipeline(replace(self._spec, training=training, generation=generation), self._workplace)
        rows = random.Random(seed).sample(made.data.train, ROWS)
        vars(made)["data"] = change(replace(made.data, train=tuple(rows)))
        return made

    def outcome(self, pipeline: Pipeline, decide: Callable[[Gate], Verdict]) -> str:
        """Return what a gate decides; each gate is a team of its own, which tries once."""
        shutil.rmtree(self._workplace.store.ledger.path, ignore_errors=True)
        try:
            return decide(Gate(pipeline, Asked("benchmark"))).outcome
        except ClaimNotProven as error:
            return error.verdict.outcome


def same_model(bench: Bench, seed: int) -> str:
    """The base model with its best prompt against itself, asked in another order and batch size."""
    plain = bench.pipeline(0, _as_it_is)
    best, metric = fixtures.baseline(plain).subject(), plain.metric(plain.spec.gate.metric)
    rows = random.Random(seed).sample(plain.data.heldout, len(plain.data.heldout))
    before = plain.measure(best, "held-out", rows, metric)
    after = bench.pipeline(0, _as_it_is, batch=16 + seed).measure(best, "held-out", rows, metric)
    return gate.claim("superiority", "A/A", [gate.Pair((after,), before)], 0.0, gate.Rule(ALPHA, ALPHA)).outcome


def _as_it_is(data: CuratedData) -> CuratedData:
    return data


def shuffled(seed: int) -> Callable[[CuratedData], CuratedData]:
    """Return what gives every train row another row's label."""

    def change(data: CuratedData) -> CuratedData:
        labels = [example.reference for example in data.train]
        random.Random(seed).shuffle(labels)
        rows = [_answering(example, label) for example, label in zip(data.train, labels, strict=True)]
        return replace(data, train=tuple(rows))

    return change


def spoilt(data: CuratedData) -> CuratedData:
    """Return data whose replay teaches one general skill the wrong way round."""
    rows = tuple(_answering(e, " ".join(reversed(e.reference.split()))) for e in data.replay[SPOILT])
    return replace(data, replay={**data.replay, SPOILT: rows})


def _answering(example: Example, reference: str) -> Example:
    return replace(example, reference=reference, id=digest.of([example.id, reference]))


def learned_nothing(bench: Bench, seed: int) -> str:
    """An adapter trained on shuffled labels against the best prompt, as a suite's test would judge it."""
    pipeline = bench.pipeline(seed, shuffled(seed))
    best, rows = fixtures.baseline(pipeline), fixtures.heldout(pipeline)
    return bench.outcome(pipeline, lambda gate: gate.beats(AdapterHandle(pipeline), best, on=rows, margin=0.0))


def as_good_as(bench: Bench, seed: int) -> str:
    """Two adapters trained on labels shuffled in two ways, of which neither is better: the truth is at the bound."""
    one, other = (bench.pipeline(s, shuffled(s)) for s in (seed, seed + 1))
    before = ModelHandle(one, "other adapter", other.serve, other.adapter)
    rows = fixtures.heldout(one)
    return bench.outcome(one, lambda gate: gate.beats(AdapterHandle(one), before, on=rows, margin=0.0))


def regressed(bench: Bench, seed: int) -> str:
    """An adapter whose training teaches a general skill wrongly, judged for what it keeps."""
    pipeline = bench.pipeline(seed, spoilt)
    base, general = fixtures.base_model(pipeline), fixtures.general(pipeline)
    return bench.outcome(pipeline, lambda gate: gate.keeps(AdapterHandle(pipeline), base, on=general))


KINDS: dict[str, tuple[Callable[[Bench, int], str], int]] = {
    "base model against itself, other order and batch size, margin 0": (same_model, NULLS),
    "adapter on shuffled labels against the best prompt, margin 0": (learned_nothing, NULLS),
    "adapter on shuffled labels against another such, margin 0": (as_good_as, NULLS),
    f"adapter whose replay teaches {SPOILT} backwards: keeps general skills": (regressed, PLANTED),
}


@contextmanager
def opened(folder: Path | None) -> Iterator[Bench]:
    """Yield a bench over a store, a temporary one where none is given."""
    engine = EngineProcess("cpu", lambda progress: None)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            yield Bench(engine, folder or Path(temporary))
    finally:
        engine.close()


def table(counts: dict[str, Counter[str]], seconds: float) -> Sequence[str]:
    """Return the report's lines."""
    rows = [
        f"| {kind} | {sum(count.values())} | {count['PASS']} | {count['INCONCLUSIVE']} | {count['FAIL']} |"
        for kind, count in counts.items()
    ]
    *nulls, planted = counts.values()
    false, refused = sum(count["PASS"] for count in nulls), planted["FAIL"] + planted["INCONCLUSIVE"]
    return [
        "# The gate on real adapters",
        "",
        f"`python -m benchmarks.gate_real`, embedded model, 2 cores, {seconds:.0f} s.",
        "",
        "| gate | gates | pass | inconclusive | fail |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"False passes: **{false} of {sum(sum(count.values()) for count in nulls)}**. "
        f"Planted regressions refused: **{refused} of {sum(planted.values())}**, {planted['FAIL']} of them by FAIL.",
    ]


def main() -> None:
    """Run all gates and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--gates", type=int, default=PLANTED, help="of each kind at most")
    options = parser.parse_args()
    started = time.perf_counter()
    counts: dict[str, Counter[str]] = {}
    with opened(options.store) as bench:
        for kind, (run, number) in KINDS.items():
            counts[kind] = Counter()
            for seed in range(1, min(number, options.gates) + 1):
                counts[kind][run(bench, seed)] += 1
                print(f"{time.perf_counter() - started:6.0f} s  {kind} {seed}: {dict(counts[kind])}", flush=True)
    lines = table(counts, time.perf_counter() - started)
    options.out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
