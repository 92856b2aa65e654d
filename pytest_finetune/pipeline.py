"""One suite's stages in order, each through the store: data, baseline, adapter, measurements."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pytest_finetune import baseline as baseline_stage
from pytest_finetune import curate, digest, explain, memory, mix, outputs, suspects
from pytest_finetune.advisor import Advice, Request, advise
from pytest_finetune.data import is_local
from pytest_finetune.engines import ADAPTERS, HARNESS, LIKELIHOODS, TEXTS, TRAINING
from pytest_finetune.errors import DataRefused, PromptIsEnough, SuiteError, named_choice
from pytest_finetune.harness import Harness
from pytest_finetune.measure import Measurer, Subject
from pytest_finetune.memory import GIB, Load, Shape
from pytest_finetune.methods import AUTO, METHODS, PROMPT
from pytest_finetune.metrics import Metric, Score, resolve
from pytest_finetune.outputs import Outputs
from pytest_finetune.protocol import Engine
from pytest_finetune.records import (
    Adapter,
    Baseline,
    CuratedData,
    Example,
    Judgement,
    Measurement,
    Model,
    Prompt,
    RowText,
    Rung,
    SuiteRecord,
    Training,
    TrainingCurve,
    TrainSpec,
    Verdict,
    to_plain,
)
from pytest_finetune.rowstore import RowStore
from pytest_finetune.shots import Retriever
from pytest_finetune.stats import looks, planner
from pytest_finetune.store import Store
from pytest_finetune.suite import SuiteSpec, model_folder
from pytest_finetune.tuning import SHIPPED, tuned
from pytest_finetune.workload import load_of

PROMPT_FILE = "prompt.json"
DEV_ANSWERED = 64  # dev rows answered at every evaluation of a training run
PROBES = 4


@dataclass(frozen=True)
class Workplace:
    """What all suites of a run share.

    ``engine`` starts the engine of the suite it is given, when a stage first needs it; ``device``
    is what the engine runs on; ``external`` is an adapter made elsewhere, gated in place of a
    trained one; ``retrain`` trains again, whatever the store holds; ``metrics`` come from hooks;
    ``trackers`` are told how training goes; ``memory_bytes`` is what training may take, 0 where unknown;
    ``early_stop`` ends measuring where the verdict is settled; ``seeds`` adapters are trained and judged
    as one recipe. ``rejudge`` decides verdicts anew also where the store has them; ``recompute`` means that
    nothing can be asked of a model here; ``measures`` that nothing is judged, and which seed is trained;
    ``remote_code`` that a model's own code may run.
    """

    store: Store
    engine: Callable[[SuiteSpec], Engine]
    device: str = "cpu"
    external: Path | None = None
    retrain: bool = False
    metrics: Mapping[str, Score] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    memory_bytes: int = 0
    early_stop: bool = True
    seeds: int = 1
    rejudge: bool = False
    recompute: bool = False
    measures: int | None = None
    remote_code: bool = False

    @cached_property
    def rows(self) -> RowStore:
        """The answers that all suites share."""
        return RowStore(self.store)


class Pipeline:
    """The stages of one suite in one run; each runs when first asked for, once."""

    def __init__(self, spec: SuiteSpec, workplace: Workplace) -> None:
        self.spec = spec
        self.workplace = workplace
        self.measurements: dict[tuple[str, str, str], Measurement] = {}
        self.verdicts: list[Verdict] = []
        self.rows: dict[str, Sequence[Example]] = {}  # that were judged, by data set
        self._has_all = False  # whether the engine has what the suite needs
        self.checked: curate.Kept | None = None  # what came of checking the rows, where this run did not know it
        store = workplace.store
        #: What each stage went by, for --finetune-explain.
        self.stages = explain.Stages(store, digest.of(os.path.relpath(spec.file, store.root)))

    @cached_property
    def shape(self) -> Shape | None:
        """The base model's shape, read off its files without its weights; None where they are not on this disk."""
        folder = model_folder(self.spec.model, self.spec.folder)
        return memory.shape_of(folder) if folder else None

    @cached_property
    def load(self) -> Load:
        """What one training step works on. Not of ``data``: suspects are found by the method this helps choose."""
        replayed = [example for rows in self.curated.replay.values() for example in rows]
        return load_of(self.spec, [*self.curated.train, *replayed], len(self.curated.dev), self.workplace.device)

    @cached_property
    def checkpointing(self) -> bool:
        """Whether training computes activations anew for the backward pass: where else they might not fit."""
        have = self.workplace.memory_bytes
        if self.shape is None or not have or self.training.method not in METHODS:
            return False
        return memory.estimate(self.shape, self.training.method, self.load).high > have

    @cached_property
    def advice(self) -> Advice:
        """The method to try first, of five that were weighed.

        Raises:
            SuiteError: the model's files are not on this disk.
        """
        if self.shape is None:
            raise SuiteError(
                f'{self.spec.file}: [training] method = "{AUTO}" counts the weights of {self.spec.model} in its files, '
                "which are not on this disk; download them and name their folder, or name a method"
            )
        rows = len(self.curated.train)
        return advise(Request(self.spec.task, rows, self.shape, self.load, self.workplace.memory_bytes))

    @cached_property
    def training(self) -> Training:
        """The settings of training, with the advisor's method where the suite leaves it to it."""
        settings = self.spec.training
        return replace(settings, method=self.advice.method) if settings.method == AUTO else settings

    @cached_property
    def model(self) -> Model:
        """The base model, held in 4 bits where the method trains it so."""
        method = METHODS.get(self.training.method)
        quantised = bool(method and method.quantised)
        return replace(self.spec.base_model(), quantised=quantised, remote_code=self.workplace.remote_code)

    @cached_property
    def curated(self) -> CuratedData:
        """The data with all findings, also refusing ones."""

        def told(kept: curate.Kept) -> None:
            self.checked = kept

        return curate.curate(self.spec, self.workplace.store, told)

    @cached_property
    def screened(self) -> CuratedData:
        """The data with suspected wrong references found, where the suite asks for that: it trains."""
        curate.refuse(self.spec, self.curated)
        return suspects.screen(self.spec, self.curated, self.measurer)

    @cached_property
    def data(self) -> CuratedData:
        """The data; raises DataRefused where a finding forbids its use."""
        self.check_claims()
        curate.refuse(self.spec, self.screened)
        return self.screened

    @cached_property
    def outputs(self) -> dict[str, Outputs]:
        """The scores made elsewhere, by general suite."""
        return {g.name: outputs.read(g.outputs, g.name) for g in self.spec.general if g.outputs}

    @cached_property
    def harness(self) -> dict[str, Harness]:
        """The tasks of lm-eval, by general suite; the base model is asked now."""
        place, tasks = self.spec.file, [general for general in self.spec.general if general.task]
        return {g.name: Harness(self.measurer, g, f"{place}: general {g.name}") for g in tasks}

    def asked_harness(self) -> dict[str, Harness]:
        """Return the tasks of lm-eval, checked to have enough documents for a claim.

        Raises:
            SuiteError: see :meth:`check_claims`, and ``Harness``.
        """
        asked = self.harness
        self.check_claims()
        return asked

    @property
    def general(self) -> dict[str, tuple[Example, ...]]:
        """The rows of each general suite, also of those asked elsewhere; of lm-eval's only once the base was asked."""
        known: dict[str, Outputs | Harness] = {**self.outputs, **vars(self).get("harness", {})}
        return {**self.curated.general, **{name: given.examples for name, given in known.items()}}

    def check_claims(self) -> None:
        """Refuse what no adapter could pass: general suites that are too small, and slices without a row.

        Raises:
            SuiteError: naming the suite or slice, and what would do.
        """
        self._check_slices()
        limits, sizes = self.spec.gate, {name: len(rows) for name, rows in self.general.items()}
        need = planner.smallest_suite(limits.guard, limits.alpha)
        for name, rows in sizes.items():
            if rows < need:
                raise DataRefused(
                    f"{self.spec.file}: general {name} has {rows} rows, and without a single lost one it takes "
                    f"{need} to prove a drop below [gate] guard = {limits.guard:g}; add rows, or raise the guard"
                )
        known = len(sizes) == len(self.spec.general)
        if sizes and known and planner.pooled_at_best(list(sizes.values()), limits.alpha) >= limits.max_drop:
            raise DataRefused(
                f"{self.spec.file}: the general suites have {sum(sizes.values())} rows, which even without a single "
                f"lost one do not prove a mean drop below [gate] max_drop = {limits.max_drop:g}; add rows, or raise it"
            )

    def _check_slices(self) -> None:
        column, known = self.spec.fields.slice, {example.slice for example in self.curated.heldout} - {""}
        if column and not known:
            raise SuiteError(f"{self.spec.file}: [data] fields.slice = {column!r}: no held-out row has that column")
        for name in self.spec.gate.slices:
            if name not in known:
                hint = (
                    named_choice(name, known) if known else "there are none; name their column in [data] fields.slice"
                )
                raise SuiteError(f"{self.spec.file}: [gate.slices] {hint}")

    @cached_property
    def measurer(self) -> Measurer:
        """What measures every subject of this suite."""
        place, spec = self.workplace, self.spec
        return Measurer(place.rows, self._engine, self.model, spec.generation, place.device, spec.engine)

    @cached_property
    def baseline(self) -> Baseline:
        """The best prompt, found on the dev split."""
        return baseline_stage.search(
            self.spec, self.measurer, self.data, self.metric(self.spec.gate.metric), self.retriever
        )

    @cached_property
    def retriever(self) -> Retriever:
        """What picks few-shot examples for a row, from the train rows."""
        return Retriever(self.data.train)

    @cached_property
    def adapter(self) -> Adapter:
        """The fine-tune: trained, from the store, or made elsewhere; checked to change something.

        Raises:
            PromptIsEnough: the best prompt reaches the suite's target, so that nothing is trained.
        """
        if self.workplace.external:
            adapter = self._external(self.workplace.external)
        elif self.training.method == PROMPT:
            return self._prompt()
        else:
            self._check_memory()
            self._check_need()
            self.asked_harness()  # a task that cannot be asked, or proves nothing, must show before hours of training
            first = replace(self.training, seed=self.training.seed + (self.workplace.measures or 0))
            adapter = self._climbed() if self.spec.ladder else self.trained(first)
        prompts = tuple(self.serve.before(example) for example in self.data.heldout[:PROBES])
        key = self.measurer.key(adapter, "probe", prompts)
        self.workplace.store.json("probe", key, lambda: self._engine().probe(self.model, adapter, prompts))
        return adapter

    @cached_property
    def other_seeds(self) -> tuple[Adapter, ...]:
        """The adapters of all seeds but the first, where a recipe is judged.

        Raises:
            SuiteError: nothing is trained here that a seed could change.
        """
        first = self.adapter
        if self.workplace.seeds == 1:
            return ()
        if first.curve is None:
            raise SuiteError(
                f"--finetune-seeds={self.workplace.seeds}: the adapter is {first.method}, and no seed changes it; "
                "leave the option out"
            )
        rank = next((rung.rank for rung in first.rungs if rung.score == max(r.score for r in first.rungs)), 0)
        settings = replace(self.training, rank=rank, alpha=2 * rank) if rank else self.training
        seeds = range(settings.seed + 1, settings.seed + self.workplace.seeds)
        return tuple(self.trained(replace(settings, seed=seed)) for seed in seeds)

    @property
    def serve(self) -> Prompt:
        """The short prompt that the adapter is trained and served with."""
        return Prompt("serve", self.spec.serve)

    @property
    def rival(self) -> Prompt:
        """The baseline's prompt, searched for now; where it is what ships, the plain instruction in its place."""
        ships_prompt = self.training.method == PROMPT and not self.workplace.external
        return self.plain if ships_prompt else self.baseline.prompt

    @property
    def plain(self) -> Prompt:
        """The first instruction alone: what a team has that never searched."""
        return next(baseline_stage.instructions(self.spec))

    def metric(self, name: str | Score) -> Metric:
        """Return the metric of that name, as this suite understands it."""
        return resolve(name, self.spec.folder, self.spec.answer_schema, self.workplace.metrics)

    def measure(self, subject: Subject, on: str, examples: Sequence[Example], metric: Metric) -> Measurement:
        """Measure a subject."""
        return self.measurer.measure(subject, on, examples, metric, self.spec.labels)

    def expect(self, subject: Subject, examples: Sequence[Example], metric: Metric) -> None:
        """Put down what measuring a subject will ask."""
        self.measurer.expect(subject, examples, metric, self.spec.labels)

    def looks(self, sizes: Sequence[int], whole: bool) -> int:
        """Return how often data sets of these sizes are looked at while they grow."""
        return 1 if whole or self.workplace.seeds > 1 else looks.count(min(sizes))

    def judged(self, judgement: Judgement, rows: Mapping[str, Sequence[Example]]) -> None:
        """Keep a verdict and what was measured for it, with the rows by their data set, for the report."""
        self.verdicts.append(judgement.verdict)
        for made in judgement.measurements:
            self.measurements[made.subject, made.on, made.metric] = made
        self.rows.update(rows)

    def record(self) -> SuiteRecord:
        """Return what this run learned about the suite so far; starts no stage."""
        done = self.__dict__  # a cached property is in it once it has run
        data: CuratedData | None = done.get("screened") or done.get("curated")
        rows: dict[str, int] = (
            {"train": len(data.train), "dev": len(data.dev), "heldout": len(data.heldout)} if data else {}
        )
        if data:
            known = {**data.general, **{name: task.examples for name, task in done.get("harness", {}).items()}}
            rows |= {f"general {name}": len(examples) for name, examples in known.items()}
        return SuiteRecord(
            name=self.spec.name,
            file=str(self.spec.file),
            model=self.spec.model,
            model_digest=self.model.digest if "model" in done else "",
            rows=rows,
            findings=data.findings if data else (),
            baseline=done.get("baseline"),
            target=self.spec.gate.target,
            adapter=done.get("adapter"),
            measurements=tuple(self.measurements.values()),
            verdicts=tuple(self.verdicts),
            stages=self._explained(),
            texts={
                on: tuple(RowText(e.id, f"{Path(e.file).name}:{e.line}", e.text, e.reference) for e in rows)
                for on, rows in self.rows.items()
            },
        )

    def _explained(self) -> dict[str, str]:
        """Return by stage whether it was reused or made, and why; starts no stage."""
        done, spec = vars(self), self.spec
        if data := done.get("screened") or done.get("curated"):
            why = "" if is_local(spec.sources) else "data sets of the hub are checked by every run"
            self.stages.add("data", curate.inputs(spec, data), self.checked is not None, why=why)
        if "baseline" in done:
            inputs = baseline_stage.inputs(spec, self.measurer, self.data, self.metric(spec.gate.metric))
            self.stages.add("baseline", inputs, *explain.counted(self.measurer.searched, "answers"))
        if "measurer" in done:
            self.measurer.explain(self.stages, spec.labels)
        for who, on, _ in self.measurements:
            if (who, on) not in self.measurer.tally:
                self.stages.add(f"outputs of {who} on {on}", {}, False, "with the verdict")
        return self.stages.told()

    def _engine(self) -> Engine:
        """Return the engine; the first time it must have what the suite needs.

        Raises:
            SuiteError: it lacks something; what was asked for is never measured in another way.
        """
        engine = self.workplace.engine(self.spec)
        if not self._has_all:
            lacks = engine.capabilities(self.model).lacks
            for need, what in self._needs().items():
                if need in lacks:
                    raise SuiteError(f"{self.spec.file}: {what} takes {need}, and {self.spec.engine} {lacks[need]}")
            self._has_all = True
        return engine

    def _needs(self) -> dict[str, str]:
        """Return by capability what in the suite needs it."""
        spec, needs = self.spec, {}
        if spec.chat_template != "on":
            needs[TEXTS] = f'[prompts] chat_template = "{spec.chat_template}"'
        for metric in (spec.gate.metric, *(general.metric for general in spec.general if general.data)):
            if self.metric(metric).kind == "choice":
                needs[LIKELIHOODS] = f"metric {metric}"
        for general in spec.general:
            if general.task:
                needs[HARNESS] = f"general {general.name}"
        if self.training.method != PROMPT or self.workplace.external:
            needs[ADAPTERS] = "measuring an adapter"
        if self.training.method != PROMPT and not self.workplace.external:
            needs[TRAINING] = f'[training] method = "{self.training.method}"'
        if spec.checks[suspects.CHECK].on_issue != "off":
            needs |= dict.fromkeys((TRAINING, ADAPTERS, LIKELIHOODS), f"[checks.{suspects.CHECK}]")
        return needs

    def _check_memory(self) -> None:
        """Refuse what the device's memory cannot hold, before it trains for an hour and dies."""
        have = self.workplace.memory_bytes
        if self.shape is None or not have:
            return
        need = memory.estimate(self.shape, self.training.method, replace(self.load, checkpointing=self.checkpointing))
        if need.low > have:
            fitting = [o.method for o in self.advice.table if o.memory and o.fits]
            remedy = f"take method {' or '.join(fitting)}" if fitting else "take a smaller model"
            raise SuiteError(
                f'{self.spec.file}: [training] method = "{self.training.method}" needs {need.low / GIB:.1f} to '
                f"{need.high / GIB:.1f} GiB, and {self.workplace.device} has {have / GIB:.1f}; {remedy}, "
                "a smaller batch_size, or shorter rows"
            )

    def _check_need(self) -> None:
        """The baseline comes first: where it reaches the target, training is not needed."""
        best, target = self.baseline, self.spec.gate.target
        if target is not None and best.score >= target:
            shots = f" with {best.prompt.count} examples" if best.prompt.count else ""
            raise PromptIsEnough(
                f"prompt is enough: do not fine-tune. {best.prompt.name}{shots} reaches {best.score:.1%} of "
                f"{best.rows} dev rows, [gate] target is {target:.1%}. Ship the prompt ([training] method = "
                f'"{PROMPT}"), or raise the target in {self.spec.file}'
            )

    def _prompt(self) -> Adapter:
        """The best prompt as what ships; it trains nothing."""
        prompt, store = to_plain(self.baseline.prompt), self.workplace.store

        def make(folder: Path) -> None:
            with store.writing():
                (folder / PROMPT_FILE).write_text(json.dumps(prompt, indent=1, ensure_ascii=False), encoding="utf-8")

        folder = store.folder("prompt", digest.of(prompt), make)
        self.stages.add("adapter", {"prompt": digest.of(prompt)}, False, "the best prompt, and nothing is trained")
        return Adapter(str(folder), digest.of_files(folder, (PROMPT_FILE,)), PROMPT, prompt=self.baseline.prompt)

    def _climbed(self) -> Adapter:
        """The smallest LoRA that reaches the target on the dev split, or the best of all."""
        target, metric = self.spec.gate.target, self.metric(self.spec.gate.metric)
        rungs: list[tuple[Rung, Adapter]] = []
        for rank in sorted(self.spec.ladder):
            adapter = self.trained(replace(self.training, rank=rank, alpha=2 * rank))
            subject = Subject("adapter", self.serve, adapter)
            score = self.measurer.measure(subject, "dev", self.data.dev, metric, self.spec.labels).mean
            assert adapter.curve
            rungs.append((Rung(rank, adapter.curve.trainable_parameters, score), adapter))
            if target is not None and score >= target:
                break
        best = max(rungs, key=lambda pair: (pair[0].score, -pair[0].rank))[1]
        return replace(best, rungs=tuple(rung for rung, _ in rungs))

    def trained(self, training: Training) -> Adapter:
        """Return what training with these settings makes, from the store where it has it."""
        spec, place = self.train_spec(training), self.workplace
        ladder, seed = self.spec.ladder, training.seed - self.training.seed
        name = "adapter" + (f" of rank {training.rank}" if ladder else "") + (f", seed {training.seed}" if seed else "")

        def told(inputs: Mapping[str, object], made: bool) -> None:
            self.stages.add(name, inputs, made, why="--finetune-retrain" if place.retrain else "")

        adapter = tuned(spec, place.store, self._engine, place.device, place.retrain, told)
        assert adapter.curve
        return replace(adapter, curve=self._scored(adapter.curve, spec))

    def train_spec(self, training: Training) -> TrainSpec:
        """Return everything a training run depends on."""
        dev = mix.dev_rows(self.data, self.serve)
        return TrainSpec(
            model=self.model,
            training=training,
            train=mix.train_rows(self.data, self.serve, self.spec.replay_share, training.class_weights),
            dev=dev,
            generation=self.spec.generation,
            answered=0 if self.metric(self.spec.gate.metric).kind == "choice" else min(len(dev), DEV_ANSWERED),
            trackers=self.workplace.trackers,
            tracker_folder=str(self.workplace.store.root.parent / "runs" / self.spec.name),
            checkpointing=self.checkpointing,
        )

    def _scored(self, curve: TrainingCurve, spec: TrainSpec) -> TrainingCurve:
        """Put the dev metric in the place of the dev answers, which reports need not hold."""
        metric = self.metric(self.spec.gate.metric)
        references = tuple(row.completion for row in spec.dev[: spec.answered])
        scores = tuple(
            (step, sum(self.measurer.scores(metric, answers, references)) / len(answers))
            for step, answers in curve.dev_answers
        )
        return replace(curve, dev_answers=(), dev_scores=scores)

    def _external(self, folder: Path) -> Adapter:
        """The adapter made elsewhere."""
        if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
            raise SuiteError(f"--finetune-adapter={folder}: no adapter_config.json in it; name the adapter's folder")
        name = digest.of_files(folder, SHIPPED)
        self.stages.add("adapter", {"adapter": name}, False, "made elsewhere")
        return Adapter(str(folder), name, "external")
