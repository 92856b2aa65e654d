"""The ranks of a training run: the processes that a launcher started for it, or this one alone."""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pytest_finetune.errors import SuiteError
from pytest_finetune.records import TrainSpec

T = TypeVar("T")
PLUGINS = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")  # as `accelerate launch` tells what its config asks for


def count() -> int:
    """Return how many train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the rank that writes and reports."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait() -> None:
    """Wait until all ranks are here."""
    if dist.is_initialized():
        dist.barrier()


def agreed(value: T) -> T:
    """Return what the first rank has, on all of them."""
    held = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(held)
    return held[0]


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up on any rank, on all of them: one that stops alone would leave the others waiting."""
    if not dist.is_initialized():
        return flag
    up = torch.tensor(int(flag), device=device)
    dist.all_reduce(up, dist.ReduceOp.MAX)
    return bool(up)


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Put the mean over all ranks into each tensor, by one message."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def share(batch_size: int, among: int) -> int:
    """Return how many rows of a batch each rank takes.

    Raises:
        SuiteError: they cannot take equally many.
    """
    if batch_size % among:
        near = max(1, round(batch_size / among)) * among
        raise SuiteError(
            f"[training] batch_size = {batch_size}: the {among} processes of --finetune-launcher cannot take equally "
            f"many rows of it; write batch_size = {near}, or launch fewer"
        )
    return batch_size // among


def plugged() -> bool:
    """Whether a plugin of accelerate's lays the model out, as the config of `accelerate launch` asks."""
    return count() > 1 and any(os.environ.get(plugin, "").lower() == "true" for plugin in PLUGINS)


def shards(spec: TrainSpec) -> bool:
    """Whether the base model is sharded while it is loaded, by torch's ``fully_shard``: no rank ever holds it whole.

    The adapter on it is small, and whole on every rank. Methods other than plain LoRA read or train the base
    model's own weights, of which each rank then has a copy.
    """
    settings = spec.training
    plain = settings.method == "lora" and settings.variant in ("lora", "rslora") and not spec.model.quantised
    return plain and count() > 1 and not plugged()


def placement(spec: TrainSpec, device: torch.device) -> dict[str, Any]:
    """Return how ``from_pretrained`` lays the base model out; accelerate's plugins take it from the CPU."""
    if plugged():
        return {}
    if shards(spec):
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(fsdp_size=count())}
    return {"device_map": {"": device}}
