"""The engine under faults and hostile models: memory that is short, a lost GPU, what hangs, and what takes too much."""

import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapters
import pytest

from pytest_finetune import digest
from pytest_finetune.engine.client import Bounds, EngineProcess
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.protocol import Progress, Turns
from pytest_finetune.records import (
    Adapter,
    Conversation,
    Generation,
    Message,
    Model,
    Training,
    TrainingCurve,
    TrainSpec,
)
from pytest_finetune.tuning import SHIPPED

EMBEDDED = digest.PACKAGE / "embedded"
MODEL = Model("embedded", "", str(EMBEDDED))
HELLO: tuple[Turns, ...] = ((Message("user", "hello"),),)
# In the engine's own process: its model meets what a GPU would say.
MEETS = """
import torch
from transformers import LlamaForCausalLM

def forward(*args, **kwargs):
    raise {error}

LlamaForCausalLM.forward = forward
"""


def spec(**settings: object) -> TrainSpec:
    """Return a run of a few steps."""
    rows = tuple(Conversation((Message("user", f"say {i}"),), f"{'ox'[i % 2]} {i % 7}") for i in range(24))
    training = replace(Training(epochs=2, batch_size=4, seed=3), **settings)  # type: ignore[arg-type]
    return TrainSpec(MODEL, training, rows, rows[:8])


def train(spec: TrainSpec, folder: Path, micro: int = 0) -> TrainingCurve:
    """Train in this process, so that a test can do to the model what it likes."""
    import torch

    from pytest_finetune.engine.train import train as trained

    folder.mkdir()
    return trained(spec, folder, folder / "work", torch.device("cpu"), lambda progress: None, micro)


@contextlib.contextmanager
def opened(bounds: Bounds = Bounds()) -> Iterator[EngineProcess]:  # noqa: B008  # it is frozen
    """Lend an engine's process of its own."""
    with contextlib.closing(EngineProcess("cpu", lambda progress: None, bounds=bounds)) as engine:
        yield engine


class Short:
    """A model's forward pass for which memory is short past so many tokens, from a step on; which tells what it saw."""

    def __init__(self, forward: Any, most: int, after: int = 0) -> None:
        self.forward, self.most, self.after = forward, most, after
        self.seen: list[int] = []
        self.failed: list[weakref.ref[Any]] = []

    def method(self) -> Callable[..., Any]:
        """Return it as a method of the model's."""

        def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
            return self(model, *args, **kwargs)

        return forward

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        ids = kwargs.get("input_ids")
        if torch.is_grad_enabled() and ids is not None:
            self.seen.append(ids.numel())
            if len(self.seen) > self.after and ids.numel() > self.most:
                self.failed.append(weakref.ref(model))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.forward(model, *args, **kwargs)


