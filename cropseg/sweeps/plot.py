"""The jobs of a sweep as lines across parallel axes, one for each key that varies, and one for the score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cropseg.core import storage
from cropseg.sweeps.jobs import Job

SCORE = "miou_present"


@dataclass(frozen=True)
class Axis:
    """One axis of the picture.

    Attributes:
        name: Key of the config, or the score.
        heights: Where each job's line crosses it, 0 (bottom) to 1 (top).
        ticks: Heights of its labels.
        labels: Their text.
        log: Whether heights are logarithmic in the value.
    """

    name: str
    heights: npt.NDArray[np.float64]
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    log: bool = False


def axis_of(name: str, values: Sequence[str]) -> Axis:
    """The axis for values as typed: numbers to scale, names in alphabetical order.

    Numbers that span a decade or more are on a logarithmic axis if that puts their median nearer to its middle; the
    score never is. Up to six distinct numbers are labelled each, of more five places along the axis.
    """
    numbers = [_number(value) for value in values]
    if any(number is None for number in numbers):
        names = sorted(set(values))
        place = {one: (i + 0.5) / len(names) for i, one in enumerate(names)}
        ticks = tuple(place[one] for one in names)
        return Axis(name, np.array([place[value] for value in values]), ticks, tuple(one or "—" for one in names))
    found = np.array(numbers, dtype=np.float64)
    low, high = float(found.min()), float(found.max())
    log = name != SCORE and low > 0 and high / low >= 10
    if log:
        median = float(np.median(found))
        off = abs(math.log(median / low) / math.log(high / low) - 0.5), abs((median - low) / (high - low) - 0.5)
        log = off[0] < off[1]

    def height(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if high == low:
            return np.full_like(value, 0.5)
        if log:
            return np.asarray(np.log(value / low) / math.log(high / low), dtype=np.float64)
        return (value - low) / (high - low)

    marks = np.unique(found)
    if len(marks) > 6:
        marks = np.geomspace(low, high, 5) if log else np.linspace(low, high, 5)
    return Axis(name, height(found), tuple(map(float, height(marks))), tuple(f"{mark:.4g}" for mark in marks), log)


def parallel_coordinates(jobs: Sequence[Job], keys: Sequence[str], path: Path) -> bool:
    """Draw the finished jobs that have a score, the best on top and thickest, as a PNG.

    Args:
        jobs: Of one sweep.
        keys: Axes to draw, left to right; the score is added on the right.
        path: Where the picture goes.

    Returns:
        Whether there was a job to draw.
    """
    done = sorted((job for job in jobs if not math.isnan(job.score)), key=lambda job: job.score)
    if not done:
        return False
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = [axis_of(key, [job.overrides.get(key, "") for job in done]) for key in keys]
    axes.append(axis_of(SCORE, [str(job.score) for job in done]))
    figure = Figure(figsize=(2.2 + 1.7 * len(axes), 4.6), dpi=150)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.06, 0.06, 0.9, 0.76))
    colours = matplotlib.colormaps["viridis"](axes[-1].heights * 0.92)
    across = np.linspace(0, len(axes) - 1, 60 * (len(axes) - 1) + 1)
    for i in range(len(done)):
        heights = np.interp(_eased(across), np.arange(len(axes)), [axis.heights[i] for axis in axes])
        best = i == len(done) - 1
        ax.plot(across, heights, color=colours[i], lw=3 if best else 1.4, alpha=1 if best else 0.75, clip_on=False)
    for x, axis in enumerate(axes):
        ax.plot([x, x], [0, 1], color="0.25", lw=1, zorder=5, clip_on=False)
        ax.text(x, 1.07, f"{axis.name}\n(log)" if axis.log else axis.name, ha="center", va="bottom", fontsize=9)
        for tick, label in zip(axis.ticks, axis.labels, strict=True):
            ax.plot([x - 0.02, x + 0.02], [tick, tick], color="0.25", lw=1, zorder=5, clip_on=False)
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
            ax.text(x + 0.035, tick, label, fontsize=8, va="center", zorder=6, bbox=box)
    ax.set(xlim=(-0.1, len(axes) - 0.6), ylim=(-0.02, 1.02))
    ax.axis("off")
    with storage.atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor="white")
    return True


def _eased(across: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Flat at each axis, steep in between: lines that cross stay apart for the eye."""
    whole = np.floor(across)
    part = across - whole
    return np.asarray(whole + part * part * (3 - 2 * part), dtype=np.float64)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
