"""The playbook's stages on the embedded model, in numbers: methods, ladder, baseline, replay.

    python -m benchmarks.playbook [--suite DIR] [--seeds 3] [--out FILE]

Every number comes from the shipped stages and the shipped gate, over a suite of eval_suites/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from pytest_finetune import suite
from pytest_finetune.claims import Asked, ClaimNotProven, Gate
from pytest_finetune.engine.client import EngineProcess
from pytest_finetune.fixtures import base_model, baseline, general, heldout
from pytest_finetune.handles import AdapterHandle
from pytest_finetune.methods import PROMPT
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.records import Verdict
from pytest_finetune.report.terminal import percent
from pytest_finetune.store import Store
from pytest_finetune.suite import SuiteSpec

ROOT = Path(__file__).parents[1]
# The embedded model is tiny: it learns at about twenty times the usual rates.
RATES = {"lora": 4e-3, "qlora": 4e-3, "full": 5e-4, "soft_prompt": 0.1}
VARIANTS = ("rslora", "pissa")


@dataclass(frozen=True)
class Row:
    """One fine-tune, gated."""

    name: str
    pipeline: Pipeline
    superiority: Verdict
    retention: Verdict

    @property
    def drop_points(self) -> float:
        """Mean drop over the general suites, in points."""
        return -100 * self.retention.claims[0].estimate


class Bench:
    """A suite, with one engine and one store for all its variations."""

    def __init__(self, spec: SuiteSpec, engine: EngineProcess, store: Path) -> None:
        self.spec = spec
        self._workplace = Workplace(Store(store), lambda name: engine, early_stop=False)

    def gated(self, name: str, **changes: Any) -> Row:
        """Train and gate the suite with some settings changed."""
        settings = dict(changes)
        spec = replace(
            self.spec,
            replay_share=settings.pop("replay", self.spec.replay_share),
            ladder=settings.pop("ladder", ()),
            gate=replace(self.spec.gate, target=settings.pop("target", None)),
            training=replace(self.spec.training, **settings),
        )
        # Each row of the table is a team of its own, which tries once.
        shutil.rmtree(self._workplace.store.ledger.path, ignore_errors=True)
        pipeline = Pipeline(spec, self._workplace)
        gate = Gate(pipeline, Asked(name))
        adapter = AdapterHandle(pipeline)
        best, base, suites = baseline(pipeline), base_model(pipeline), general(pipeline)
        row = Row(
            name,
            pipeline,
            _verdict(pipeline, lambda: gate.beats(adapter, best, on=heldout(pipeline))),
            _verdict(pipeline, lambda: gate.keeps(adapter, base, on=suites)),
        )
        print(_method_row(row), flush=True)
        return row


def _verdict(pipeline: Pipeline, decide: Callable[[], Verdict]) -> Verdict:
    try:
        return decide()
    except ClaimNotProven:
        return pipeline.verdicts[-1]


def _method_row(row: Row) -> str:
    curve, claim = row.pipeline.adapter.curve, row.superiority.claims[0]
    weights = f"{curve.trainable_parameters:,} | {curve.peak_bytes / 2**20:,.0f}" if curve else "0 | 0"
    seconds = f"{curve.seconds:.0f}" if curve else "0"
    return (
        f"| {row.name} | {weights} | {seconds} | {percent(claim.before_mean)} | {percent(claim.after_mean)} | "
        f"{row.superiority.outcome} | {row.drop_points:+.1f} | {row.retention.outcome} |"
    )


def methods(bench: Bench) -> Iterator[str]:
    """Yield the table of methods and variants."""
    yield from (
        "## Methods",
        "",
        "`prompt` is compared with the plain instruction, the others with the best prompt; drop: of general suites.",
        "",
        "| method | weights | MiB added by training | seconds | before | after | beats | drop, points | keeps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    for method, rate in RATES.items():
        yield _method_row(bench.gated(method, method=method, learning_rate=rate))
    for variant in VARIANTS:
        yield _method_row(bench.gated(f"lora, {variant}", variant=variant, learning_rate=RATES["lora"]))
    yield _method_row(bench.gated(PROMPT, method=PROMPT))
    yield ""


def prompting(bench: Bench) -> Iterator[str]:
    """Yield what the baseline's search found, and what a request costs with it and with the adapter."""
    row = bench.gated("LoRA", learning_rate=RATES["lora"])
    found = row.pipeline.baseline
    used = {m.subject: m.usage for m in row.pipeline.measurements.values() if m.on == "held-out"}
    before, after = used["baseline"], used["adapter"]
    assert before
    assert after
    yield from (
        "## The prompt baseline",
        "",
        f"{len(found.candidates)} prompts in {found.answers} answers ({found.answers / found.rows:.1f} evaluations of "
        f"the {found.rows} dev rows): {percent(found.plain_score)} with the plain instruction, {percent(found.score)} "
        f"with {found.prompt.name} and {found.prompt.count} examples.",
        "",
        "| a request of | tokens read | tokens written | milliseconds, batched |",
        "| --- | --- | --- | --- |",
        f"| the best prompt | {before.prompt_tokens:.0f} | {before.new_tokens:.1f} | {1000 * before.seconds:.1f} |",
        f"| the adapter | {after.prompt_tokens:.0f} | {after.new_tokens:.1f} | {1000 * after.seconds:.1f} |",
        "",
    )


