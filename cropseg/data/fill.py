"""What stands in pixels without data before a network sees them: one rule, at training and at prediction.

Group normalisation takes its statistics over the whole window, so a corner of zeros would change labels far away.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import torch
from torch import Tensor

from cropseg.core.bands import NODATA, QUANTIFICATION

NoData = Literal["fill", "zero"]
NODATA_RULES: Final = get_args(NoData)


def fill_nodata(images: Tensor, complete: bool | None = None) -> tuple[Tensor, Tensor]:
    """Fill pixels without data from valid ones.

    A pixel is valid if all its bands are above 0. All bands of another one are taken together from, in this order,

    1. its mirror image in the nearest edge of valid data along its row (the left one if both are as near);
    2. the same along its column;
    3. the mean of each band over the image's valid pixels; 0 if there are none.

    A mirror image counts if it lies inside the image and is itself valid.

    Args:
        images: (N, bands, H, W), uint16 or float, 0 = no data.
        complete: Whether all pixels are known to have data, which saves time; None looks, and waits for the device.

    Returns:
        Filled images, float32 (N, bands, H, W) in the unit given, and the valid pixels, bool (N, H, W).
    """
    values, valid = _valid(images, complete)
    if complete is None:  # an exported program cannot branch on pixels
        complete = not torch.compiler.is_exporting() and bool(valid.all())
    if complete:
        return values, valid
    count = valid.sum(dim=(1, 2)).clamp(min=1)
    mean = (values * valid[:, None]).sum(dim=(2, 3)) / count[:, None]
    by_row, found_row = _mirror(values, valid)
    by_col, found_col = (t.transpose(-1, -2) for t in _mirror(values.transpose(-1, -2), valid.transpose(-1, -2)))
    filled = torch.where(found_col[:, None], by_col, mean[:, :, None, None])
    filled = torch.where(found_row[:, None], by_row, filled)
    return torch.where(valid[:, None], values, filled), valid


def model_input(images: Tensor, nodata: NoData = "fill", complete: bool | None = None) -> tuple[Tensor, Tensor]:
    """What a network is given: reflectance, with pixels without data filled.

    Args:
        images: uint16 (N, bands, H, W), reflectance × 10000, 0 = no data.
        nodata: ``fill`` is :func:`fill_nodata`; ``zero`` leaves zeros, as the paper does.
        complete: As for :func:`fill_nodata`.

    Returns:
        Reflectance, float32 (N, bands, H, W), and the valid pixels, bool (N, H, W).
    """
    if nodata == "fill":
        values, valid = fill_nodata(images, complete)
    else:
        values, valid = _valid(images, complete)
    return values / QUANTIFICATION, valid


def _valid(images: Tensor, complete: bool | None) -> tuple[Tensor, Tensor]:
    """The values as float32, and which pixels have data in all bands."""
    values = images.to(torch.float32)
    if complete:
        return values, torch.ones_like(values[:, 0], dtype=torch.bool)
    return values, (values > NODATA).all(dim=1)


def _mirror(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror images along the last axis, and where there is one.

    With the nearest valid column ``e`` to the left of column ``c``, the mirror image of ``c`` in the edge between ``e``
    and ``e + 1`` is ``2 e + 1 - c``; to the right it is ``2 e - 1 - c``.
    """
    width = valid.shape[-1]
    col = torch.arange(width, device=valid.device).expand_as(valid)
    left, right = _nearest_by_count(valid, col) if torch.compiler.is_exporting() else _nearest(valid, col)
    sources = torch.stack((2 * left + 1 - col, 2 * right - 1 - col))
    inside = (sources >= 0) & (sources < width)
    sources = sources.clamp(0, width - 1)
    exists = inside & torch.stack([valid.gather(-1, source) for source in sources])
    use_left = exists[0] & (~exists[1] | (col - left <= right - col))
    source = torch.where(use_left, sources[0], sources[1])
    return values.gather(-1, source[:, None].expand_as(values)), exists.any(dim=0)


def _nearest(valid: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest valid column to the left (``-width`` if none) and right (``2 width``) of each, itself included."""
    width = valid.shape[-1]
    left = torch.where(valid, col, -width).cummax(dim=-1).values
    right = torch.where(valid, col, 2 * width).flip(-1).cummin(dim=-1).values.flip(-1)
    return left, right


def _nearest_by_count(valid: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """The same numbers as :func:`_nearest` from what ONNX knows too, where a running maximum is missing.

    The r-th valid column is kept in slot r; the one to the left of a column is in the slot that its count of valid
    columns so far names, the one to the right in the next slot.
    """
    width = valid.shape[-1]
    count = valid.to(torch.int64).cumsum(dim=-1)
    before = torch.full_like(count[..., :1], -width)  # slot 0: no valid column so far
    after = torch.full_like(count[..., :1], 2 * width).expand(*count.shape[:-1], width + 1)
    slots = torch.cat((before, after), dim=-1)
    # Columns without data write into the last slot, which is read only where every column is valid.
    slots = slots.scatter(-1, torch.where(valid, count, width + 1), torch.where(valid, col, 2 * width))
    return slots.gather(-1, count), slots.gather(-1, torch.where(valid, count, count + 1))
