"""Pictures of patches, predictions and confusion matrices, drawn as arrays: cheap enough to be made while training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg.core import storage
from cropseg.core.bands import NODATA
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Dataset
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy

UNKNOWN: Final = (224, 224, 224)
"""Colour of pixels without label or without data."""

INK: Final = (28, 43, 34)
GAP: Final = 8
LINE: Final = 18
"""Height in pixels of a line of text."""

SIDE: Final = 192
"""Least side in pixels that a patch is shown at; smaller ones are enlarged by a whole factor."""


def true_color(image: UInt16Array, bands: Sequence[str]) -> UInt8Array:
    """An image as the eye would see it: red, green and blue stretched from the 2nd to the 98th percentile.

    Args:
        image: uint16 (bands, height, width), 0 = no data.
        bands: Channel order; without B04, B03 and B02 the first band is shown in grey.

    Returns:
        uint8 (height, width, 3); no data in grey.
    """
    wanted = [bands.index(name) if name in bands else 0 for name in ("B04", "B03", "B02")]
    picture = image[wanted].astype(np.float64)
    empty = (image == NODATA).any(axis=0)
    if not empty.all():
        # One stretch for the three channels keeps the hue.
        low, high = np.percentile(picture[:, ~empty], (2, 98))
        picture = ((picture - low) / max(high - low, 1)).clip(0, 1) ** 0.8
    pixels = (np.moveaxis(picture.clip(0, 1), 0, -1) * 255).astype(np.uint8)
    pixels[empty] = UNKNOWN
    return pixels


def paint(mask: UInt8Array, taxonomy: Taxonomy) -> UInt8Array:
    """Labels in the taxonomy's colours, uint8 (height, width, 3); 255 in grey."""
    palette = np.full((IGNORE + 1, 3), UNKNOWN, dtype=np.uint8)
    palette[: len(taxonomy)] = taxonomy.colors
    painted: UInt8Array = palette[mask]
    return painted


def choose_patches(dataset: Dataset, rows: Sequence[int], count: int) -> list[int]:
    """Patches to show: those with most classes, no two of one place before every place had its turn.

    The choice depends on labels alone, never on a prediction, so it flatters no model.
    """
    counts = np.array(dataset.manifest["counts"].to_pylist(), dtype=np.int64).reshape(len(dataset), -1)
    rois = dataset.manifest["roi"].to_pylist()
    ranked = sorted((int(row) for row in rows), key=lambda row: (-int((counts[row] > 0).sum()), row))
    turn: dict[str, int] = {}
    order: list[tuple[int, int, int]] = []
    for row in ranked:
        turn[rois[row]] = turn.get(rois[row], 0) + 1
        order.append((turn[rois[row]], len(order), row))
    return [row for _, _, row in sorted(order)[:count]]


def panel(dataset: Dataset, rows: Sequence[int], predicted: UInt8Array, title: str) -> UInt8Array:
    """Patches below each other: image, truth, prediction; the classes that occur stand below with their colours.

    Args:
        dataset: Where the patches come from.
        rows: Rows of its manifest.
        predicted: Labels, uint8 (rows, height, width); shown where the image has data.
        title: Stands above.

    Returns:
        uint8 (height, width, 3).
    """
    taxonomy = dataset.spec.taxonomy
    strips = []
    seen: set[int] = set()
    for row, labels in zip(rows, predicted, strict=True):
        image, truth = dataset.image(row), dataset.mask(row)
        shown = np.where((image == NODATA).any(axis=0), IGNORE, labels).astype(np.uint8)
        seen.update(np.unique(truth).tolist(), np.unique(shown).tolist())
        parts = (true_color(image, dataset.spec.bands), paint(truth, taxonomy), paint(shown, taxonomy))
        strips.append(_beside([_enlarged(part) for part in parts]))
    body = _below([strip for strip in strips for strip in (strip, _blank(GAP, strip.shape[1]))][:-1])
    side = (body.shape[1] - 2 * GAP) // 3
    heads = _text(body.shape[1], [(i * (side + GAP), word) for i, word in enumerate(("image", "truth", "prediction"))])
    named = [(taxonomy.names[i], taxonomy.colors[i]) for i in sorted(seen) if i < len(taxonomy)]
    named += [("unknown or no data", UNKNOWN)] if IGNORE in seen else []
    note = " (simulated)" if dataset.spec.simulated else ""
    return _framed(_below([_text(body.shape[1], [(0, title + note)]), heads, body, _legend(body.shape[1], named)]))


