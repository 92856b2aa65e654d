"""Training: `transformers.Trainer` over any of the methods, judged on the dev split."""

import importlib.util
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers.trainer_utils import EvalLoopOutput

from pytest_finetune import disk
from pytest_finetune.engine import checkpoints, ranks
from pytest_finetune.engine.adapters import prepare, ship, virtual_tokens
from pytest_finetune.engine.batches import alike
from pytest_finetune.engine.generate import generate
from pytest_finetune.engine.mishaps import is_short
from pytest_finetune.engine.models import Loaded, context_tokens, load_base, load_tokenizer
from pytest_finetune.engine.peak import Peak
from pytest_finetune.engine.template import training_tokens
from pytest_finetune.engine.tree import collate
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.methods import METHODS
from pytest_finetune.protocol import OnProgress, Progress
from pytest_finetune.records import TrainingCurve, TrainSpec

TENSORBOARD = "tensorboard"
KEPT_CHECKPOINTS = 2
Pair = tuple[list[int], list[int]]


class Smaller(Exception):
    """Memory was short in one of several processes: all are to start anew, with fewer rows at once."""

    def __init__(self, micro: int) -> None:
        self.micro = micro


@dataclass(frozen=True)
class _Run:
    """What one training run works on; pairs are token ids of prompt and completion."""

    spec: TrainSpec
    folder: Path
    device: torch.device
    tokenizer: Any
    train: list[Pair]
    dev: list[Pair]
    work: Path  # of checkpoints

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.spec.training.batch_size)

    @property
    def tokens_per_step(self) -> float:
        return sum(len(p) + len(c) for p, c in self.train) / self.steps_per_epoch

    @property
    def evaluate_every(self) -> int:
        return max(1, self.steps_per_epoch // self.spec.training.evaluations_per_epoch)


def train(
    spec: TrainSpec, folder: Path, kept: Path, device: torch.device, report: OnProgress, micro: int = 0
) -> TrainingCurve:
    """Train and write what ships into ``folder``; in each of several processes, where a launcher started them.

    Args:
        spec: everything the run depends on.
        folder: for what ships.
        kept: for checkpoints; a run that was stopped there goes on. It is gone when training has ended.
        device: what to train on.
        report: told how far it has come.
        micro: rows at once in this process; 0 for its share of ``batch_size``.

    Raises:
        SuiteError: a row is longer than ``max_tokens``, or the processes cannot take equal shares of a batch.
        Smaller: memory is short in one of several processes.
        EngineError: the loss is not finite, or one row does not fit in memory.
        SystemExit: SIGTERM asked for a stop; a checkpoint is written.
    """
    tokenizer = load_tokenizer(spec.model)
    pairs = [[training_tokens(tokenizer, c) for c in rows] for rows in (spec.train, spec.dev)]
    limit = spec.training.max_tokens
    for pair, conversation in zip(pairs[0], spec.train, strict=True):
        if sum(map(len, pair)) > limit:
            start = conversation.messages[-1].content[:60]
            raise SuiteError(
                f"training row {start!r} has {sum(map(len, pair))} tokens, more than max_tokens = {limit}. "
                "Raise [training] max_tokens, or drop the row."
            )
    run = _Run(spec, folder, device, tokenizer, pairs[0], pairs[1], kept)
    share = ranks.share(spec.training.batch_size, ranks.count())
    micro = micro or share
    while True:
        try:
            return _train(run, micro, _Curve(run, report))
        except (RuntimeError, MemoryError) as error:
            if not is_short(error):
                raise
            if micro == 1:
                raise EngineError("out of memory in training on one row; try --finetune-method=qlora") from error
            # Fewer rows at once and more accumulation: the effective batch stays the same.
            micro = next(size for size in range(micro - 1, 0, -1) if share % size == 0)
            if ranks.count() > 1:
                raise Smaller(micro) from error
        shutil.rmtree(run.work, ignore_errors=True)  # of another batch size
        torch.cuda.empty_cache()  # after the error, whose frames hold the model


def _train(run: _Run, micro: int, curve: "_Curve") -> TrainingCurve:
    settings = run.spec.training
    transformers.set_seed(settings.seed)
    peak = Peak(run.device)
    arguments = _arguments(run, micro)  # before the model: a plugin of accelerate's may change how it is loaded
    base = load_base(run.spec.model, run.device, settings.method, ranks.placement(run.spec, run.device))
    model = prepare(base, run.spec.model, settings, run.work)
    _check_room(run, model)
    virtual = virtual_tokens(settings)
    loaded = Loaded(model, run.tokenizer, context_tokens(model) - virtual, virtual)
    curve.loaded = loaded
    linear_cost = loaded.linear_cost if _shares(run, loaded) else 0.0
    soft = [loaded.pad] * virtual

    def batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
        pairs = [(soft + prompt, completion) for prompt, completion in (row["pair"] for row in rows)]
        return collate(pairs, [row["weight"] for row in rows], loaded.pad, linear_cost)

    best = settings.checkpoint == "best"
    rows = _Rows(run.train, [c.weight for c in run.spec.train], micro)
    curve.alike = _Alike(rows, settings.batch_size)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=_Rows(run.dev, [1.0] * len(run.dev), arguments.per_device_eval_batch_size),
        data_collator=batch,
        callbacks=[
            curve,
            *([transformers.EarlyStoppingCallback(settings.patience)] if best else []),
            *([_tensorboard(run.spec.tracker_folder)] if TENSORBOARD in run.spec.trackers and ranks.first() else []),
        ],
    )
    # Trainer refuses to keep the optimiser of a model that was sharded while it was loaded: that of sharded weights
    # it would save one rank's part of. Ours is the adapter's, whole on every rank.
    arguments.save_only_model = False
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.alike, trainer.tell = curve.alike, curve.report
    trainer.sharded = ranks.shards(run.spec)
    resumed = _resumed(run.work)
    if resumed:
        curve.resume(resumed)
    peak.restart()
    with checkpoints.stopping() as curve.stopped:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        if trainer.state.global_step < trainer.state.max_steps and ranks.any_of(curve.stopped(), run.device):
            raise SystemExit(128 + signal.SIGTERM)
    seconds = curve.seconds
    if not curve.dev:
        raise EngineError("training ended without a dev loss; the best checkpoint is unknown")
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if ranks.plugged() else trainer.weights
    if ranks.first():
        ship(model, run.spec, run.folder, run.work, weights)
    ranks.wait()
    if ranks.first():
        shutil.rmtree(run.work)
    best_step = min(curve.dev, key=lambda point: point[1])[0]
    return TrainingCurve(
        steps=trainer.state.global_step,
        seconds=seconds,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        peak_bytes=peak.bytes,
        train_loss_nats=tuple(curve.train),
        dev_loss_nats=tuple(curve.dev),
        best_step=best_step,
        shipped_step=best_step if best else trainer.state.global_step,
        steps_per_epoch=run.steps_per_epoch,
        dev_answers=tuple(curve.answers),
    )