@pytest.mark.slow
@pytest.mark.fault(14)
def test_checkpoints_that_are_there_need_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped goes on where there is room for what it has yet to write, and not for all of it again."""
    import torch

    from pytest_finetune.engine import train as training

    run = training._Run(spec(), tmp_path, torch.device("cpu"), None, [], [], tmp_path / "kept")
    model = torch.nn.Linear(1000, 100, bias=False)  # 400,000 bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 2_000_000))
    with pytest.raises(EngineError, match=r"4,000,000 bytes are needed, and 2,000,000 are free"):
        training._check_room(run, model)
    for step in ("10", "20"):
        (run.work / f"checkpoint-{step}").mkdir(parents=True)
        (run.work / f"checkpoint-{step}" / "optimizer.pt").write_bytes(bytes(1_200_000))
    training._check_room(run, model)


@pytest.mark.slow
@pytest.mark.fault(16)
def test_memory_is_short_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is short amid training halves what is computed at once and nothing else: losses are those of whole
    batches, the adapter to the byte that of a run which began so, and of the failed attempt no weight is left.
    """
    from transformers import LlamaForCausalLM

    from pytest_finetune.engine import models
    from pytest_finetune.engine import train as training

    whole = train(spec(), tmp_path / "whole")
    forward = LlamaForCausalLM.forward
    halves = Short(forward, 1 << 30)
    monkeypatch.setattr(LlamaForCausalLM, "forward", halves.method())
    train(spec(), tmp_path / "halves", micro=2)
    gc.disable()  # which would now and then hide what is not let go of
    kept: list[bool] = []
    load = models.load_base

    def counted(*args: Any) -> Any:
        kept.extend(failed() is not None for failed in short.failed)
        return load(*args)

    monkeypatch.setattr(training, "load_base", counted)
    short = Short(forward, max(halves.seen), after=7)
    monkeypatch.setattr(LlamaForCausalLM, "forward", short.method())
    try:
        curve = train(spec(), tmp_path / "short")
    finally:
        gc.enable()
    assert kept == [False]  # of one that failed, when the next one is loaded
    assert digest.of_files(tmp_path / "short", SHIPPED) == digest.of_files(tmp_path / "halves", SHIPPED)
    assert [step for step, _ in curve.dev_loss_nats] == [step for step, _ in whole.dev_loss_nats]
    losses = [[loss for _, loss in one.dev_loss_nats + one.train_loss_nats] for one in (curve, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    nothing = Short(forward, 0)
    monkeypatch.setattr(LlamaForCausalLM, "forward", nothing.method())
    with pytest.raises(EngineError, match="out of memory in training on one row; try --finetune-method=qlora"):
        train(spec(), tmp_path / "nothing")
    assert len(nothing.failed) == 3  # of four rows, of two, of one


@pytest.mark.slow
@pytest.mark.fault(17)
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="takes memory from a running process, as Linux can")
def test_memory_is_short_in_generation() -> None:
    """An engine that has too little memory for a batch splits it, and answers all, in their order."""
    days = [f"{day} {month} {year}" for day in range(1, 11) for month in ("May", "July") for year in range(1990, 2020)]
    prompts = tuple((Message("user", f"{day}: write {day} as ISO date"),) for day in days)
    told: list[Progress] = []
    with contextlib.closing(EngineProcess("cpu", told.append)) as engine:
        answers = engine.generate(MODEL, None, prompts, Generation(14, batch_size=30))
        status = Path(f"/proc/{engine.pid}/status").read_text()
        held = int(next(line for line in status.splitlines() if line.startswith("VmData")).split()[1]) * 1024
        resource.prlimit(engine.pid, resource.RLIMIT_DATA, (held + (8 << 20), resource.RLIM_INFINITY))
        told.clear()
        again = engine.generate(MODEL, None, prompts, Generation(14, batch_size=len(prompts)))
    assert told[0].done < len(prompts)  # of one part: no eight of them begin alike
    assert again.texts == answers.texts
    assert len({*again.texts}) > 50


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "error",
    [
        "torch.AcceleratorError('CUDA error: device-side assert triggered')",
        "RuntimeError('CUDA error: all CUDA-capable devices are busy or unavailable')",
        "RuntimeError('No CUDA GPUs are available')",
    ],
)
def test_lost_gpu(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is lost amid a request is a fault of the machinery that says so, in one line; no mistake of a user's,
    whose model runs no tokens alone because of it.
    """
    (tmp_path / "sitecustomize.py").write_text(MEETS.format(error=error))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with opened() as engine, pytest.raises(EngineError, match=r"^the GPU was lost, or failed\. .*CUDA[^\n]*$"):
        engine.generate(MODEL, None, HELLO, Generation(4))


@pytest.mark.fault(21)
@pytest.mark.parametrize("name", ["AcceleratorError", "OutOfMemoryError"])
def test_lost_gpu_is_no_adapters_fault(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is lost, or full, while an adapter is loaded is not blamed on the adapter."""
    import peft
    import torch

    from pytest_finetune.engine import models

    def load(*args: object, **kwargs: object) -> None:
        raise getattr(torch, name)("CUDA error: unspecified launch failure")

    sound = Adapter(str(tmp_path / "lora"), adapters.lora(tmp_path / "lora", 0), "lora")
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", load)
    with pytest.raises(EngineError, match=r"^(the GPU was lost|out of memory)"):
        models.attach(None, sound, torch.device("cpu"))


@pytest.mark.fault(20)
def test_hung_engine_is_ended() -> None:
    """An engine that stands still amid a request is ended, with the request's name, how long it was waited for and what
    to do; so does every later request say, at once.
    """
    with opened() as engine:
        engine.lengths(MODEL, HELLO)  # imports are behind it
        engine.bounds = Bounds(silent_seconds=2)
        os.kill(engine.pid, signal.SIGSTOP)
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(EngineError, match=r"no sign of life for 2 s in 'generate'.*--finetune-engine-timeout"):
                engine.generate(MODEL, None, HELLO, Generation(4))
        assert 2 <= time.monotonic() - started < 20
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)
        assert not engine.closed