def confusion(matrix: npt.NDArray[np.int64], names: Sequence[str], title: str) -> UInt8Array:
    """A confusion matrix, each row divided by its sum, in percent; rows of classes without truth pixels stay empty.

    Args:
        matrix: Pixels (classes, classes), rows truth, columns prediction.
        names: Of the classes.
        title: Stands above.

    Returns:
        uint8 (height, width, 3).
    """
    from PIL import Image, ImageDraw

    cell, left = 40, 20 + 7 * max(len(name) for name in names)
    top = 2 * LINE + GAP
    size = len(names) * cell
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    canvas = Image.new("RGB", (max(left + size + GAP, 7 * len(title) + 2 * GAP), top + size + 2 * LINE), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 4), title, fill=INK)
    draw.text((left, top - LINE), "predicted: the numbers of the classes; rows: truth; percent of the row", fill=INK)
    for i, name in enumerate(names):
        draw.text((GAP, top + i * cell + 13), f"{i} {name}", fill=INK if total[i, 0] else (160, 160, 160))
        draw.text((left + i * cell + 15, top + size + 4), str(i), fill=INK)
        for j in range(len(names)):
            # White to a dark green; the text turns white on dark cells.
            part = float(share[i, j])
            colour = tuple(int(255 + part * (end - 255)) for end in (0, 68, 27))
            box = (left + j * cell, top + i * cell, left + (j + 1) * cell - 1, top + (i + 1) * cell - 1)
            draw.rectangle(box, fill=colour, outline=(230, 230, 230))
            if part >= 0.005:
                draw.text((box[0] + 10, box[1] + 13), f"{100 * part:.0f}", fill="white" if part > 0.55 else INK)
    pixels: UInt8Array = np.asarray(canvas)
    return pixels


def write_png(path: Path, pixels: UInt8Array) -> None:
    """Write a picture, uint8 (height, width, 3), atomically."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="png")
    storage.write_bytes(path, content.getvalue())


def _enlarged(pixels: UInt8Array) -> UInt8Array:
    factor = -(-SIDE // pixels.shape[1])
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _blank(height: int, width: int) -> UInt8Array:
    return np.full((height, width, 3), 255, dtype=np.uint8)


def _beside(parts: Sequence[UInt8Array]) -> UInt8Array:
    gap = _blank(len(parts[0]), GAP)
    return np.concatenate([piece for part in parts for piece in (part, gap)][:-1], axis=1)


def _below(parts: Sequence[UInt8Array]) -> UInt8Array:
    return np.concatenate(parts, axis=0)


def _framed(pixels: UInt8Array) -> UInt8Array:
    return np.pad(pixels, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)


def _text(width: int, words: Sequence[tuple[int, str]]) -> UInt8Array:
    """One line, its words at their distances from the left."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, LINE), "white")
    draw = ImageDraw.Draw(canvas)
    for left, word in words:
        draw.text((left, 3), word, fill=INK)
    pixels: UInt8Array = np.asarray(canvas)
    return pixels


def _legend(width: int, named: Sequence[tuple[str, tuple[int, int, int]]]) -> UInt8Array:
    """Colours and names, in as many lines as they need."""
    from PIL import Image, ImageDraw

    column = 170
    per_line = max(width // column, 1)
    canvas = Image.new("RGB", (width, GAP + LINE * -(-len(named) // per_line)), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (name, colour) in enumerate(named):
        left, top = i % per_line * column, GAP + i // per_line * LINE
        draw.rectangle((left, top + 3, left + 11, top + 14), fill=colour, outline=(120, 120, 120))
        draw.text((left + 17, top + 3), name, fill=INK)
    pixels: UInt8Array = np.asarray(canvas)
    return pixels