def _check_room(run: _Run, model: Any) -> None:
    """Refuse what the disk cannot hold before hours of training: weights, and checkpoints with Adam's moments."""
    shipped = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    need = shipped * (1 + 3 * (KEPT_CHECKPOINTS + 1))  # a new one is written before an old one goes
    need -= disk.size(run.work)  # of a run that was stopped here: what it wrote, this one need not
    if lacks := disk.lacks(run.folder, need):
        raise EngineError(f"{run.folder.parent}, for the adapter and its checkpoints: {lacks}; see --finetune-store")


def _resumed(work: Path) -> Path | None:
    """Return the checkpoint to go on from, the same on every rank; those of another number of ranks are removed."""
    found = checkpoints.latest(work) if ranks.first() else None
    if found and checkpoints.note(found)["ranks"] != ranks.count():
        for checkpoint in work.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        found = None
    return ranks.agreed(found)


def _shares(run: _Run, loaded: Loaded) -> bool:
    """Whether rows that begin alike are computed once: dropout would be drawn once for all of them, too."""
    longest = max(len(prompt) + len(completion) for prompt, completion in run.train + run.dev)
    if longest > loaded.context_tokens:
        raise SuiteError(
            f"a training or dev row has {longest} tokens, more than the model's context of {loaded.context_tokens}; "
            "shorten or drop it"
        )
    config = loaded.network.config.get_text_config().to_dict()
    rates = [value for name, value in config.items() if "drop" in name and isinstance(value, float)]
    rates += [module.p for module in loaded.model.modules() if isinstance(module, torch.nn.Dropout)]
    loaded.model.eval()
    return not any(rates) and loaded.spans(longest + loaded.virtual_tokens)


def _check_finite(loss: float, step: int, steps: int) -> None:
    """Refuse to go on from a loss that is not finite: no later step mends the weights."""
    if not math.isfinite(loss):
        raise EngineError(f"loss is {loss} at step {step} of {steps}; lower [training] learning_rate")


