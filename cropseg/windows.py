"""The labels of a whole scene, window by window and strip by strip, so that memory holds one row of windows.

Windows overlap. Two ways of putting them together:

- cut: only the middle of each is kept; along each axis neighbours meet half-way through their overlap, and the
  outermost reach to the scene's edge. Every pixel comes from exactly one window, at least ``overlap / 2`` pixels away
  from its border unless the scene ends there.
- blend: class probabilities of overlapping windows are averaged with weights that fall off linearly over the overlap
  towards a window's border, and sum to 1 at every pixel. It needs a float for every class and pixel of a row of
  windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import NODATA
from cropseg.core.errors import ConfigError
from cropseg.core.labels import IGNORE
from cropseg.core.progress import track
from cropseg.core.scene import ClassifiedScene, SceneReader, UInt8Array, UInt16Array
from cropseg.core.tiling import Window, starts
from cropseg.predictor import Predictor

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Layout:
    """How a scene is cut into windows and put together again.

    Attributes:
        size: Window in pixels; a scene smaller than that is taken whole.
        overlap: Pixels that neighbouring windows share.
        blend: Whether overlapping windows are averaged; else the middle of each is kept.
        batch_size: Windows at a time.
    """

    size: int
    overlap: int
    blend: bool = False
    batch_size: int = 4

    def __post_init__(self) -> None:
        """Refuse impossible windows."""
        if self.size < 1 or not 0 <= self.overlap < self.size or self.batch_size < 1:
            values = (self.size, self.overlap, self.batch_size)
            raise ConfigError("window, overlap and batch_size do not fit", values, "0 ≤ overlap < window")

    def __str__(self) -> str:
        """As a map's metadata tell it."""
        kept = "blended linearly over the overlap" if self.blend else "middle kept"
        return f"{self.size} px, overlap {self.overlap} px, {kept}"


@dataclass(frozen=True)
class Strip:
    """Finished rows of a map.

    Attributes:
        window: Where they lie.
        labels: uint8 (height, width), class ids; 255 where there is no data, or where the scene classes mask it.
        percent: uint8, the winning class's probability in percent, 255 as in labels; (0, 0) if not asked for.
        empty: Where a band has no data.
        masked: Where the scene has data, but its scene class was among those to leave out.
    """

    window: Window
    labels: UInt8Array
    percent: UInt8Array
    empty: Bool
    masked: Bool


def strips(
    predictor: Predictor, scene: SceneReader, layout: Layout, *, confidence: bool, masked: Sequence[int] = ()
) -> Iterator[Strip]:
    """The map of a scene, top to bottom.

    Args:
        predictor: The model.
        scene: The image.
        layout: How it is cut into windows.
        confidence: Whether percentages are wanted.
        masked: Scene classes to leave out; for a scene that has them.
    """
    for window, labels, percent, empty in (_blended if layout.blend else _cut)(predictor, scene, layout, confidence):
        left_out = np.zeros(labels.shape, dtype=np.bool_)
        if masked and isinstance(scene, ClassifiedScene):
            left_out = np.isin(scene.scl(window), list(masked)) & ~empty
        for array in (labels, *([percent] if confidence else [])):
            array[empty | left_out] = IGNORE
        yield Strip(window, labels, percent, empty, left_out)