@pytest.mark.fault(20)
def test_long_calls_give_signs_of_life(tmp_path: Path) -> None:
    """Training says at each step that it goes on, so that a long run is not taken for one that hangs."""
    import torch

    from pytest_finetune.engine.train import train as trained

    told: list[Progress] = []
    (tmp_path / "made").mkdir()
    one = spec(epochs=1, evaluations_per_epoch=1)
    one = replace(one, train=one.train * 4)  # of which every sixth loss is told
    trained(one, tmp_path / "made", tmp_path / "work", torch.device("cpu"), told.append)
    assert {progress.done for progress in told if progress.stage == "train"} == set(range(1, 25))
    assert "dev loss" in {progress.stage for progress in told}


@pytest.mark.fault(19)
def test_loss_that_is_not_finite_stops_at_once(tmp_path: Path) -> None:
    """It stops at the very step, and not where losses are said next."""
    few = spec(epochs=40, evaluations_per_epoch=1, learning_rate=1e6, warmup_share=0.0)
    few = replace(few, train=few.train * 20)
    with pytest.raises(
        EngineError, match=r"^loss is (nan|inf) at step [2-9] of 4800; lower \[training\] learning_rate"
    ):
        train(few, tmp_path / "made")


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOLDS = "{% set n = messages | length + 8 %}{{ n ** (n ** n) }}"  # in one step of Python's, which nothing interrupts
GROWS = "{% set n = messages | length %}{{ 'x' * (n * 10 ** 11) }}"
DOUBLES = "{% set s = namespace(x='xx') %}{% for a in range(60) %}{% set s.x = s.x + s.x %}{% endfor %}{{ s.x }}"


@pytest.mark.attack(12)
@pytest.mark.parametrize(
    ("template", "cap"),
    [
        pytest.param(LOOPS, "10 s", marks=pytest.mark.slow),
        pytest.param(HOLDS, "10 s", marks=pytest.mark.slow),
        (GROWS, "2 GiB"),
        (DOUBLES, "2 GiB"),
    ],
    ids=["loops", "holds", "grows", "doubles"],
)
def test_hostile_chat_template(template: str, cap: str, tmp_path: Path) -> None:
    """A chat template that never ends, or takes all memory, ends at a cap, in one line that names its file."""
    model = hostile(tmp_path)
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with opened() as engine, pytest.raises(SuiteError) as error:
        engine.generate(model, None, HELLO, Generation(4))
    file = tmp_path / "model" / "chat_template.jinja"
    assert str(error.value).startswith(f"{file}: the chat template, or the tokenizer beside it, took more than {cap}")
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@pytest.mark.attack(12)
def test_hostile_tokenizer(tmp_path: Path) -> None:
    """A regular expression of the tokenizer's that never ends is given up by its library, and is one line, too."""
    model = hostile(tmp_path)
    file = tmp_path / "model" / "tokenizer.json"
    said = json.loads(file.read_text())
    said["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a|a|b?)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    file.write_text(json.dumps(said))
    with (
        opened() as engine,
        pytest.raises(
            SuiteError, match=r"chat_template\.jinja: .*tokenizer beside it, failed on a prompt: PanicException[^\n]*$"
        ),
    ):
        engine.lengths(model, ((Message("user", "a" * 60 + "c"),),))


@pytest.mark.attack(12)
def test_broken_chat_template(tmp_path: Path) -> None:
    """A template that fails on a prompt is one line with its file, and the engine goes on."""
    model = hostile(tmp_path)
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    with opened() as engine:
        with pytest.raises(
            SuiteError, match=r"chat_template\.jinja: .* failed on a prompt: TemplateError: no such role$"
        ):
            engine.lengths(model, HELLO)
        assert engine.lengths(MODEL, HELLO).tokens[0] > 1


def hostile(tmp_path: Path) -> Model:
    """Return a copy of the embedded model, whose files a test may change."""
    shutil.copytree(EMBEDDED, tmp_path / "model")
    return Model("hostile", "", str(tmp_path / "model"))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="reads a process's limits, as Linux can")
def test_memory_of_the_engine_is_bounded() -> None:
    """An engine may take the memory that it was given and no more, and what is too large for that is a fault."""
    with opened(Bounds(memory_bytes=3 << 30)) as engine:
        assert engine.lengths(MODEL, HELLO).tokens[0] > 1
        assert resource.prlimit(engine.pid, resource.RLIMIT_DATA)[0] == 3 << 30
