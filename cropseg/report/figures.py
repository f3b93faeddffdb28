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

from cropseg.core.scene import UInt8Array
from cropseg.pictures import UNKNOWN, paint, true_color

__all__ = ["UNKNOWN", "confusion", "curves", "embed", "paint", "true_color"]

INK: Final = "#1c2b22"
LINES: Final = ("#1f6f4a", "#c9822b", "#4a6fa5", "#8c3b5e", "#6b6b6b")


def curves(histories: Sequence[Mapping[str, npt.NDArray[np.float64]]]) -> list[tuple[str, str]]:
    """Training curves: (title, picture) of loss, validation mIoU and learning rate, as far as they were logged.

    Args:
        histories: Columns of ``metrics.csv`` by name, one for each seed. With several, the line is their mean and the
            band runs from the lowest to the highest; where some stopped earlier, over those that went on.
    """
    found = []
    names = list(dict.fromkeys(name for history in histories for name in history))
    for title, wanted, log in (
        ("Loss", [n for n in names if n.endswith("loss")], False),
        ("Validation mIoU, present classes", [n for n in names if n == "val_miou_present"], False),
        ("Learning rate", [n for n in names if n == "lr" or n.startswith("lr-") or n == "learning_rate"], True),
    ):
        columns = {name: column for name in wanted if len(column := _over_epochs(histories, name))}
        if not columns or max(len(history.get("epoch", ())) for history in histories) < 2:
            continue
        figure, axes = _figure(5.2, 3.0)
        for (name, column), colour in zip(columns.items(), LINES, strict=False):
            epochs, mean, low, high = column.T
            axes.plot(epochs, mean, color=colour, lw=1.8, label=name.replace("_", " "))
            if len(histories) > 1:
                axes.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        if log:
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(columns) > 1:
            axes.legend(frameon=False)
        found.append((title, _address(figure)))
    return found


def _over_epochs(histories: Sequence[Mapping[str, npt.NDArray[np.float64]]], name: str) -> npt.NDArray[np.float64]:
    """Epoch (from 1), mean, lowest and highest of a column over the histories; (epochs, 4), those that have a value."""
    values: dict[int, list[float]] = {}
    for history in histories:
        if name in history:
            for epoch, value in zip(history["epoch"], history[name], strict=True):
                if np.isfinite(value):
                    values.setdefault(int(epoch) + 1, []).append(float(value))
    rows = [(epoch, np.mean(one), min(one), max(one)) for epoch, one in sorted(values.items())]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


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