def tiles(length: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Windows along one axis and what is kept of each: (first pixel, first kept, end of kept), ascending.

    The kept parts join without gap or overlap from 0 to ``length``.
    """
    size = min(size, length)
    first = starts(length, size, max(1, size - overlap), border_aligned=True)
    cuts = [0, *((left + size + right) // 2 for left, right in pairwise(first)), length]
    return [(start, cuts[i], cuts[i + 1]) for i, start in enumerate(first)]


def tapers(length: int, size: int, overlap: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Windows along one axis and the weight of each of their pixels: (first pixel, float32 (size,)), ascending.

    Before normalisation a weight is min(k + 1, size - k, overlap + 1) at pixel k: flat in the middle, linear over the
    overlap, so that two neighbours add up to a constant. Dividing by the sum of all windows at a pixel makes the
    weights sum to 1 everywhere, also where the last window overlaps more and at the scene's edges.
    """
    size = min(size, length)
    overlap = min(overlap, size - 1)
    place = np.arange(size)
    weight = np.minimum(np.minimum(place + 1, size - place), overlap + 1).astype(np.float64)
    total = np.zeros(length)
    first = starts(length, size, size - overlap, border_aligned=True)
    for start in first:
        total[start : start + size] += weight
    return [(start, (weight / total[start : start + size]).astype(np.float32)) for start in first]


Rows = tuple[Window, UInt8Array, UInt8Array, Bool]


def _cut(predictor: Predictor, scene: SceneReader, layout: Layout, confidence: bool) -> Iterator[Rows]:
    grid = scene.grid
    rows, cols = (tiles(length, layout.size, layout.overlap) for length in (grid.height, grid.width))
    width = min(layout.size, grid.width)
    for (top, keep_top, keep_end), strip in zip(rows, _read(scene, rows, layout.size), strict=True):
        labels = np.full((keep_end - keep_top, grid.width), IGNORE, dtype=np.uint8)
        sure = np.full(labels.shape if confidence else (0, 0), IGNORE, dtype=np.uint8)
        inside = slice(keep_top - top, keep_end - top)
        empty = (strip == NODATA).any(axis=0)[inside]
        todo = [col for col in cols if not empty[:, col[1] : col[2]].all()]
        for start in range(0, len(todo), layout.batch_size):
            batch = todo[start : start + layout.batch_size]
            images = np.stack([strip[:, :, left : left + width] for left, _, _ in batch])
            predicted, percent = _classify(predictor, images, confidence=confidence)
            for i, (left, keep_left, keep_right) in enumerate(batch):
                kept = (inside, slice(keep_left - left, keep_right - left))
                labels[:, keep_left:keep_right] = predicted[i][kept]
                if confidence:
                    sure[:, keep_left:keep_right] = percent[i][kept]
        yield Window(keep_top, 0, keep_end - keep_top, grid.width), labels, sure, empty


def _blended(predictor: Predictor, scene: SceneReader, layout: Layout, confidence: bool) -> Iterator[Rows]:
    grid = scene.grid
    rows, cols = (tapers(length, layout.size, layout.overlap) for length in (grid.height, grid.width))
    height, width = min(layout.size, grid.height), min(layout.size, grid.width)
    ends = [*(top for top, _ in rows[1:]), grid.height]  # rows above the next window are finished
    total = np.zeros((len(predictor.spec.taxonomy), 0, grid.width), dtype=np.float32)
    tops = [(top, 0, 0) for top, _ in rows]
    for (top, down), end, strip in zip(rows, ends, _read(scene, tops, layout.size), strict=True):
        new = np.zeros((len(total), height - total.shape[1], grid.width), dtype=np.float32)
        total = np.concatenate((total, new), axis=1)
        empty = (strip == NODATA).any(axis=0)
        todo = [col for col in cols if not empty[:, col[0] : col[0] + width].all()]
        for start in range(0, len(todo), layout.batch_size):
            batch = todo[start : start + layout.batch_size]
            found = predictor.probabilities(np.stack([strip[:, :, left : left + width] for left, _ in batch]))
            for probabilities, (left, across) in zip(found, batch, strict=True):
                total[:, :, left : left + width] += probabilities * down[:, None] * across
        done, total = total[:, : end - top], total[:, end - top :]
        labels = done.argmax(axis=0).astype(np.uint8)
        sure = _percent(done.max(axis=0)) if confidence else np.empty((0, 0), dtype=np.uint8)
        yield Window(top, 0, end - top, grid.width), labels, sure, empty[: end - top]


def _read(scene: SceneReader, rows: Sequence[tuple[int, int, int]], size: int) -> Iterator[UInt16Array]:
    """The pixels of each row of windows.

    Windows of neighbouring rows overlap: only what is new is read, since decoding JPEG 2000 is the dear part.
    """
    grid = scene.grid
    height = min(size, grid.height)
    strip = np.empty((len(scene.bands), 0, grid.width), dtype=np.uint16)
    end = 0  # of the rows in the strip
    for top, _, _ in track(rows, f"mapping {scene.name}"):
        new = scene.read(Window(end, 0, top + height - end, grid.width))
        strip = np.concatenate((strip[:, strip.shape[1] - (end - top) :], new), axis=1)
        end = top + height
        yield strip


def _classify(predictor: Predictor, images: UInt16Array, *, confidence: bool) -> tuple[UInt8Array, UInt8Array]:
    """Labels (n, height, width) and, if asked for, the percent of the winning class."""
    if not confidence:
        return predictor.labels(images), np.empty(0, dtype=np.uint8)
    probabilities = predictor.probabilities(images)
    return probabilities.argmax(axis=1).astype(np.uint8), _percent(probabilities.max(axis=1))


def _percent(share: npt.NDArray[np.float32]) -> UInt8Array:
    percent: UInt8Array = np.rint(share * 100).clip(0, 100).astype(np.uint8)
    return percent
