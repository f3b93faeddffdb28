"""Augmentation: the eight symmetries of the square (§3.1), image and mask together, nothing spectral."""

from __future__ import annotations

import torch
from torch import Tensor

from cropseg.core.errors import InputError


def apply_symmetry(batch: Tensor, symmetry: Tensor) -> Tensor:
    """Turn and mirror each sample of a batch by its own symmetry, moving pixels and changing none.

    The three bits say, in this order: swap rows and columns, reverse rows, reverse columns. Their eight combinations
    are the dihedral group of the square, so bits drawn evenly equal a horizontal flip, a vertical flip and a rotation
    by a multiple of 90° drawn evenly.

    Args:
        batch: (N, …, S, S), any type that ``torch.flip`` knows, on any device.
        symmetry: bool (N, 3), on the same device.

    Returns:
        A tensor like ``batch``.

    Raises:
        InputError: The last two axes differ in length.
    """
    if batch.shape[-1] != batch.shape[-2]:
        raise InputError("only square patches can be turned", tuple(batch.shape[-2:]), "set dataset.augment=false")
    swap, reverse_rows, reverse_cols = (bit.view(-1, *[1] * (batch.ndim - 1)) for bit in symmetry.unbind(1))
    batch = torch.where(swap, batch.transpose(-1, -2), batch)
    batch = torch.where(reverse_rows, batch.flip(-2), batch)
    return torch.where(reverse_cols, batch.flip(-1), batch)
