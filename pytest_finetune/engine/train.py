"""Training: `transformers.Trainer` over any of the methods, judged on the dev split."""

import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers

from pytest_finetune.engine.generate import collate
from pytest_finetune.engine.models import load_base, load_tokenizer
from pytest_finetune.engine.template import training_tokens
from pytest_finetune.errors import EngineError, SuiteError
from pytest_finetune.methods import METHODS
from pytest_finetune.protocol import OnProgress, Progress
from pytest_finetune.records import Training, TrainingCurve, TrainSpec

Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class _Run:
    """What one training run works on; pairs are token ids of prompt and completion."""

    spec: TrainSpec
    folder: Path
    device: torch.device
    pad: int
    train: list[Pair]
    dev: list[Pair]

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.spec.training.batch_size)

    @property
    def evaluate_every(self) -> int:
        return max(1, self.steps_per_epoch // self.spec.training.evaluations_per_epoch)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def train(spec: TrainSpec, folder: Path, device: torch.device, report: OnProgress) -> TrainingCurve:
    """Train and write what ships into ``folder``; checkpoints live there meanwhile.

    Raises:
        SuiteError: a row is longer than ``max_tokens``.
        EngineError: the loss is not finite, or one row does not fit in memory.
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
    run = _Run(spec, folder, device, tokenizer.pad_token_id, *pairs)
    micro = spec.training.batch_size
    while True:
        try:
            return _train(run, micro, _Curve(report))
        except torch.OutOfMemoryError as error:
            if micro == 1:
                raise EngineError("out of memory in training on one row; try --finetune-method=qlora") from error
            # Half the rows at once and twice the accumulation: the effective batch stays the same.
            micro //= 2
            torch.cuda.empty_cache()


def _train(run: _Run, micro: int, curve: "_Curve") -> TrainingCurve:
    settings = run.spec.training
    transformers.set_seed(settings.seed)
    model = prepare(load_base(run.spec.model, run.device, for_training=settings.method), settings)
    virtual = settings.virtual_tokens if settings.method == "soft_prompt" else 0
    trainer = transformers.Trainer(
        model=model,
        args=_arguments(run, micro),
        train_dataset=_Rows(run.train),
        eval_dataset=_Rows(run.dev),
        data_collator=lambda rows: collate([row["pair"] for row in rows], run.pad, virtual),
        compute_loss_func=_completion_loss,
        callbacks=[curve, transformers.EarlyStoppingCallback(settings.patience)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    if not curve.dev:
        raise EngineError("training ended without a dev loss; the best checkpoint is unknown")
    _ship(model, run.spec, run.folder)
    shutil.rmtree(run.checkpoints)
    return TrainingCurve(
        steps=trainer.state.global_step,
        seconds=seconds,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        peak_bytes=_peak_bytes(run.device),
        train_loss_nats=tuple(curve.train),
        dev_loss_nats=tuple(curve.dev),
        best_step=min(curve.dev, key=lambda point: point[1])[0],
    )


def prepare(model: Any, settings: Training) -> Any:
    """Return the base model made trainable by the method."""
    if settings.method == "full":
        return model
    import peft

    if settings.method == "soft_prompt":
        soft = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=settings.virtual_tokens)
        return peft.get_peft_model(model, soft)
    if METHODS[settings.method].quantised:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = settings.target_modules
    lora = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        task_type=peft.TaskType.CAUSAL_LM,
    )
    try:
        return peft.get_peft_model(model, lora)
    except ValueError as error:
        raise SuiteError(f"[training] target_modules {list(targets)}: {' '.join(str(error).split())[:200]}") from error


def _arguments(run: _Run, micro: int) -> transformers.TrainingArguments:
    settings, on_gpu = run.spec.training, run.device.type == "cuda"
    return transformers.TrainingArguments(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        per_device_eval_batch_size=max(micro, 32),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate or METHODS[settings.method].learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=math.ceil(settings.warmup_share * run.steps_per_epoch * settings.epochs),
        weight_decay=settings.weight_decay,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        use_cpu=not on_gpu,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=run.evaluate_every,
        save_strategy="steps",
        save_steps=run.evaluate_every,
        save_total_limit=2,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        prediction_loss_only=True,
        logging_steps=max(1, run.evaluate_every // 4),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        report_to="none",
        seed=settings.seed,
    )


def _completion_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross entropy of the completion tokens; ``outputs.logits`` hold only their positions."""
    kept = labels[:, 1:][labels[:, 1:] != -100].to(outputs.logits.device)  # (completion tokens)
    total = F.cross_entropy(outputs.logits.float(), kept, reduction="sum")
    return total / (kept.numel() if num_items_in_batch is None else num_items_in_batch)


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Token pairs as a data set; Trainer reads a row's length off its ``input_ids``."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.rows = [{"pair": pair, "input_ids": pair[0] + pair[1]} for pair in pairs]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class _Curve(transformers.TrainerCallback):  # type: ignore[misc]  # transformers ships no usable types
    """Collects the losses, reports progress, and stops at the first loss that is not finite."""

    def __init__(self, report: OnProgress) -> None:
        self.report = report
        self.train: list[tuple[int, float]] = []
        self.dev: list[tuple[int, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for key, points in (("loss", self.train), ("eval_loss", self.dev)):
            if key in logs:
                value = float(logs[key])
                if not math.isfinite(value):
                    raise EngineError(
                        f"loss is {value} at step {state.global_step} of {state.max_steps}; "
                        "lower [training] learning_rate"
                    )
                points.append((state.global_step, round(value, 6)))
                note = f"{key.replace('eval_', 'dev ')} {value:.3f}"
                self.report(Progress("train", state.global_step, state.max_steps, note))


def _ship(model: Any, spec: TrainSpec, folder: Path) -> None:
    """Write the adapter (or the whole model) such that equal training gives equal bytes."""
    if spec.training.method == "full":
        model.save_pretrained(folder)
        return
    for config in model.peft_config.values():
        # A path of this machine would make the digest depend on where the run happened.
        config.base_model_name_or_path = spec.model.name
        config.revision = spec.model.revision or None
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # peft writes a set, in the order of this process's hashes
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
