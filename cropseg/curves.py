"""The paper's Figure 3 of any run: loss, validation mIoU, pixel accuracy and learning rate over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import say
from cropseg.runs import Run, label, seed_groups
from cropseg.scores import MEANS, SIMULATED_NOTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Axis = Literal["epoch", "minutes"]

FORMATS: Final = ("png", "svg", "pdf")
SECONDS: Final = "epoch_seconds"
"""Column that minutes are the sum of."""

COLORS: Final = ("#1f6f4a", "#c9822b", "#4a6fa5", "#8c3b5e", "#6b6b6b", "#b0a030", "#3a9c9c", "#222222")
INK: Final = "#1c2b22"


@dataclass(frozen=True)
class Line:
    """One line of each panel: a run, or runs that differ in their seed alone.

    Attributes:
        name: In the legend.
        histories: Columns of ``metrics.csv``, one mapping a run.
        chosen: Epoch of the checkpoint that became the run, from 0; None over several runs or where it is not known.
    """

    name: str
    histories: tuple[Mapping[str, npt.NDArray[np.float64]], ...]
    chosen: int | None

    def over(self, x: Axis, column: str) -> npt.NDArray[np.float64]:
        """Place, mean, lowest and highest of a column; (epochs, 4), the epochs that have a finite value.

        Args:
            x: What the place is: the epoch, from 1, and where some runs stopped earlier, of those that went on; or the
                minutes of training until its end, the mean over the runs, as far as all of them went.
            column: Of ``metrics.csv``.
        """
        values: dict[int, list[float]] = {}
        places: dict[int, list[float]] = {}
        for history in self.histories:
            epochs = history["epoch"].astype(int).tolist()
            ends = np.cumsum(history[SECONDS]) / 60 if x == "minutes" else history["epoch"] + 1
            for epoch, end in zip(epochs, ends.tolist(), strict=True):
                places.setdefault(epoch, []).append(end)
            for epoch, value in zip(epochs, history.get(column, np.zeros(0)).tolist(), strict=False):
                if math.isfinite(value):
                    values.setdefault(epoch, []).append(value)
        rows = [
            (float(np.mean(places[epoch])), float(np.mean(found)), min(found), max(found))
            for epoch, found in sorted(values.items())
            if x == "epoch" or len(places[epoch]) == len(self.histories)
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, 4)

    def end_of(self, x: Axis, epoch: int) -> float:
        """Place of an epoch (from 0) of a single run."""
        return float(epoch + 1 if x == "epoch" else self.histories[0][SECONDS][: epoch + 1].sum() / 60)


def lines(runs: Sequence[Run], *, mean: bool) -> list[Line]:
    """A line for each run; with ``mean``, for each group of runs that differ in their seed alone.

    Raises:
        InputError: A run was not trained by epochs, or its ``metrics.csv`` is gone.
    """
    for run in runs:
        if not run.history:
            raise InputError(f"{run.path} holds no metrics.csv", None, "train it again, or give another run")
        if "train_loss" not in run.history:
            raise InputError(
                f"{label(run, runs)} was not trained by epochs, so it has no curves",
                str(run.path),
                "name a network's run",
            )
    groups = seed_groups(runs) if mean else [[run] for run in runs]
    found = []
    for group in groups:
        several = len(group) > 1
        name = (
            f"{label(group[0], [one[0] for one in groups])}, {len(group)} seeds" if several else label(group[0], runs)
        )
        epoch = group[0].validation.get("epoch")
        chosen = epoch if isinstance(epoch, int) and not several else None
        found.append(Line(name, tuple(run.history for run in group), chosen))
    return found


def draw(
    runs: Sequence[Run],
    out: Path,
    *,
    formats: Sequence[str] = ("png", "svg"),
    miou: str = "miou",
    mean: bool = False,
    x: Axis = "epoch",
) -> list[Path]:
    """Draw the four panels and write them.

    Args:
        runs: Finished runs of networks.
        out: Path of the figure; its suffix is replaced by each of ``formats``.
        formats: Of ``png``, ``svg`` and ``pdf``.
        miou: Which of the means over classes panel (b) shows, a key of :data:`cropseg.scores.MEANS`.
        mean: Whether runs that differ in their seed alone become one line with a band from the lowest to the highest.
        x: What they are drawn over: ``epoch``, or ``minutes`` of training, validations and all else that it waits for
            included, so that settings of different speed can be compared.

    Returns:
        The files.

    Raises:
        ConfigError: An unknown format, score or axis.
        InputError: A run has no curves, or does not know its minutes.
    """
    unknown = [one for one in formats if one not in FORMATS]
    if unknown or not formats:
        raise ConfigError("formats must be of png, svg, pdf", list(formats), "formats=[png,svg]")
    known = [name for name in MEANS if name.startswith("miou")]
    if miou not in known:
        raise ConfigError("miou names no mean over classes", miou, f"choose from {', '.join(known)}")
    if x not in get_args(Axis):
        raise ConfigError("x", x, f"choose {' or '.join(get_args(Axis))}")
    drawn = lines(runs, mean=mean)
    for run in runs:
        seconds = run.history.get(SECONDS)
        if x == "minutes" and (seconds is None or not np.isfinite(seconds).all()):
            remedy = "draw it over epochs; callbacks.speed logs the time"
            raise InputError(f"{label(run, runs)} does not know how long its epochs took", str(run.path), remedy)

    # Imported here: it takes a second, and nothing above needs it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    title = MEANS[miou][0]
    _panel(axes[0, 0], drawn, x, "(a) Loss", {"train_loss": "training", "val_loss": "validation"})
    _panel(axes[0, 1], drawn, x, f"(b) Validation {title}", {f"val_{miou}": ""})
    _panel(axes[1, 0], drawn, x, "(c) Validation pixel accuracy", {"val_pixel_accuracy": ""})
    _panel(axes[1, 1], drawn, x, "(d) Learning rate", {"lr": ""}, log=True)
    notes = [SIMULATED_NOTE] if any(run.spec.simulated for run in runs) else []
    notes += ["dotted: epoch of the chosen checkpoint"] if any(line.chosen is not None for line in drawn) else []
    notes += ["bands: lowest to highest seed"] if any(len(line.histories) > 1 for line in drawn) else []
    if notes:
        figure.supxlabel("; ".join(notes), fontsize=9, color=INK)

    written = []
    for one in formats:
        path = Path(out).with_suffix(f".{one}")
        # The same runs give the same bytes: no dates, no random ids. Text in SVG stays text.
        dated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[one]
        same: dict[Any, Any] = {"svg.hashsalt": "cropseg", "svg.fonttype": "none"}
        with mpl.rc_context(same), storage.atomic_path(path) as temporary:
            figure.savefig(temporary, format=one, dpi=150, metadata=dated)
        written.append(path)
    say(f"curves of {len(runs)} run{'s' if len(runs) > 1 else ''}: {', '.join(map(str, written))}")
    return written


def _panel(
    axes: Axes, drawn: Sequence[Line], x: Axis, title: str, columns: Mapping[str, str], *, log: bool = False
) -> None:
    """One panel: a colour for each line, its first of two columns dashed; a single one has a colour for each."""
    from matplotlib.ticker import MaxNLocator

    alone = len(drawn) == 1
    for number, line in enumerate(drawn):
        for place, (column, word) in enumerate(columns.items()):
            rows = line.over(x, column)
            if not len(rows):
                continue
            places, middle, low, high = rows.T
            color = COLORS[(len(columns) - 1 - place if alone else number) % len(COLORS)]
            style = "--" if len(columns) > 1 and place == 0 and not alone else "-"
            name = word if alone and word else ", ".join(part for part in (line.name, word) if part)
            marker = "o" if len(places) == 1 else None
            axes.plot(places, middle, style, color=color, lw=1.7, marker=marker, label=name)
            if len(line.histories) > 1:
                axes.fill_between(places, low, high, color=color, alpha=0.2, lw=0)
        if line.chosen is not None:
            axes.axvline(
                line.end_of(x, line.chosen), color=COLORS[number % len(COLORS)] if not alone else INK, ls=":", lw=1
            )
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel("epoch" if x == "epoch" else "minutes of training", color=INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=x == "epoch"))
    if not axes.get_legend_handles_labels()[0]:  # the dotted lines have no label
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=INK)
        return
    if log:
        axes.set_yscale("log")
    if len(columns) > 1 or not alone:
        axes.legend(frameon=False, fontsize=8)
