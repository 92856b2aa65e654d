"""TRL's side of a race: SFTTrainer at its defaults, or at faster settings.

    python -m benchmarks.sides.trl_run JOB.json        (in the peers' environment)

A job names a ``task`` of `TASKS`; its result overwrites it.
"""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.sides.ruler import Ruler, answer

# What makes TRL fast: no activation checkpointing, rows of like length together. Whether bfloat16 does is the
# processor's affair. Loss on completions only is its default for rows of prompt and completion.
FAST = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "fast, float32": {**FAST, "bf16": False},
    "fast, bfloat16": {**FAST, "bf16": True},
}


def trainer(job: dict[str, Any], rows: list[dict[str, Any]], epochs: int, folder: str) -> Any:
    """Return a trainer that is ready to train, the model loaded and the rows tokenised."""
    import datasets
    import peft
    import transformers
    import trl

    transformers.utils.logging.set_verbosity_error()
    teach = [{"prompt": r["prompt"], "completion": [{"role": "assistant", "content": r["completion"]}]} for r in rows]
    settings = trl.SFTConfig(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=job["batch_size"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="cosine",
        use_cpu=not job.get("gpu", False),
        model_init_kwargs={"quantization_config": _nf4()} if job.get("quantised") else None,
        save_strategy="no",
        logging_steps=1 if job["log_losses"] else 10,
        disable_tqdm=True,
        report_to="none",
        seed=job["seed"],
        **SETTINGS[job["settings"]],
    )
    lora = peft.LoraConfig(
        r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear", task_type=peft.TaskType.CAUSAL_LM
    )
    return trl.SFTTrainer(
        model=job["model"], args=settings, train_dataset=datasets.Dataset.from_list(teach), peft_config=lora
    )


def _nf4() -> Any:
    """Return NF4 as our engine holds it."""
    import torch
    import transformers

    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train on one batch, to import; then on the rows, measured: memory with the model, seconds without loading."""
    with tempfile.TemporaryDirectory() as folder:
        trainer(job, job["rows"][: job["batch_size"]], 1, folder).train()
        with Ruler() as whole:
            made = trainer(job, job["rows"], job["epochs"], folder)
            with Ruler() as training:
                made.train()
        losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    # The inner ruler forgets the peak of loading, as our engine does; the outer one counts the model in.
    return {**training.taken, "added_bytes": whole.added_bytes, "losses": losses}


def ship(job: dict[str, Any]) -> dict[str, Any]:
    """Train and save the adapter, as a script in CI does."""
    made = trainer(job, job["rows"], job["epochs"], job["folder"])
    made.train()
    made.save_model(job["folder"])
    return {}


TASKS = {"train": train, "ship": ship}

if __name__ == "__main__":
    answer(TASKS)
