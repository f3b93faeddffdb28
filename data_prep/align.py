"""Bands and scene classes of one product on one grid: that of B02.

The order is fixed, and no value takes another way:

1. raw digital numbers; 0 and 65535 (saturated) become no data, each pixel of each band for itself;
2. coarser bands are resampled on the whole tile's grid, without mixing no data in;
3. the BOA offset of this product and band is added;
4. the value is rounded half to even, and a valid one below 1 becomes 1 (its share is reported): 0 means no data and
   nothing else.

A fine pixel has data where the coarse pixel under it has. ``bilinear`` interpolates between the centres of coarse
pixels; where some of them have no data or lie beyond the tile, the weights of the others are scaled up to sum to 1.
All of it is integer arithmetic, so a window holds exactly what the whole tile would at its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import DARKEST, NODATA, S2_BANDS, SATURATED, check_bands
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.scene import Grid, UInt8Array, UInt16Array
from cropseg.core.tiling import Window
from data_prep.jp2 import Jp2File
from data_prep.safe import SCL, SafeProduct

Resampling = Literal["bilinear", "nearest"]
BoaOffset = Literal["apply", "ignore"]

RESOLUTIONS: Final = (10, 20, 60)
"""Pixel sizes in metres that a product can be read at."""
_SCL_RESOLUTION: Final = 20
_HIGHEST: Final = 65_535


@dataclass(frozen=True)
class Block:
    """Aligned pixels of a window.

    Attributes:
        image: uint16 (bands, height, width), reflectance × 10000, 0 = no data.
        clamped: uint8 (height, width), in how many bands the pixel was raised to 1.
    """

    image: UInt16Array
    clamped: UInt8Array

    @property
    def clamped_fraction(self) -> float:
        """Of the valid samples, those raised to 1; 0 if there is no valid sample."""
        valid = int(np.count_nonzero(self.image))
        return int(self.clamped.sum(dtype=np.int64)) / valid if valid else 0.0

    def crop(self, window: Window) -> Block:
        """The part of the block at ``window``, counted from the block's upper left corner; arrays of its own."""
        rows, cols = window.slices
        return Block(self.image[:, rows, cols].copy(), self.clamped[rows, cols].copy())


