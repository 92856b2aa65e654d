"""One run's state: its suites, its store, the engine that is opened late, and what was learned."""

import importlib.util
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import pytest_finetune
from pytest_finetune import (
    curate,
    data,
    device,
    digest,
    environment,
    evidence,
    harness,
    hub,
    options,
    policy,
    redaction,
    suite,
    suspects,
    tuning,
)
from pytest_finetune.cases import Cases
from pytest_finetune.engine.client import Bounds, EngineProcess
from pytest_finetune.engines import EngineSpec, chosen
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.explain import MADE
from pytest_finetune.foresight import Foresight
from pytest_finetune.ledger import Ledger
from pytest_finetune.lifeline import end_with_parent
from pytest_finetune.measure import LIBRARIES
from pytest_finetune.metrics import Score
from pytest_finetune.outcomes import Outcomes
from pytest_finetune.pipeline import Pipeline, Workplace
from pytest_finetune.progress import ProgressLine
from pytest_finetune.protocol import Engine, Progress
from pytest_finetune.records import PolicyChange, RunRecord, SuiteRecord, Verdict, from_plain, to_plain
from pytest_finetune.redaction import redacted
from pytest_finetune.remote import FILE, Remote, warn
from pytest_finetune.report import file as report_file
from pytest_finetune.report import github, html, markdown, run_json
from pytest_finetune.store import Store, borrow, is_writable, work_name
from pytest_finetune.suite import Check, SuiteSpec

KEY = pytest.StashKey["FinetuneSession"]()
STORE = "finetune_store"  # in an xdist worker's input: the folder of its controller's store


