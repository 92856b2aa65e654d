"""The options of a run: the command line and its ini twins, validated before anything starts."""

import importlib.util
import os
import shlex
import shutil
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_finetune import device, engines, environment, evidence, policy
from pytest_finetune.engine.client import UNBOUND, Bounds
from pytest_finetune.errors import SuiteError, named_choice
from pytest_finetune.memory import GIB
from pytest_finetune.methods import CHOICES
from pytest_finetune.remote import FILE
from pytest_finetune.report import file as report_file

TRACKERS = ("tensorboard", "mlflow", "wandb")  # as Trainer's report_to names them
SEEDS = range(3, 21)  # two tell nothing of the spread among seeds, and more than twenty little more
ACCEPT, TRUST = "--finetune-accept-policy-change", "--finetune-trust-remote-code"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line and its ini twins, validated."""

    device: str
    store: Path
    method: str | None = None
    seed: int | None = None
    report: Path | None = None
    html: Path | None = None
    markdown: Path | None = None
    adapter: Path | None = None
    retrain: bool = False
    plan: bool = False
    trackers: tuple[str, ...] = ()
    memory_bytes: int = 0
    early_stop: bool = True
    seeds: int = 1
    evidence: Path | None = None
    recompute: bool = False
    matrix: Path | None = None
    policy_ref: str | None = None
    accept_policy_change: bool = False
    shadow: Path | None = None
    engine: str = ""
    methods: tuple[str, ...] = ()
    cells: Path | None = None
    measure: int | None = None
    executor: str = ""
    passed: tuple[str, ...] = ()
    launcher: str = ""
    remote: str = ""
    store_from: str = ""
    trust_remote_code: bool = False
    bounds: Bounds = UNBOUND

    @property
    def changing(self) -> dict[str, str]:
        """The options that change what is made, as text."""
        return {
            "method": self.method or "",
            "seed": str(self.seed or ""),
            "seeds": str(self.seeds),
            "engine": self.engine,
        }


def read(config: pytest.Config) -> Options:
    """Read the options of a run.

    Raises:
        SuiteError: naming the option, the bad value and the remedy.
    """
    given = _Given(config)
    store, recompute = given.store(), given.flag("recompute")
    made = evidence.read(store) if recompute else None
    chosen = made.device if made else device.choose(given.text("device") or "auto")
    seeds, adapter = given.seeds(), given.adapter()
    if adapter and seeds > 1:
        raise SuiteError(
            f"--finetune-seeds={seeds}: --finetune-adapter is one adapter and no recipe; leave one of them out"
        )
    options = Options(
        device=chosen,
        store=store,
        method=given.method(),
        methods=given.methods(),
        seed=given.seed(),
        report=given.written("report"),
        html=given.written("html"),
        markdown=given.written("markdown"),
        adapter=adapter,
        retrain=given.flag("retrain"),
        plan=given.flag("plan"),
        trackers=given.trackers(),
        memory_bytes=made.memory_bytes if made else given.memory_bytes(chosen),
        early_stop=not given.flag("no_early_stop"),
        seeds=seeds,
        evidence=given.evidence(),
        recompute=recompute,
        matrix=given.path("matrix"),
        policy_ref=given.policy_ref(),
        accept_policy_change=given.by_hand(ACCEPT),
        shadow=given.shadow(),
        engine=given.engine(),
        cells=given.path("cells"),
        measure=given.measure(),
        executor=given.executor(),
        passed=given.passed(),
        launcher=given.launcher(),
        bounds=given.bounds(),
        # A plan makes nothing, and who judges anew goes by the evidence alone, whatever the ini file says.
        remote="" if recompute or given.flag("plan") else given.remote(),
        store_from="" if recompute or given.flag("plan") else given.store_from(),
        trust_remote_code=given.by_hand(TRUST),
    )
    if made and made.options != options.changing:
        differ = ", ".join(f"--finetune-{name}={said or 'not given'}" for name, said in made.options.items())
        raise SuiteError(f"--finetune-recompute: {store} was made with {differ}; give the same")
    return options


@dataclass(frozen=True)
class _Given:
    """What was given, one method an option that can be wrong."""

    config: pytest.Config

    def flag(self, name: str) -> bool:
        return bool(self.config.getoption(f"finetune_{name}"))

    def text(self, name: str) -> str:
        """Return the option's value, or its ini twin's where it has one; empty where neither is given."""
        given: Any = self.config.getoption(f"finetune_{name}")
        if given is None:
            with suppress(ValueError):  # it has no twin
                given = self.config.getini(f"finetune_{name}")
        return str(given or "")

    def path(self, name: str) -> Path | None:
        given = self.text(name)
        return self.config.invocation_params.dir / given if given else None

    def written(self, name: str) -> Path | None:
        path = self.path(name)
        return report_file.check(path, f"--finetune-{name}") if path else None

    def store(self) -> Path:
        return self._folder("store", self.text("store") or ".finetune")

    def store_from(self) -> str:
        """Return the address of the store that is only read."""
        given = self.text("store_from")
        if not given or "://" in given:
            return given
        folder = self._folder("store-from", given)
        if folder.resolve() == self.store().resolve():
            raise SuiteError(
                f"--finetune-store-from={given}: is the run's own store; name another with --finetune-store"
            )
        return f"{FILE}{folder}"

    def _folder(self, option: str, name: str) -> Path:
        folder = self.config.rootpath / name
        if folder.is_file():
            raise SuiteError(f"--finetune-{option}={folder}: a file stands there; name a folder")
        return folder

    def method(self) -> str | None:
        methods = self.methods()
        if len(methods) > 1 and not self.path("cells"):
            raise SuiteError(
                f"--finetune-method={','.join(methods)}: one run judges one method; plan cells of several with "
                "--finetune-plan --finetune-cells=DIR"
            )
        return methods[0] if len(methods) == 1 else None

    def methods(self) -> tuple[str, ...]:
        methods = tuple(filter(None, self.text("method").split(",")))
        for method in methods:
            if method not in CHOICES:
                raise SuiteError(f"--finetune-method: {named_choice(method, CHOICES)}")
        return methods

    def measure(self) -> int | None:
        part = self.text("measure")
        if part and not part.isdigit():
            raise SuiteError(f"--finetune-measure={part}: write which seed of the recipe, a whole number from 0")
        return int(part) if part else None

    def executor(self) -> str:
        name = self.text("executor")
        kind, colon, rest = name.partition(":")
        fine = not name or name == "ray" or name.startswith("ray://")
        if not fine and not (kind == "local" and (not colon or (rest.isdigit() and int(rest) > 0))):
            raise SuiteError(f"--finetune-executor={name}: write local:N (cells at once here), ray, or ray://HOST:PORT")
        if name and self.path("adapter"):
            raise SuiteError(f"--finetune-executor={name}: --finetune-adapter is made already; leave one of them out")
        return name

    def passed(self) -> tuple[str, ...]:
        """Return what cells must be run with, too: it changes how they are made, and not what they are."""
        engines_own = ("engine_env", "engine_timeout", "engine_memory_gib")
        names = ("device", "memory_gib", "track", "launcher", "remote", *engines_own)
        said = {name.replace("_", "-"): self.text(name) for name in names} | {"store-from": self.store_from()}
        given = [f"--finetune-{name}={value}" for name, value in said.items() if value]
        return (*given, *([TRUST] if self.by_hand(TRUST) else []))

    def seed(self) -> int | None:
        seed = self.text("seed")
        if seed and not seed.isdigit():
            raise SuiteError(f"--finetune-seed={seed}: write a whole number from 0")
        return int(seed) if seed else None

    def seeds(self) -> int:
        seeds = self.text("seeds") or "1"
        if not seeds.isdigit() or int(seeds) not in (1, *SEEDS):
            raise SuiteError(
                f"--finetune-seeds={seeds}: write a whole number from {SEEDS[0]} to {SEEDS[-1]}, or 1 for none"
            )
        return int(seeds)

    def adapter(self) -> Path | None:
        adapter = self.path("adapter")
        if adapter and not adapter.is_dir():
            raise SuiteError(f"--finetune-adapter={self.text('adapter')}: no such folder")
        return adapter.resolve() if adapter else None

    def trackers(self) -> tuple[str, ...]:
        trackers = tuple(filter(None, self.text("track").split(",")))
        for tracker in trackers:
            if tracker not in TRACKERS:
                raise SuiteError(f"--finetune-track: {named_choice(tracker, TRACKERS)}")
            if importlib.util.find_spec(tracker) is None:
                raise SuiteError(f"--finetune-track={tracker}: it is not installed; pip install {tracker}")
        return trackers

    def memory_bytes(self, chosen: str) -> int:
        gib = self.number("memory_gib", "of GiB above 0")
        return int(gib * GIB) if gib else device.memory_bytes(chosen)

    def bounds(self) -> Bounds:
        """Return what the engine's process may see and take."""
        passed = (
            *filter(None, self.text("engine_env").replace(" ", "").split(",")),
            *(environment.OF_TRACKERS[name] for name in self.trackers() if name in environment.OF_TRACKERS),
        )
        seconds = self.number("engine_timeout", "of seconds from 0", 0.0)
        silent = UNBOUND.silent_seconds if seconds is None else seconds
        return Bounds(passed, silent, int((self.number("engine_memory_gib", "of GiB above 0") or 0) * GIB))

    def number(self, name: str, kind: str, least: float = sys.float_info.min) -> float | None:
        """Return the number that an option is, no less than one; None where it is not given."""
        given = self.text(name)
        try:
            if not given or least <= float(given) < threading.TIMEOUT_MAX:
                return float(given) if given else None
        except ValueError:
            pass
        raise SuiteError(f"--finetune-{name.replace('_', '-')}={given}: write a number {kind}")

    def evidence(self) -> Path | None:
        folder = self.path("evidence")
        if folder:
            evidence.check_free(folder)
        return folder

    def shadow(self) -> Path | None:
        spool = self.path("shadow")
        if spool and not spool.is_file():
            raise SuiteError(f"--finetune-shadow={spool}: no spool there; `pytest-finetune shadow` makes one")
        return spool

    def engine(self) -> str:
        engine = self.text("engine")
        if engine != "endpoint":  # which one, the suite says
            engines.chosen(engine, engines.LOCAL)
        return engine

    def launcher(self) -> str:
        """Return the command; it is no part of what names an adapter, since it changes a sum's order at most."""
        launcher = self.text("launcher")
        if not launcher:
            return ""
        try:
            words = shlex.split(launcher)
        except ValueError as error:
            raise SuiteError(f"--finetune-launcher={launcher}: {error}; write it as in a shell") from None
        if not words:
            raise SuiteError(f"--finetune-launcher={launcher!r}: no command; write one, as torchrun --nproc-per-node 2")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        if not shutil.which(words[0], path=path):
            raise SuiteError(f"--finetune-launcher={launcher}: no program {words[0]!r}; install it, or write its path")
        return launcher

    def remote(self) -> str:
        url = self.text("remote")
        if url and "://" not in url:
            raise SuiteError(f"--finetune-remote={url}: is no address; write s3://bucket/prefix, or file:///folder")
        return url

    def policy_ref(self) -> str | None:
        ref: str | None = self.config.getoption("finetune_policy_ref")
        if ref is not None:
            policy.check(self.config.rootpath, ref)
        return ref

    def by_hand(self, option: str) -> bool:
        """Return whether a flag is given that only whoever starts the run may give."""
        given = self.flag(option.removeprefix("--finetune-").replace("-", "_"))
        if given and option not in self.config.invocation_params.args:
            raise SuiteError(f"{option}: give it on the command line; a pull request can edit addopts")
        return given
