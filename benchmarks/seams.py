"""How much a crop map depends on where its windows lie: the share of pixels that change class when they lie elsewhere.

    python benchmarks/seams.py <run> <product.SAFE> [--side 768] [--tta d4]

The same square of a scene is mapped twice with each layout: as it is, and with its first rows and columns cut off, so
that every window lies half a step further. A map without seams would not change. A frame of one window is left out,
since there the scene's own edge moves too. Pixels without data are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from cropseg.core.labels import IGNORE
from cropseg.core.progress import say, table
from cropseg.core.scene import Grid, UInt8Array, UInt16Array
from cropseg.core.tiling import Window
from cropseg.predict import reading_of
from cropseg.predictor import Predictor
from cropseg.runs import open_run
from cropseg.tta import augmented
from cropseg.windows import Layout, strips
from data_prep.align import AlignedProduct
from data_prep.safe import open_product


@dataclass(frozen=True)
class Square:
    """A part of a scene, held in memory."""

    name: str
    bands: tuple[str, ...]
    acquired: datetime
    image: UInt16Array

    @property
    def grid(self) -> Grid:
        """Its size; where it lies does not matter here."""
        return Grid("", (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), *self.image.shape[1:])

    def read(self, window: Window) -> UInt16Array:
        """The pixels of a window."""
        return self.image[(slice(None), *window.slices)].copy()


def mapped(predictor: Predictor, square: Square, layout: Layout) -> UInt8Array:
    """The labels of a square."""
    return np.concatenate([one.labels for one in strips(predictor, square, layout, confidence=False)])


def changed(predictor: Predictor, square: Square, layout: Layout) -> float:
    """Of the pixels with data, away from the frame, those whose class depends on where the windows lie."""
    step = (layout.size - layout.overlap) // 2
    moved = Square(square.name, square.bands, square.acquired, square.image[:, step:, step:])
    inner = slice(layout.size, -layout.size)
    first = mapped(predictor, square, layout)[step:, step:][inner, inner]
    second = mapped(predictor, moved, layout)[inner, inner]
    known = first != IGNORE
    return float((first != second)[known].mean())


def layouts(size: int) -> Sequence[Layout]:
    """Overlaps of nothing, a quarter, a half, cut and blended."""
    shares = ((0, False), (size // 4, False), (size // 2, False), (size // 4, True), (size // 2, True))
    return [Layout(size, overlap, blend) for overlap, blend in shares]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", type=Path)
    parser.add_argument("product", type=Path)
    parser.add_argument("--side", type=int, default=768, help="pixels of the square, from the middle of the scene")
    parser.add_argument("--tta", choices=["d4"])
    chosen = parser.parse_args()
    run = open_run(chosen.run)
    reading: dict[str, Any] = dict(reading_of(run, {}))
    with AlignedProduct(
        open_product(chosen.product), run.spec.bands, resolution=int(run.spec.resolution), **reading
    ) as scene:
        side = min(chosen.side, scene.grid.height, scene.grid.width)
        row, col = (scene.grid.height - side) // 2, (scene.grid.width - side) // 2
        square = Square(scene.name, scene.bands, scene.acquired, scene.read(Window(row, col, side, side)))
    if side < 3 * run.spec.patch_size:
        raise SystemExit(f"a square of {side} pixels is too small for windows of {run.spec.patch_size}: take three")
    predictor = augmented(run.predictor, chosen.tta)
    rows = [(str(one), f"{changed(predictor, square, one):.2%}") for one in layouts(run.spec.patch_size)]
    table(f"Pixels that change class when windows lie elsewhere, {run.model}", ("windows", "changed"), rows)
    say(f"{side} by {side} pixels of {square.name}; test-time augmentation: {chosen.tta or 'none'}")


if __name__ == "__main__":
    main()
