"""One suite's stages in order, each through the store: data, baseline, adapter, measurements."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path

from pytest_finetune import baseline as baseline_stage
from pytest_finetune import curate, digest
from pytest_finetune.errors import SuiteError
from pytest_finetune.measure import LIBRARIES, Measurer, Subject
from pytest_finetune.metrics import Metric, Score, resolve
from pytest_finetune.protocol import Engine
from pytest_finetune.records import (
    Adapter,
    Baseline,
    Conversation,
    CuratedData,
    Example,
    Measurement,
    Model,
    Prompt,
    SuiteRecord,
    TrainingCurve,
    TrainSpec,
    Verdict,
    from_plain,
    to_plain,
)
from pytest_finetune.store import Store
from pytest_finetune.suite import SuiteSpec

CURVE = "curve.json"
SHIPPED = ("*.safetensors", "adapter_config.json", "config.json")
TRAINING_CODE = ("engine/train.py", "engine/template.py", "engine/models.py", "engine/generate.py", "methods.py")
LIBRARIES_OF_TRAINING = (*LIBRARIES, "accelerate")
PROBES = 4
NO_PROMPT = Prompt("none")


@dataclass(frozen=True)
class Workplace:
    """What all suites of a run share.

    ``engine`` starts the engine for the suite it is given, when a stage first needs it; ``device``
    is what the engine runs on; ``external`` is an adapter made elsewhere, gated in place of a
    trained one; ``retrain`` trains again, whatever the store holds; ``metrics`` come from hooks.
    """

    store: Store
    engine: Callable[[str], Engine]
    device: str = "cpu"
    external: Path | None = None
    retrain: bool = False
    metrics: Mapping[str, Score] = field(default_factory=dict)


class Pipeline:
    """The stages of one suite in one run; each runs when first asked for, once."""

    def __init__(self, spec: SuiteSpec, workplace: Workplace) -> None:
        self.spec = spec
        self.workplace = workplace
        self.measurements: dict[tuple[str, str, str], Measurement] = {}
        self.verdicts: list[Verdict] = []

    @cached_property
    def model(self) -> Model:
        """The base model."""
        return self.spec.base_model()

    @cached_property
    def curated(self) -> CuratedData:
        """The data with all findings, also refusing ones."""
        return curate.curate(self.spec)

    @cached_property
    def data(self) -> CuratedData:
        """The data; raises DataRefused where a finding forbids its use."""
        curate.refuse(self.spec, self.curated)
        return self.curated

    @cached_property
    def measurer(self) -> Measurer:
        """What measures every subject of this suite."""
        return Measurer(self.workplace.store, self._engine, self.model, self.spec.generation, self.workplace.device)

    @cached_property
    def baseline(self) -> Baseline:
        """The best prompt, found on the dev split."""
        metric = self.metric(self.spec.gate.metric)
        return baseline_stage.search(self.spec, self.measurer, self.data.train, self.data.dev, metric)

    @cached_property
    def adapter(self) -> Adapter:
        """The fine-tune: trained, from the store, or made elsewhere; checked to change something."""
        adapter = self._external(self.workplace.external) if self.workplace.external else self._trained()
        prompts = tuple(self.serve.before(example) for example in self.data.heldout[:PROBES])
        key = self.measurer.key(adapter, "probe", prompts)
        self.workplace.store.json("probe", key, lambda: self._engine().probe(self.model, adapter, prompts))
        return adapter

    @property
    def serve(self) -> Prompt:
        """The short prompt that the adapter is trained and served with."""
        return Prompt("serve", self.spec.serve)

    def metric(self, name: str | Score) -> Metric:
        """Return the metric of that name, as this suite understands it."""
        return resolve(name, self.spec.folder, self.spec.answer_schema, self.workplace.metrics)

    def measure(self, subject: Subject, on: str, examples: Sequence[Example], metric: str | Score) -> Measurement:
        """Measure a subject and keep the measurement for the report."""
        made = self.measurer.measure(subject, on, examples, self.metric(metric), self.spec.labels)
        self.measurements[made.subject, made.on, made.metric] = made
        return made

    def record(self) -> SuiteRecord:
        """Return what this run learned about the suite so far; starts no stage."""
        done = self.__dict__  # a cached property is in it once it has run
        data: CuratedData | None = done.get("curated")
        rows = {"train": len(data.train), "dev": len(data.dev), "heldout": len(data.heldout)} if data else {}
        if data:
            rows |= {f"general {name}": len(examples) for name, examples in data.general.items()}
        return SuiteRecord(
            name=self.spec.name,
            file=str(self.spec.file),
            model=self.spec.model,
            model_digest=self.model.digest if "model" in done else "",
            rows=rows,
            findings=data.findings if data else (),
            baseline=done.get("baseline"),
            adapter=done.get("adapter"),
            measurements=tuple(self.measurements.values()),
            verdicts=tuple(self.verdicts),
        )

    def _engine(self) -> Engine:
        return self.workplace.engine(self.spec.name)

    def _trained(self) -> Adapter:
        spec = self.train_spec()
        settings = to_plain(spec.training)
        key = digest.of(
            [
                [spec.model.digest, settings, self.workplace.device],
                [digest.versions(*LIBRARIES_OF_TRAINING), digest.of_code(*TRAINING_CODE)],
                [to_plain(spec.train), to_plain(spec.dev)],
            ]
        )

        def make(folder: Path) -> None:
            curve = self._engine().train(spec, str(folder))
            (folder / CURVE).write_text(json.dumps(to_plain(curve)))

        folder = self.workplace.store.folder("adapter", key, make, rebuild=self.workplace.retrain)
        curve = from_plain(TrainingCurve, json.loads((folder / CURVE).read_text()))
        return Adapter(str(folder), digest.of_files(folder, SHIPPED), spec.training.method, curve)

    def train_spec(self) -> TrainSpec:
        """Return everything the training run depends on, replay rows mixed in."""
        rows = [Conversation(self.serve.before(e), e.reference) for e in self.data.train]
        share = self.spec.replay_share
        wanted = round(len(rows) * share / (1 - share))
        pools = [sorted(pool, key=lambda e: digest.of(["replay", e.id])) for pool in self.data.replay.values()]
        # One of each general suite in turn, so that none is forgotten for being listed last.
        mixed = [e for e in chain.from_iterable(zip_longest(*pools)) if e is not None][:wanted]
        rows += [Conversation(NO_PROMPT.before(e), e.reference) for e in mixed]
        dev = tuple(Conversation(self.serve.before(e), e.reference) for e in self.data.dev)
        return TrainSpec(self.model, self.spec.training, tuple(rows), dev)

    def _external(self, folder: Path) -> Adapter:
        if not any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
            raise SuiteError(f"--finetune-adapter={folder}: no adapter_config.json in it; name the adapter's folder")
        return Adapter(str(folder), digest.of_files(folder, SHIPPED), "external")