def _tensorboard(folder: str) -> transformers.TrainerCallback:
    """Return a callback that writes where it is told: Trainer's own writes beside checkpoints, which are deleted."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(folder))


def _arguments(run: _Run, micro: int) -> transformers.TrainingArguments:
    settings, on_gpu = run.spec.training, run.device.type == "cuda"
    return transformers.TrainingArguments(
        output_dir=str(run.work),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * ranks.count()),
        per_device_eval_batch_size=max(1, max(settings.batch_size, 32) * micro // settings.batch_size),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate or METHODS[settings.method].learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=math.ceil(settings.warmup_share * run.steps_per_epoch * settings.epochs),
        weight_decay=settings.weight_decay,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        use_cpu=not on_gpu,
        activation_checkpointing=run.spec.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},  # the other kind needs inputs with a gradient
        # Its norms and activations; its loss would compute logits that are not needed.
        use_liger_kernel=on_gpu and importlib.util.find_spec("liger_kernel") is not None,
        liger_kernel_config={"cross_entropy": False, "fused_linear_cross_entropy": False},
        eval_strategy="steps",
        eval_steps=run.evaluate_every,
        save_strategy="steps",
        save_steps=run.evaluate_every,
        save_total_limit=KEPT_CHECKPOINTS,
        save_only_model=ranks.shards(run.spec),  # until Trainer is made, see there
        restore_callback_states_from_checkpoint=True,  # the patience that is left
        load_best_model_at_end=settings.checkpoint == "best",
        metric_for_best_model="eval_loss",
        prediction_loss_only=True,
        logging_steps=max(1, run.evaluate_every // 4),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        report_to=[name for name in run.spec.trackers if name != TENSORBOARD] or "none",
        seed=settings.seed,
    )


class _Trainer(transformers.Trainer):  # type: ignore[misc]  # transformers ships no usable types
    """Trainer whose loss is the cross entropy of completion tokens, each row's by its weight."""

    alike: "_Alike"
    tell: OnProgress
    sharded = False

    def _get_train_sampler(self, train_dataset: Any = None) -> "torch.utils.data.Sampler[int]":
        return self.alike

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        """Begin alike; Trainer's own averages each gradient amid the backward pass, on which ranks can wait forever."""
        with torch.no_grad():
            ranks.average([weight for weight in model.parameters() if weight.requires_grad])

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss; the gradients of an adapter on a sharded model, which nobody wraps, are averaged here."""
        loss = super().training_step(model, *args, **kwargs)
        _check_finite(float(loss), self.state.global_step + 1, self.state.max_steps)
        if self.sharded and self.accelerator.sync_gradients:
            ranks.average([weight.grad for weight in model.parameters() if weight.grad is not None])
        return loss

    @property
    def weights(self) -> dict[str, Any] | None:
        """What is saved of a sharded model: peft would gather the base model's shards, only to leave them out."""
        return {n: w for n, w in self.model.named_parameters() if w.requires_grad} if self.sharded else None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, self.weights if state_dict is None else state_dict)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss; the logits are those of nodes that predict a completion token."""
        weights, nodes, labels, _ = (inputs.pop(name) for name in ("weights", "nodes", "labels", "shift_labels"))
        logits = model(**inputs, use_cache=False).logits  # (kept nodes, vocabulary)
        nats = F.cross_entropy(logits.float()[nodes], labels, reduction="none")  # (completion tokens)
        if num_items_in_batch is None:
            loss = (nats * weights).sum() / max(1, nats.numel())
        else:  # on all ranks, whose gradients are then averaged
            loss = (nats * weights).sum() / num_items_in_batch * self.accelerator.num_processes
        return (loss, {"loss": loss}) if return_outputs else loss

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """Return the mean loss of a completion token; Trainer's own is a mean of batches."""
        model = self._wrap_model(self.model, training=False, dataloader=dataloader).eval()
        total = torch.zeros(2, dtype=torch.float64)
        for number, inputs in enumerate(dataloader, 1):
            count = inputs["labels"].numel()
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(inputs))
            total += torch.tensor([float(loss) * count, count], dtype=torch.float64)
            self.tell(Progress("dev loss", number, len(dataloader)))
        nats, tokens = self.accelerator.reduce(total.float().to(self.args.device)).tolist()
        rows = len(dataloader.dataset)
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": nats / tokens}, rows)


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Token pairs as a data set; Trainer reads a row's length off its ``input_ids``.

    Where there are several ranks, rows of which nothing is learned fill up their last batches of ``micro`` rows:
    accelerate would repeat rows there, and they would count twice.
    """

    def __init__(self, pairs: list[Pair], weights: list[float], micro: int) -> None:
        self.rows: list[dict[str, Any]] = [
            {"pair": pair, "input_ids": pair[0] + pair[1], "weight": weight}
            for pair, weight in zip(pairs, weights, strict=True)
        ]
        self.count = len(self.rows)
        if self.rows and ranks.count() > 1:
            start = self.rows[0]["input_ids"][:2]
            filler = {"pair": (start, []), "input_ids": start, "weight": 0.0}
            self.rows += [filler] * (-self.count % (micro * ranks.count()))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class _Alike(torch.utils.data.Sampler[int]):
    """Rows in a random order in which those of a batch are about as long, and begin alike where there are several ways.

    Where there is one system prompt, rows without it (replay) are not kept apart: a mixed batch shares it, too,
    and forgets less. ``order`` is that of the epoch at work, on all ranks, whose dropout draws numbers of its own;
    one that is ``resumed`` is taken up again. What fills up comes last.
    """

    def __init__(self, data: _Rows, size: int) -> None:
        self.size = size
        self.filled = len(data)
        rows = data.rows[: data.count]
        self.lengths = [len(row["input_ids"]) for row in rows]
        kinds = alike([row["input_ids"] for row in rows])
        self.kinds = kinds if max(kinds, default=0) > 1 else [0] * len(rows)
        self.order: list[int] = []
        self.resumed: list[int] = []

    def __len__(self) -> int:
        return self.filled

    def __iter__(self) -> Iterator[int]:
        drawn = ranks.agreed(list(self._draw()))  # always, so that as many numbers are drawn
        self.order, self.resumed = self.resumed or drawn, []
        return iter((*self.order, *range(len(self.lengths), self.filled)))

    def _draw(self) -> Iterator[int]:
        count = len(self.lengths)
        order = torch.randperm(count).tolist()
        stretch = self.size * min(50, max(1, count // (4 * self.size)))  # as transformers' LengthGroupedSampler
        for start in range(0, count, stretch):
            own = sorted(order[start : start + stretch], key=lambda i: (self.kinds[i], self.lengths[i]))
            batches = [own[i : i + self.size] for i in range(0, len(own), self.size)]
            for number in torch.randperm(len(batches)).tolist():
                yield from batches[number]


class _Curve(transformers.TrainerCallback):  # type: ignore[misc]  # transformers ships no usable types
    """Collects losses and dev answers, reports progress, and stops at a dev loss that is not finite.

    With each checkpoint it notes what it has collected, and the order of the epoch's rows.
    """

    def __init__(self, run: _Run, report: OnProgress) -> None:
        self.run = run
        self.report = report
        self.train: list[tuple[int, float]] = []
        self.dev: list[tuple[int, float]] = []
        self.answers: list[tuple[int, tuple[str, ...]]] = []
        self.said = ""  # of the train loss
        self.loaded: Loaded | None = None
        self.alike: _Alike | None = None
        self.stopped: Callable[[], bool] = lambda: False
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a stop included."""
        return time.perf_counter() - self.started

    def resume(self, checkpoint: Path) -> None:
        """Take up what was collected until a checkpoint."""
        said = checkpoints.note(checkpoint)
        self.train, self.dev = ([(step, value) for step, value in said[name]] for name in ("train", "dev"))
        self.answers = [(step, tuple(texts)) for step, texts in said["answers"]]
        self.started = time.perf_counter() - said["seconds"]
        if self.alike and said["step"] % self.run.steps_per_epoch:  # amid an epoch
            self.alike.resumed = said["order"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.global_step:
            self.started = time.perf_counter()
        if state.best_global_step:  # of which Trainer forgets the place where whoever took this over renamed the folder
            state.best_model_checkpoint = str(Path(args.output_dir, f"checkpoint-{state.best_global_step}"))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(Progress("train", state.global_step, state.max_steps, self.said))  # a sign of life, too
        if ranks.any_of(self.stopped(), self.run.device):
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        said = {"step": state.global_step, "train": self.train, "dev": self.dev, "answers": self.answers}
        said |= {"seconds": self.seconds, "order": self.alike.order if self.alike else [], "ranks": ranks.count()}
        ranks.wait()  # for what each of them saves
        if ranks.first():
            checkpoints.write_note(Path(args.output_dir, f"checkpoint-{state.global_step}"), said)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for key, points in (("loss", self.train), ("eval_loss", self.dev)):
            if key in logs:
                value = float(logs[key])
                _check_finite(value, state.global_step, state.max_steps)
                points.append((state.global_step, round(value, 6)))
                note = f"{key.replace('eval_', 'dev ')} {value:.3f}, {self._speed(state)}"
                self.report(Progress("train", state.global_step, state.max_steps, note))
                self.said = note if key == "loss" else self.said

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        spec = self.run.spec
        asked = [conversation.messages for conversation in spec.dev[: spec.answered]]
        if asked and self.loaded and not ranks.plugged():  # whose shards are gathered in a whole pass only
            answers = generate(
                self.loaded, asked, spec.generation, lambda done, total: self.report(Progress("dev", done, total))
            )
            self.answers.append((state.global_step, answers.texts))

    def _speed(self, state: Any) -> str:
        seconds = time.perf_counter() - self.started
        left = seconds / state.global_step * (state.max_steps - state.global_step)
        return f"{self.run.tokens_per_step * state.global_step / seconds:,.0f} tokens/s, {left:.0f} s left"