class AlignedProduct:
    """A product's bands on B02's grid, read by windows; a :class:`cropseg.core.scene.SceneReader`.

    Use it in a ``with`` statement: files are opened when first read and closed at its end.

    Args:
        product: The product.
        bands: Channel order.
        resolution: Pixel size in metres: 10, 20 or 60. Each band is read at its native resolution or, where that is
            finer, from the product's own file at ``resolution``.
        resampling: How coarser bands come onto the grid; SCL always by nearest neighbour.
        boa_offset: ``apply`` adds the product's offset; ``ignore`` leaves the digital numbers as they are.

    Raises:
        ConfigError: An option has an impossible value.
        InputError: The product lacks a file for one of the bands.
    """

    def __init__(
        self,
        product: SafeProduct,
        bands: Sequence[str],
        *,
        resolution: int = 10,
        resampling: Resampling = "bilinear",
        boa_offset: BoaOffset = "apply",
    ) -> None:
        for what, value, allowed in (
            ("resolution in metres", resolution, RESOLUTIONS),
            ("resampling", resampling, get_args(Resampling)),
            ("boa_offset", boa_offset, get_args(BoaOffset)),
        ):
            if value not in allowed:
                raise ConfigError(what, value, f"choose from {', '.join(map(str, allowed))}")
        self.product = product
        self.resampling = resampling
        self.boa_offset = boa_offset
        self._bands = check_bands(bands)
        self._resolution = resolution
        self._native = {band: max(resolution, S2_BANDS[band].resolution) for band in (*self._bands, "B02")}
        self._native[SCL] = max(resolution, _SCL_RESOLUTION)
        # Every file that may be read is asked for now, so that a gap shows before any work is done.
        self._paths = {band: product.path_of(band, native) for band, native in self._native.items()}
        self._open: dict[str, Jp2File] = {}
        self._grid: Grid | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every file; a later read opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    @property
    def name(self) -> str:
        """The product's name."""
        return self.product.name

    @property
    def bands(self) -> tuple[str, ...]:
        """Channel order."""
        return self._bands

    @property
    def acquired(self) -> datetime:
        """Sensing start, UTC."""
        return self.product.acquired

    @property
    def grid(self) -> Grid:
        """B02's grid at the resolution asked for."""
        if self._grid is None:
            self._grid = self._grid_of_b02()
        return self._grid

    def read(self, window: Window) -> UInt16Array:
        """The pixels of ``window``: uint16 (bands, height, width), reflectance × 10000, 0 = no data.

        Raises:
            ConfigError: The window reaches beyond the grid.
            InputError: A file is corrupt or lies on another grid.
        """
        return self.read_block(window).image

    def read_with_stats(self, window: Window) -> tuple[UInt16Array, float]:
        """The pixels of ``window``, and the share of valid samples that were raised to 1; errors as :meth:`read`."""
        block = self.read_block(window)
        return block.image, block.clamped_fraction

    def read_block(self, window: Window) -> Block:
        """The pixels of ``window`` with where they were clamped; errors as :meth:`read`.

        Read a large block once and :meth:`Block.crop` patches from it: a JPEG 2000 file decodes in blocks of 1024.
        """
        self._check_inside(window)
        image = np.empty((len(self._bands), window.height, window.width), np.uint16)
        clamped = np.zeros((window.height, window.width), np.uint8)
        for channel, band in enumerate(self._bands):
            offset = self.product.offsets[band] if self.boa_offset == "apply" else 0
            values, valid = self._resampled(band, window, offset)
            clamped += valid & (values < DARKEST)
            np.clip(values, DARKEST, _HIGHEST, out=values)
            image[channel] = np.where(valid, values, NODATA)
        return Block(image, clamped)

    def scl(self, window: Window) -> UInt8Array:
        """Scene classes of ``window`` by nearest neighbour: uint8 (height, width); errors as :meth:`read`."""
        self._check_inside(window)
        factor = self._native[SCL] // self._resolution
        coarse, rows, cols = self._coarse(SCL, window, factor, margin=0)
        repeated: UInt8Array = _repeat(coarse, factor)[rows, cols].astype(np.uint8)
        return repeated

    def _resampled(self, band: str, window: Window, offset: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Values with the offset, not yet clamped, and where they are valid."""
        factor = self._native[band] // self._resolution
        bilinear = self.resampling == "bilinear" and factor > 1
        raw, rows, cols = self._coarse(band, window, factor, margin=1 if bilinear else 0)
        valid = (raw != NODATA) & (raw != SATURATED)
        fine_valid = _repeat(valid, factor)[rows, cols]
        if bilinear:
            return bilinear_upsample(raw, valid, factor, rows, cols, offset), fine_valid
        return _repeat(raw, factor)[rows, cols].astype(np.int32) + np.int32(offset), fine_valid

    def _coarse(self, band: str, window: Window, factor: int, margin: int) -> tuple[npt.NDArray[Any], slice, slice]:
        """Native pixels under ``window`` and, where the tile has them, ``margin`` around.

        Returns:
            The pixels, and where the window's rows and columns lie in them once upsampled.
        """
        row, row_end = _cover(window.row, window.height, factor, self.grid.height // factor, margin)
        col, col_end = _cover(window.col, window.width, factor, self.grid.width // factor, margin)
        pixels = self._file(band).read(Window(row, col, row_end - row, col_end - col))
        rows, cols = window.shifted(-row * factor, -col * factor).slices
        return pixels, rows, cols

    def _file(self, band: str) -> Jp2File:
        if band not in self._open:
            self.product.verify(self._paths[band])
            file = Jp2File(self._paths[band], "uint8" if band == SCL else "uint16")
            self._open[band] = file
            if band != "B02":
                self._check_grid(band, file.grid)
        return self._open[band]

    def _grid_of_b02(self) -> Grid:
        grid = self._file("B02").grid
        if grid.crs != self.product.crs:
            raise InputError(
                f"{self._paths['B02']} is not in the product's {self.product.crs}", grid.crs, "fetch the product again"
            )
        a, b, _, d, e, _ = grid.transform
        if (a, b, d, e) != (self._resolution, 0, 0, -self._resolution):
            raise InputError(
                f"{self._paths['B02']} has no {self._resolution} m pixels", (a, b, d, e), "fetch the product again"
            )
        return grid

    def _check_grid(self, band: str, found: Grid) -> None:
        factor = self._native[band] // self._resolution
        a, b, c, d, e, f = self.grid.transform
        height, width = self.grid.height // factor, self.grid.width // factor
        expected = Grid(self.grid.crs, (a * factor, b, c, d, e * factor, f), height, width)
        if found != expected or (height * factor, width * factor) != (self.grid.height, self.grid.width):
            raise InputError(
                f"{self._paths[band]} does not lie on B02's grid, {expected}", found, "fetch the product again"
            )

    def _check_inside(self, window: Window) -> None:
        if (
            min(window.row, window.col) < 0
            or min(window.height, window.width) < 1
            or window.row + window.height > self.grid.height
            or window.col + window.width > self.grid.width
        ):
            raise ConfigError(
                f"window reaches beyond the {self.grid.height} × {self.grid.width} pixels of {self.name}",
                window,
                "use windows inside the grid",
            )


def bilinear_upsample(
    raw: npt.NDArray[np.integer[Any]],
    valid: npt.NDArray[np.bool_],
    factor: int,
    rows: slice,
    cols: slice,
    offset: int,
) -> npt.NDArray[np.int32]:
    """Bilinear interpolation between pixel centres, over valid pixels alone, in exact integer arithmetic.

    Fine pixel i has its centre at coarse coordinate (i + 1/2) / factor - 1/2. With p = 2i + 1 - factor and
    t = p mod 2·factor, coarse pixel p // (2·factor) weighs 2·factor - t and the next one t. What lies beyond ``raw`` is
    taken as not valid, so ``raw`` reaches one pixel beyond the window wherever the tile does.

    Args:
        raw: Coarse pixels (height, width), below 2¹⁶.
        valid: Which of them have data.
        factor: Fine pixels per coarse pixel and axis, at most 6.
        rows: Fine rows asked for, counted from the first fine row of ``raw``.
        cols: Fine columns asked for.
        offset: Added before rounding.

    Returns:
        Values rounded half to even, (rows, cols); meaningless where no pixel around is valid.
    """
    weight = valid.astype(np.int32)
    value = np.where(valid, raw, 0).astype(np.int32)
    for axis, part in ((0, rows), (1, cols)):
        value, weight = (_interpolate(array, factor, part, axis) for array in (value, weight))
    total = value.astype(np.int64) + weight.astype(np.int64) * offset
    return _divide_half_even(total, np.maximum(weight, 1).astype(np.int64)).astype(np.int32)


def _interpolate(array: npt.NDArray[np.int32], factor: int, part: slice, axis: int) -> npt.NDArray[np.int32]:
    """Weighted sums along one axis, times 2·factor; zeros beyond the edges."""
    place = 2 * np.arange(part.start, part.stop) + 1 - factor
    before, share = np.divmod(place, 2 * factor)
    padded = np.pad(array, [(1, 1) if a == axis else (0, 0) for a in range(2)])
    shape = (-1, 1) if axis == 0 else (1, -1)
    near = np.take(padded, before + 1, axis) * (2 * factor - share).astype(np.int32).reshape(shape)
    far = np.take(padded, before + 2, axis) * share.astype(np.int32).reshape(shape)
    result: npt.NDArray[np.int32] = near + far
    return result


def _divide_half_even(numerator: npt.NDArray[np.int64], denominator: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Quotient rounded to the nearest integer, halves to the even one; the denominator is positive."""
    quotient, rest = np.divmod(numerator, denominator)
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1))
    rounded: npt.NDArray[np.int64] = quotient + up
    return rounded


def _repeat(array: npt.NDArray[Any], factor: int) -> npt.NDArray[Any]:
    return array if factor == 1 else array.repeat(factor, axis=0).repeat(factor, axis=1)


def _cover(start: int, length: int, factor: int, limit: int, margin: int) -> tuple[int, int]:
    """First and last (exclusive) coarse pixel under a fine range, ``margin`` more on both sides inside 0 … limit."""
    return max(0, start // factor - margin), min(limit, -(-(start + length) // factor) + margin)
