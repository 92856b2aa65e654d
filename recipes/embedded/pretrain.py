"""Pretrain the embedded base model: `python -m recipes.embedded.pretrain --out DIR [--resume]`."""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from recipes.embedded import mimetic, tokenizer
from recipes.embedded.curriculum import DRILLS_UNTIL, Stream
from recipes.embedded.muon import Muon

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

STEPS = 13_000
BATCH_TOKENS = 2048
MUON_LR = 0.009
ADAMW_LR = 1.2e-3
WARM_UP_STEPS = 30
CHECKPOINT_STEPS = 400


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line."""

    out: Path
    resume: bool
    seed: int
    steps: int
    workers: int


@dataclass
class Progress:
    """Where the run stands; saved with every checkpoint."""

    steps: int = 0
    tokens: int = 0
    wall_seconds: float = 0.0


def new_model(words: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A 1.5 M parameter Llama; every in_features is a multiple of 64, which NF4 blocks want."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=768,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    mimetic.initialise(model)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id
    )
    return model


def learning_rate_factor(progress: float, steps: int) -> float:
    """Cosine to 3 %, after a short warm-up, at half height while the drills last."""
    cosine = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress))
    drills = 0.5 + 0.5 * min(1.0, max(0.0, progress / DRILLS_UNTIL - 1))
    return cosine * drills * min(1.0, (steps + 1) / WARM_UP_STEPS)


def loss_nats(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the supervised tokens; logits at their positions only."""
    wanted = labels[:, 1:] != -100  # (rows, tokens - 1)
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[wanted]
    return cross_entropy(model.lm_head(hidden), labels[:, 1:][wanted])


def save(model: LlamaForCausalLM, words: PreTrainedTokenizerBase, folder: Path) -> None:
    """The shippable model: bfloat16 weights (in place), tokenizer, generation settings."""
    model.bfloat16().save_pretrained(folder)
    words.save_pretrained(folder)
    for name, noise in (
        ("config.json", {"transformers_version"}),
        ("generation_config.json", {"transformers_version"}),
        ("tokenizer_config.json", {"is_local", "local_files_only"}),
    ):
        kept = {k: v for k, v in json.loads((folder / name).read_text()).items() if k not in noise}
        (folder / name).write_text(json.dumps(kept, indent=2) + "\n")


@torch.no_grad()
def _average_gradients(parameters: Sequence[torch.Tensor]) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = parameters_to_vector(gradients)
    dist.all_reduce(flat)
    vector_to_parameters(flat / dist.get_world_size(), gradients)


@torch.no_grad()
def _share(parameters: Sequence[torch.Tensor]) -> None:
    """Give every worker the matrices that the others have moved."""
    workers = dist.get_world_size()
    for owner in range(workers):
        flat = parameters_to_vector(parameters[owner::workers])
        dist.broadcast(flat, owner)
        vector_to_parameters(flat, parameters[owner::workers])


def _write_checkpoint(path: Path, mine: dict[str, object]) -> None:
    rank = dist.get_rank()
    states: list[object] | None = [None] * dist.get_world_size() if rank == 0 else None
    dist.gather_object(mine, states)
    if rank == 0:
        beside = path.with_suffix(".new")
        beside.write_bytes(pickle.dumps(states))
        beside.replace(path)


def work(rank: int, settings: Settings) -> None:
    """One of the workers: its own data, one thread, gradients averaged over all.

    Single-threaded workers meet once a step; threads would meet at every operation, which on a
    machine that also does other work costs more than half of the speed.
    """
    out, checkpoint = settings.out, settings.out / "checkpoint.pickle"
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out.resolve() / 'meeting-point'}",
        rank=rank,
        world_size=settings.workers,
    )
    words = tokenizer.load(out)
    model = new_model(words)
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not other for other in hidden)]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(hidden[rank :: settings.workers], lr=MUON_LR),
        torch.optim.AdamW(rest, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group["peak_lr"] = group["lr"]
    rng = random.Random(f"{settings.seed} {rank}")
    stream, at = Stream(words, BATCH_TOKENS // settings.workers, rng), Progress()
    if settings.resume and checkpoint.exists():
        mine = pickle.loads(checkpoint.read_bytes())[rank]  # our own file
        model.load_state_dict(mine["model"])
        for optimizer, saved in zip(optimizers, mine["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        stream.rng, stream.pools, at = mine["rng"], mine["pools"], mine["progress"]

    started = time.monotonic() - at.wall_seconds
    losses: list[torch.Tensor] = []
    model.train()
    while at.steps < settings.steps:
        progress = at.steps / settings.steps
        ids, labels = stream.batch(progress)
        loss = loss_nats(model, ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped upstream
        _average_gradients([*hidden, *rest])
        factor = learning_rate_factor(progress, at.steps)
        for group in groups:
            group["lr"] = group["peak_lr"] * factor
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        _share(hidden)
        losses.append(loss.detach())
        at.steps += 1
        at.tokens += ids.numel() * settings.workers
        at.wall_seconds = time.monotonic() - started
        if rank == 0 and at.steps % 100 == 0:
            print(
                f"step {at.steps} of {settings.steps}: loss {torch.stack(losses).mean():.3f} nats, "
                f"{at.tokens / 1e6:.2f} M tokens, {at.wall_seconds:.0f} s, "
                f"{at.tokens / at.wall_seconds:.0f} tokens/s",
                flush=True,
            )
            losses.clear()
        if at.steps % CHECKPOINT_STEPS == 0:
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "rng": stream.rng,
                "pools": stream.pools,
                "progress": at,
            }
            _write_checkpoint(checkpoint, state)
    if rank == 0:
        save(model, words, out)
        checkpoint.unlink(missing_ok=True)
        print(f"done: {at}", flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Parse the command line, build the tokenizer, start the workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pickle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=2, help="changes the data, and so the model")
    settings = Settings(**vars(parser.parse_args()))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "meeting-point").unlink(missing_ok=True)
    if not (settings.resume and (settings.out / "checkpoint.pickle").exists()):
        tokenizer.build().save_pretrained(settings.out)
    spawn(work, (settings,), nprocs=settings.workers)  # type: ignore[no-untyped-call]  # upstream
    (settings.out / "meeting-point").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
