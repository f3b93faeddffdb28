"""The report's pictures, as PNG inside ``data:`` addresses, so that the page needs nothing but itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from cropseg.core.bands import NODATA
from cropseg.core.labels import IGNORE
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy

INK: Final = "#1c2b22"
LINES: Final = ("#1f6f4a", "#c9822b", "#4a6fa5", "#8c3b5e", "#6b6b6b")
UNKNOWN: Final = (224, 224, 224)
"""Colour of pixels without label or without data."""


def curves(history: Mapping[str, npt.NDArray[np.float64]]) -> list[tuple[str, str]]:
    """Training curves: (title, picture) of loss, validation mIoU and learning rate, as far as they were logged."""
    found = []
    for title, wanted, log in (
        ("Loss", [n for n in history if n.endswith("loss")], False),
        ("Validation mIoU, present classes", [n for n in history if n == "val_miou_present"], False),
        ("Learning rate", [n for n in history if n == "lr" or n.startswith("lr-") or n == "learning_rate"], True),
    ):
        columns = [name for name in wanted if np.isfinite(history[name]).any()]
        if not columns or len(history["epoch"]) < 2:
            continue
        figure, axes = _figure(5.2, 3.0)
        for name, colour in zip(columns, LINES, strict=False):
            known = np.isfinite(history[name])
            epochs = history["epoch"][known] + 1
            axes.plot(epochs, history[name][known], color=colour, lw=1.8, label=name.replace("_", " "))
        if log:
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(columns) > 1:
            axes.legend(frameon=False)
        found.append((title, _address(figure)))
    return found


def confusion(matrix: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """The row-normalised confusion matrix in percent; rows of classes without truth pixels stay empty."""
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix * 100.0, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    figure, axes = _figure(7.4, 6.6)
    axes.imshow(share, cmap="Greens", vmin=0, vmax=100)
    for row, col in np.argwhere(np.isfinite(share) & (share >= 0.5)):
        colour = "white" if share[row, col] > 55 else INK
        axes.text(col, row, f"{share[row, col]:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    absent = [f"{name} (absent)" if not n else name for name, n in zip(names, total[:, 0], strict=True)]
    axes.set_yticks(ticks, absent)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _address(figure)


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


def embed(pixels: UInt8Array) -> str:
    """A picture, uint8 (height, width, 3), as the address of an image in a page."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    return _data(buffer.getvalue())


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    axes.tick_params(colors=INK)
    return figure, axes


def _address(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return _data(buffer.getvalue())


def _data(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
