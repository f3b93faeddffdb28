"""Sums over the processes of a run; without ``torch.distributed``, or in one process, nothing is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cropseg.losses import Sums


@contextmanager
def disbanded_after() -> Iterator[None]:
    """Leave no process group and no trace of one in the environment, so that the next job of a sweep starts its own."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def processes() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def summed(sums: Sums) -> Sums:
    """Sums over all processes, float64 and without gradients; the same numbers in each.

    All processes must call it, with the same keys and shapes in the same order.
    """
    if processes() == 1 or not sums:
        return sums
    flat = torch.cat([part.detach().double().flatten() for part in sums.values()])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [part.numel() for part in sums.values()])
    return {key: total.view(part.shape) for (key, part), total in zip(sums.items(), parts, strict=True)}


def for_training(sums: Sums) -> Sums:
    """Sums over all processes whose gradient, after DDP's mean over processes, is that of one process.

    With S = Σ_r s_r the gradient of value(S) is value'(S) · Σ_r ds_r. Each process computes n · value'(S) · ds_r, and
    DDP takes the mean over the n processes. So a ratio such as Σ w·nll / Σ w is taken over the global batch, and a
    process without a labelled pixel weighs nothing in it.
    """
    count = processes()
    if count == 1:
        return sums
    totals = summed(sums)
    # The added term is 0 and carries the gradient.
    return {key: totals[key].to(part.dtype) + count * (part - part.detach()) for key, part in sums.items()}


def share_buffers(net: nn.Module) -> None:
    """Give every process the first one's buffers (the running statistics of batch norm), which are what is saved."""
    if processes() > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, 0)


def gathered(values: list[int]) -> list[int]:
    """The values of all processes, in order of the processes."""
    if processes() == 1:
        return values
    found: list[Any] = [None] * processes()
    distributed.all_gather_object(found, values)
    return [value for part in found for value in part]


def values_of(tensors: list[Tensor]) -> list[float]:
    """Scalars as numbers, in one transfer from the device."""
    return [float(value) for value in torch.stack(tensors).cpu()]