def ladder(bench: Bench) -> Iterator[str]:
    """Yield the rungs of a ladder."""
    row = bench.gated("ladder", ladder=(1, 2, 4, 8, 16), target=0.9, learning_rate=RATES["lora"])
    yield from ("## Small first: the ladder, target 90 % of the dev split", "", "| rank | weights | dev score |")
    yield "| --- | --- | --- |"
    for rung in row.pipeline.adapter.rungs:
        yield f"| {rung.rank} | {rung.trainable_parameters:,} | {percent(rung.score)} |"
    yield ""


def replay(bench: Bench, seeds: int) -> Iterator[str]:
    """Yield what replay gives back, over several seeds."""
    yield from (
        "## Replay: general examples in the training mix",
        "",
        "| replay | held-out, by seed | general drop in points, by seed | mean drop |",
        "| --- | --- | --- | --- |",
    )
    for share in (0.0, 0.25, 0.5):
        rows = [
            bench.gated(f"replay {share:.0%}, seed {seed}", replay=share, seed=seed, learning_rate=RATES["lora"])
            for seed in range(seeds)
        ]
        after = ", ".join(percent(row.superiority.claims[0].after_mean) for row in rows)
        drops = ", ".join(f"{row.drop_points:.1f}" for row in rows)
        yield f"| {share:.0%} | {after} | {drops} | {mean(row.drop_points for row in rows):.1f} |"
    yield ""


@contextmanager
def opened(folder: Path) -> Iterator[Bench]:
    """Yield a bench over a suite's folder."""
    engine = EngineProcess("cpu", lambda progress: None)
    try:
        with tempfile.TemporaryDirectory() as store:
            yield Bench(suite.load(folder.resolve() / suite.FILE, ROOT), engine, Path(store))
    finally:
        engine.close()


def main() -> None:
    """Measure, and write the tables down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=ROOT / "eval_suites" / "intent")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "playbook.md")
    options = parser.parse_args()
    with opened(options.suite) as bench:
        lines = [*methods(bench), *prompting(bench), *ladder(bench), *replay(bench, options.seeds)]
        name = bench.spec.name
    head = [f"# The playbook on the embedded model, suite {name}", ""]
    head += [f"`python -m benchmarks.playbook --seeds {options.seeds}`, {os.cpu_count()} cores, CPU.", ""]
    options.out.write_text("\n".join([*head, *lines]), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
