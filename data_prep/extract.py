"""One region on one product: its windows cut, labelled and judged, each accepted or refused with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import geopandas as gpd

from cropseg.core.scene import Grid, UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy
from cropseg.core.tiling import Window
from data_prep.align import AlignedProduct
from data_prep.patches import Region, why_none, windows_of
from data_prep.quality import Figures, Thresholds, judge
from data_prep.rasterize import Coverage, UInt32Array, Undefined, rasterize


@dataclass(frozen=True)
class Candidate:
    """A window that passed every filter.

    Attributes:
        window: Where it lies on the product's grid.
        grid: Its own grid.
        image: uint16 (bands, height, width), reflectance × 10000, 0 = no data.
        mask: uint8 (height, width), class ids and 255.
        parcels: uint32 (height, width), parcel numbers, 0 = none.
        figures: What was measured on it.
    """

    window: Window
    grid: Grid
    image: UInt16Array
    mask: UInt8Array
    parcels: UInt32Array
    figures: Figures


@dataclass(frozen=True)
class Rejection:
    """A window that was refused, or a region without any.

    Attributes:
        window: Where it lies on the product's grid; None for the whole region.
        rule: The filter that refused it (see :class:`data_prep.quality.Verdict`), or ``region``.
        reason: One line for people.
        figures: What was measured on it; None for a whole region.
    """

    window: Window | None
    rule: str
    reason: str
    figures: Figures | None


def extract(
    scene: AlignedProduct,
    roi: Region,
    parcels: gpd.GeoDataFrame,
    *,
    size: int,
    stride: int,
    thresholds: Thresholds,
    taxonomy: Taxonomy,
    coverage: Coverage = "exhaustive",
    extent: tuple[float, float, float, float] | None = None,
    all_touched: bool = False,
    undefined: Undefined = "ignore",
) -> Iterator[Candidate | Rejection]:
    """Cut a region's windows from a product, and judge each.

    The pixels are read once, for the rectangle around all windows, and so are the parcels burnt once.

    Args:
        scene: The opened product.
        roi: The region.
        parcels: Harmonised parcels, see :func:`data_prep.rasterize.rasterize`.
        size: Window size in pixels.
        stride: Step in pixels.
        thresholds: The filters' limits.
        taxonomy: Classes of the masks.
        coverage: Whether ground without a parcel is background.
        extent: The ground that the parcels speak for, degrees.
        all_touched: See :func:`data_prep.rasterize.rasterize`.
        undefined: See :func:`data_prep.rasterize.rasterize`.

    Yields:
        Every window once, row by row, accepted or refused; a single refusal where there is no window.

    Raises:
        ConfigError: An impossible option.
        InputError: A file of the product cannot be read.
    """
    windows = windows_of(roi, scene.grid, size, stride)
    if not windows:
        yield Rejection(None, "region", why_none(roi, scene.grid, size, stride) or "no window", None)
        return
    area = _around(windows)
    block, scl = scene.read_block(area), scene.scl(area)
    labels = rasterize(parcels, scene.grid.window(area), coverage, extent, all_touched=all_touched, undefined=undefined)
    for window in windows:
        inner = window.shifted(-area.row, -area.col)
        pixels = block.crop(inner)
        mask = labels.mask[inner.slices].copy()
        verdict = judge(
            pixels.image,
            mask,
            scl[inner.slices],
            thresholds,
            taxonomy,
            bands=scene.bands,
            clamped_fraction=pixels.clamped_fraction,
        )
        if verdict.accepted:
            numbers = labels.parcels[inner.slices].copy()
            yield Candidate(window, scene.grid.window(window), pixels.image, mask, numbers, verdict.figures)
        else:
            yield Rejection(window, verdict.rule, verdict.reason, verdict.figures)


def _around(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all of ``windows``."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(row, col, max(w.row + w.height for w in windows) - row, max(w.col + w.width for w in windows) - col)
