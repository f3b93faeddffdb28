"""The report's pictures as PNG or JPEG: curves, reliability diagrams, and patches in the classes' colours."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cropseg.calibration import Diagram
from cropseg.core.scene import UInt8Array
from cropseg.pictures import UNKNOWN, paint, true_color
from cropseg.report.content import Picture

__all__ = ["CONFIDENCE", "UNKNOWN", "confidence", "curves", "jpeg", "paint", "png", "reliability", "true_color"]

INK: Final = "#1b2620"
LINES: Final = ("#1f6f4a", "#b5651d", "#3d6096", "#8c3b5e", "#5f5f5f")
"""Each at least 4.5 : 1 against white."""

STEPS: Final = 21
"""Confidence is drawn in steps of 5 %: small files, and no more than an eye tells apart."""

CONFIDENCE: Final = tuple(
    "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in colormaps["cividis"](i / (STEPS - 1))[:3]))
    for i in range(STEPS)
)
"""Colours of confidence from 0 to 1: cividis, which colour-blind readers see alike."""

History = Mapping[str, npt.NDArray[np.float64]]


def curves(histories: Sequence[History], chosen: Sequence[int] = ()) -> list[Picture]:
    """Training curves as Figure 3 of the paper has them, as far as they were logged.

    (a) losses, (b) validation mIoU, (c) validation pixel accuracy, (d) learning rate.

    Args:
        histories: Columns of ``metrics.csv`` by name, one for each seed. With several, the line is their mean and the
            band runs from the lowest to the highest; where some stopped earlier, over those that went on.
        chosen: Epochs, from 1, whose checkpoints were kept: thin upright lines.
    """
    found: list[Picture] = []
    names = list(dict.fromkeys(name for history in histories for name in history))
    for title, wanted, log in (
        ("Loss", [n for n in names if n.endswith("loss")], False),
        ("Validation mIoU, present classes", [n for n in names if n == "val_miou_present"], False),
        ("Validation pixel accuracy", [n for n in names if n == "val_pixel_accuracy"], False),
        ("Learning rate", [n for n in names if n == "lr" or n.startswith("lr-") or n == "learning_rate"], True),
    ):
        columns = {name: column for name in wanted if len(column := _over_epochs(histories, name))}
        if not columns or max(len(history.get("epoch", ())) for history in histories) < 2:
            continue
        figure, axes = _figure(5.2, 3.2)
        for (name, column), colour in zip(columns.items(), cycle(LINES)):
            epochs, mean, low, high = column.T
            axes.plot(epochs, mean, color=colour, lw=1.8, gid=CURVES.get(name, name.replace("_", " ")))
            if len(histories) > 1:
                axes.fill_between(epochs, low, high, color=colour, alpha=0.2, lw=0)
        for epoch in chosen:
            axes.axvline(epoch, color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.6)
        if log:
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(columns) > 1:
            _legend(axes)
        first = next(iter(columns.values()))
        shown = f"{title} over {len(first)} epochs: {first[0, 1]:.4g} at the first, {first[-1, 1]:.4g} at the last"
        found.append(Picture(f"({'abcd'[len(found)]}) {title}", shown, _file(figure)))
    return found


CURVES: Final = {"train_loss": "training", "val_loss": "validation"}


def _over_epochs(histories: Sequence[History], name: str) -> npt.NDArray[np.float64]:
    """Rows (epoch from 1, mean, lowest, highest) of a column over the histories that have it there."""
    values: dict[int, list[float]] = {}
    for history in histories:
        if name in history:
            for epoch, value in zip(history["epoch"], history[name], strict=True):
                if np.isfinite(value):
                    values.setdefault(int(epoch) + 1, []).append(float(value))
    rows = [(epoch, np.mean(one), min(one), max(one)) for epoch, one in sorted(values.items())]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def reliability(diagrams: Mapping[str, Diagram]) -> bytes:
    """Reliability diagrams of several models, by name: how often each is right where it is so and so sure; PNG."""
    figure, axes = _figure(4.6, 4.4)
    axes.plot([0, 1], [0, 1], color="#9aa59e", lw=1, ls="--", gid="perfectly calibrated")
    for (name, one), colour in zip(diagrams.items(), cycle(LINES)):
        held = one.pixels > 0
        sure, right = one.confidence[held], one.accuracy[held]
        axes.plot(sure, right, color=colour, lw=1.6, gid=name)
        axes.scatter(sure, right, s=10 + 180 * one.pixels[held] / one.pixels.sum(), color=colour, alpha=0.8, lw=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of pixels that are right", aspect="equal")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, fontsize=9, loc="upper left")
    return _file(figure)


def confidence(values: npt.NDArray[np.float32], empty: npt.NDArray[np.bool_]) -> UInt8Array:
    """Confidence 0 … 1, (height, width), in the colours of :data:`CONFIDENCE`; grey where ``empty``."""
    palette = np.array([tuple(bytes.fromhex(colour[1:])) for colour in CONFIDENCE], dtype=np.uint8)
    steps = np.rint(np.nan_to_num(values).clip(0, 1) * (STEPS - 1)).astype(np.intp)
    painted: UInt8Array = palette[steps]
    painted[empty] = UNKNOWN
    return painted


def png(pixels: UInt8Array) -> bytes:
    """A picture of few colours, uint8 (height, width, 3), as PNG with a palette: exact and small."""
    from PIL import Image

    colours, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        image = Image.fromarray(pixels)
    else:
        image = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8))
        image.putpalette(colours.astype(np.uint8).tobytes())
    return _saved(image, "png", optimize=True)


def jpeg(pixels: UInt8Array) -> bytes:
    """A photograph, uint8 (height, width, 3), as JPEG with its colours at full resolution."""
    from PIL import Image

    return _saved(Image.fromarray(pixels), "jpeg", quality=90, subsampling=0)


def _saved(image: object, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)  # type: ignore[attr-defined]
    return buffer.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
    axes.tick_params(colors=INK)
    return figure, axes


def _legend(axes: Axes, **options: Any) -> None:
    """The legend, with names as they are: none is taken for a formula, or left out for its underscore."""
    lines = {str(line.get_gid()): line for line in axes.get_lines() if line.get_gid()}
    for text in axes.legend(list(lines.values()), list(lines), frameon=False, labelcolor=INK, **options).get_texts():
        text.set_parse_math(False)


def _file(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in letters that the font lacks is drawn as boxes; the caption has it in full.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()