class FinetuneSession:
    """The state of one run under ``--finetune``, in ``config.stash`` under ``KEY``.

    Args:
        config: pytest's.
        attribute: what reports of tests carry their outcome in.
    """

    def __init__(self, config: pytest.Config, attribute: str) -> None:
        self.config = config
        self.options = options.read(config)
        worker = getattr(config, "workerinput", {})
        self._passing: tempfile.TemporaryDirectory[str] | None = None
        self.store = self._store(worker.get(STORE, ""))
        self.progress = ProgressLine(config)
        self.pipelines: dict[Path, Pipeline] = {}
        self.from_workers: list[SuiteRecord] = []
        self._engines: dict[EngineSpec, EngineProcess] = {}
        self.untrained: set[Path] = set()  # suites of which no test asks for the adapter
        self.checked = False  # whether the suites' files are all in order
        self.finished: RunRecord | None = None
        self.annotations: list[str] = []  # what GitHub's runner is told at the end, a line each
        self.resume = ""  # the line from which on it listens again
        self.policy: tuple[PolicyChange, ...] = ()
        self.measured: set[str] = set()  # tests whose claims were measured and not judged
        self.filled = ""  # why no engine is asked: cells have made all that there is
        self.notes: list[str] = []  # what collection has to say, a line each
        self._busy_suite = ""
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()
        metrics: dict[str, Score] = {}
        for registered in config.hook.pytest_finetune_metrics(config=config):
            metrics |= registered
        self.workplace = Workplace(
            self.store,
            self.engine,
            self.options.device,
            self.options.adapter,
            self.options.retrain,
            metrics,
            self.options.trackers,
            self.options.memory_bytes,
            self.options.early_stop,
            self.options.seeds,
            rejudge=bool(self.options.evidence or self.options.recompute),
            recompute=self.options.recompute,
            measures=self.options.measure,
            remote_code=self.options.trust_remote_code,
        )
        self._sigterm = None if worker else _interrupt_at_sigterm()
        if self.options.measure is not None:
            end_with_parent()
        # Of this run alone; and the store clears it when the run, of which workers are children, was killed.
        run = f"{work_name(os.getppid() if worker else os.getpid())}{worker.get('testrunuid', '')}-cases"
        self.cases = Cases(self.store.root / run, worker.get("workerid", ""))
        self.outcomes = Outcomes(attribute, self.cases)

    def pipeline(self, folder: Path) -> Pipeline:
        """Return the pipeline of the suite that ``folder`` belongs to.

        Raises:
            SuiteError: there is no suite, or it is not valid.
        """
        root = self.config.rootpath
        file = suite.find(folder, root)
        if file is None:
            raise SuiteError(f"{folder}: no {suite.FILE} here or in a folder above, up to {root}; write one")
        if file not in self.pipelines:
            self.pipelines[file] = self._open(file, root)
        return self.pipelines[file]

    def check(self, pipeline: Pipeline) -> None:
        """Find what is wrong with a suite, its rows apart.

        Raises:
            SuiteError: an unknown metric or engine; what an engine or a task of lm-eval takes is not installed; a task
                with a broken file.
        """
        spec = pipeline.spec
        if spec.engine.name == "vllm" and importlib.util.find_spec("vllm") is None:
            raise SuiteError(f"{spec.file}: engine vllm is not installed; pip install 'pytest-finetune[vllm]'")
        several = self.options.seeds > 1 or self.options.measure or spec.ladder
        if spec.engine.adapter and (several or spec.checks[suspects.CHECK].on_issue != "off"):
            raise SuiteError(
                f"{spec.file}: [engine] adapter = {spec.engine.adapter!r}: is one, and several are trained; remove it, "
                "so that the server loads each under its digest"
            )
        for metric in (spec.gate.metric, *(general.metric for general in spec.general if general.data)):
            try:
                pipeline.metric(metric)
            except SuiteError as error:
                raise SuiteError(f"{spec.file}: {error}") from error
        harness.check(spec)

    def check_rows(self, pipeline: Pipeline) -> bool:
        """Find rows that cannot be read, and suites too small to pass, before anything runs.

        Returns:
            Whether rows were read: this touches no network.

        Raises:
            SuiteError: naming the file and line.
        """
        local = data.is_local(pipeline.spec.sources)
        if local:
            pipeline.check_claims()
        return local

    def lacks(self, pipeline: Pipeline) -> str:
        """Return what this machine lacks of the suite's ``requires``, or nothing; touches no network."""
        spec = pipeline.spec
        if self.options.recompute:  # which asks no model
            return ""
        if "gpu" in spec.requires and self.options.device == "cpu":
            return f"a GPU (this run's device is cpu; this machine has {device.gpu_count()} GPUs)"
        if "hub" in spec.requires and not hub.reachable(spec.model, spec.revision):
            return f"the hub (HF_HUB_OFFLINE is set, and {spec.model} is not in the local cache)"
        return ""

    def prepare(self, selected: Mapping[Path, Sequence[Collection[str]]]) -> None:
        """Start the engine ahead of the first test, unless these suites were settled before as they are.

        Args:
            selected: by suite, the fixtures of each test that will run, from which is foreseen what they ask.
        """
        pipelines = {file: self.pipelines[file] for file in selected}
        self.workplace.rows.foresee += [Foresight(p, selected[file]) for file, p in pipelines.items()]
        if self.options.recompute:
            return
        if self.options.retrain or not all(self.store.has("settled", self._fingerprint(p)) for p in pipelines.values()):
            for spec in {p.spec.engine: p.spec for p in pipelines.values()}.values():
                self.engine(spec)

    def engine(self, suite: SuiteSpec) -> Engine:
        """Return the engine of a suite, started if it is not.

        Raises:
            EngineError: this run only judges anew what was stored.
        """
        if self.options.recompute:
            raise EngineError(
                f"--finetune-recompute: {self.options.store} lacks what {suite.name} needs: it is of other rows, "
                "settings or code than stand here, or parts of it were lost; make it again from this very commit"
            )
        if self.filled:
            raise EngineError(f"--finetune-executor={self.options.executor}: {self.filled}")
        self._busy_suite = suite.name
        engine = self._engines.get(suite.engine)
        if engine is None or engine.closed:
            engine = self._engines[suite.engine] = EngineProcess(
                self.options.device, self._on_progress, suite.engine, self.options.launcher, self._bounds()
            )
        return engine

    def _bounds(self) -> Bounds:
        """Return what an engine may see and take: the hub's token, where a suite of this run takes anything of it."""
        specs = [pipeline.spec for pipeline in self.pipelines.values()]
        of_hub = any(suite.model_folder(s.model, s.folder) is None or any(g.task for g in s.general) for s in specs)
        bounds = self.options.bounds
        return replace(bounds, passed=bounds.passed + environment.OF_HUB) if of_hub else bounds

    def decided(self, pipeline: Pipeline, verdict: Verdict) -> None:
        """Tell plugins of a verdict."""
        self.config.hook.pytest_finetune_verdict(config=self.config, suite=pipeline.spec.name, verdict=verdict)

    def record(self, exit_code: int = 0) -> RunRecord:
        """Return all that this run learned, xdist workers' part included.

        Args:
            exit_code: pytest's own.
        """
        suites: dict[str, SuiteRecord] = {}
        for found in [*self.from_workers, *(p.record() for p in self.pipelines.values())]:
            suites[found.file] = _merge(suites[found.file], found) if found.file in suites else found
        run = RunRecord(
            version=str(pytest_finetune.__version__),
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._clock, 3),
            libraries=digest.versions(*LIBRARIES),
            suites=tuple(suites.values()),
            outcome=self.outcomes.outcome(exit_code),
            tests=self.outcomes.tests,
            policy=self.policy,
            policy_accepted=self.options.accept_policy_change,
        )
        return from_plain(RunRecord, redacted(to_plain(run))) if redaction.pattern() else run

    def hush(self) -> str:
        """Return what keeps GitHub's runner from taking what tests print for commands; nothing elsewhere."""
        if not github.is_runner() or hasattr(self.config, "workerinput"):
            return ""
        stop, self.resume = github.hushed()
        return stop

    def compare_policy(self) -> None:
        """Find how the suites' policy differs from the base branch's, where that is asked for.

        Raises:
            SuiteError: it cannot be compared.
        """
        if self.options.policy_ref is not None:
            self.differs(policy.changes(self.config.rootpath, sorted(self.pipelines), self.options.policy_ref))

    def differs(self, changes: Sequence[PolicyChange]) -> None:
        """Add changes of the policy; one that lowers it and was not accepted keeps the run from passing."""
        self.policy = tuple(dict.fromkeys((*self.policy, *changes)))
        lowered = any(change.lowers for change in self.policy)
        self.outcomes.lowered = lowered and not self.options.accept_policy_change

    def policy_of(self, pipeline: Pipeline) -> list[PolicyChange]:
        """Return the changes that bear on a suite: its own, and those of no suite that is still there."""
        others = {other.spec.name for other in self.pipelines.values()} - {pipeline.spec.name}
        return [change for change in self.policy if change.suite not in others]

    def add_worker(self, run: Any) -> None:
        """Add what an xdist worker learned (a run as plain data, and the entries of the store that it used)."""
        record = from_plain(RunRecord, run["run"])
        self.from_workers += record.suites
        self.differs(record.policy)
        self.store.used.update((stage, key) for stage, key in run["used"])

    def finish(self, exit_code: int) -> None:
        """Hand the run to its readers: an xdist controller, the report's file, other plugins.

        Raises:
            FinetuneError: a file cannot be written.
        """
        self.finished = run = self.record(exit_code)
        with suppress(EngineError):  # a full disk must not cost the report
            self._settle()
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["finetune"] = {"run": to_plain(run), "used": sorted(self.store.used)}
            return
        if self._passing:
            warn(f"store {self.options.store}: cannot be written; what this run made, and its attempts, are not kept")
        for told in self.store.root.glob(f"{work_name(os.getpid())}*-cases"):
            shutil.rmtree(told, ignore_errors=True)
        if self.options.report:
            run_json.write(run, self.options.report)
        if self.options.html:
            report_file.write(self.options.html, html.page(run), "--finetune-html")
        if self.options.evidence:
            evidence.write(self.options.evidence, self.store, self.store.used, self._made(), run)
        if self.options.markdown:
            report_file.write(self.options.markdown, markdown.text(run), "--finetune-markdown")
        if self.resume:
            self.annotations = github.publish(run, self.config.rootpath)
        self.config.hook.pytest_finetune_report(config=self.config, run=run)

    def _made(self) -> evidence.Made:
        asked = {"lm_eval" for pipeline in self.pipelines.values() for general in pipeline.spec.general if general.task}
        libraries, options = digest.versions(*LIBRARIES, "accelerate", *asked), self.options
        return evidence.Made(options.device, options.memory_bytes, libraries, digest.of_package(), options.changing)

    def _settle(self) -> None:
        """Keep what stages went by, and remember which suites, as they are, need no engine the next time."""
        for pipeline in self.pipelines.values():
            pipeline.stages.keep()
            if pipeline.verdicts:
                if pipeline.checked and pipeline.checked.key:
                    curate.keep(self.store, pipeline.checked)
                self.store.json("settled", self._fingerprint(pipeline), lambda: True)

    def close(self) -> None:
        """End the engines."""
        while self._engines:
            self._engines.popitem()[1].close()
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        if self._passing is not None:
            self._passing.cleanup()

    def _store(self, given: str) -> Store:
        """Open the store; one that cannot be written is read through one that goes with this run.

        Args:
            given: the folder of the store that an xdist controller opened.
        """
        root, base = self.options.store, self.options.store_from
        remotes = [Remote(self.options.remote)] if self.options.remote else []
        if base:
            remotes.insert(0, Remote(base, "--finetune-store-from", takes=False))
        if not given and not is_writable(root):
            self._passing = tempfile.TemporaryDirectory(prefix="pytest-finetune-")
            given = str(Path(self._passing.name, "store"))
            borrow(root, Path(given))
        if given and given != str(root):
            remotes.insert(0, Remote(f"{FILE}{root}", "--finetune-store", takes=False))
        before = Ledger(Path(base.removeprefix(FILE))) if base.startswith(FILE) else None  # no bucket has one
        return Store(Path(given or root), *remotes, before=before)

    def _open(self, file: Path, root: Path) -> Pipeline:
        spec = suite.load(file, root).with_training(self.options.method, self.options.seed)
        spec = replace(spec, engine=chosen(self.options.engine, spec.engine))
        if self.options.plan:  # which must not train
            spec = replace(spec, checks={**spec.checks, suspects.CHECK: Check("off")})
        return Pipeline(spec, self.workplace)

    def _fingerprint(self, pipeline: Pipeline) -> str:
        """A cheap guess at "nothing changed"; a wrong guess only costs the engine's head start."""
        spec = pipeline.spec
        files = sorted({Path(s) for s in spec.sources if Path(s).is_file()}) + sorted(spec.folder.glob("*.py"))
        options = [self.options.device, str(self.options.adapter), self.options.early_stop, self.options.seeds]
        asks = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name not in ("gate", "checks", "file")}
        return digest.of(
            [
                [to_plain(asks), spec.gate.metric, spec.gate.target],
                {name: check.settings for name, check in spec.checks.items() if check.on_issue == "drop"},
                spec.checks[suspects.CHECK].on_issue != "off" and spec.checks[suspects.CHECK].settings,
                [str(spec.file), [digest.of_file(f) for f in files], options],
                [digest.versions(*LIBRARIES), digest.of_code(*tuning.CODE), spec.engine.code],
            ]
        )

    def _on_progress(self, progress: Progress) -> None:
        self.progress.show(self._busy_suite, progress)


def _interrupt_at_sigterm() -> Any:
    """Let SIGTERM end the run as Ctrl-C does, with a report and a checkpoint; return the handler before, if it was set.

    A cancelled CI job, a preempted machine: without this Python would die at once.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)


def _merge(one: SuiteRecord, other: SuiteRecord) -> SuiteRecord:
    measured = {(m.subject, m.on, m.metric): m for m in (*one.measurements, *other.measurements)}
    return replace(
        one,
        model_digest=one.model_digest or other.model_digest,
        rows=one.rows or other.rows,
        findings=one.findings or other.findings,
        baseline=one.baseline or other.baseline,
        adapter=one.adapter or other.adapter,
        measurements=tuple(measured.values()),
        verdicts=one.verdicts + other.verdicts,
        texts={**one.texts, **other.texts},
        stages={**one.stages, **{k: v for k, v in other.stages.items() if v.startswith(MADE) or k not in one.stages}},
    )
