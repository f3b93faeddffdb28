"""Scoring anybody's crop map against parcels, pixel by pixel in the map's own grid, and parcel by parcel.

A pixel belongs to the parcel that its centre lies in. The map is read block by block; of the rest only the votes in
each parcel are kept. Which parcels, and what they grow, is the caller's to say (:class:`Truth`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from cropseg import metrics
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.progress import say, table, track, warn
from cropseg.core.scene import Grid, UInt8Array
from cropseg.core.taxonomy import Taxonomy
from cropseg.map_file import CropMapFile, Legend, open_map
from cropseg.scores import MEANS, PROTOCOLS, SIMULATED_NOTE, Evaluation, format_score
from cropseg.scores import Protocol as Counting

NOTE_OF_OWN_MAPS: Final = "NOTE"
"""Tag in which predict.py says that a map is of simulated ground."""


class Truth(Protocol):
    """Parcels with their classes, ready to be laid on any grid."""

    @property
    def name(self) -> str:
        """Name under which results are stored."""
        ...

    @property
    def path(self) -> Path:
        """The parcel file."""
        ...

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of the labels."""
        ...

    @property
    def exhaustive(self) -> bool:
        """Whether ground without a parcel is background; otherwise it is unknown."""
        ...

    @property
    def labels(self) -> UInt8Array:
        """Class of each parcel by its number, uint8; entry 0 is not used, 255 is unknown."""
        ...

    def bounds(self, crs: str) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the ground that is known, in ``crs``."""
        ...

    def read(self, grid: Grid) -> tuple[UInt8Array, npt.NDArray[np.uint32]]:
        """Class (255 unknown) and parcel number (0 none) of each pixel of ``grid``, (height, width)."""
        ...


@dataclass(frozen=True)
class MapScore:
    """A map against parcels.

    Attributes:
        evaluation: Pixels, in the form in which runs' evaluations are stored; ``patches`` are blocks that hold truth.
        parcels: Parcels, (classes, classes): rows what grows there, columns the class that most of its pixels have.
        undecided: Parcels of a known class in which the map says nothing.
        legend: What the map's values were taken for.
        map: The map.
    """

    evaluation: Evaluation
    parcels: npt.NDArray[np.int64]
    undecided: int
    legend: Legend
    map: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: :class:`cropseg.scores.Evaluation` reads its part of it back."""
        return {
            **self.evaluation.to_dict(),
            "map": self.map.name,
            "legend": {"name": self.legend.name, "values": {str(k): v for k, v in self.legend.values.items()}},
            "parcels": {"confusion": self.parcels.tolist(), "undecided": self.undecided},
        }


def score_map(path: str | Path, truth: Truth, legend: str | None = None, out: str | Path | None = None) -> MapScore:
    """Score a map, store the result as JSON and print it.

    Args:
        path: The map, see :func:`cropseg.map_file.open_map`.
        truth: The parcels.
        legend: Name or path of the legend; None for a map that predict.py made.
        out: Folder of ``<truth>.json``; None stands for ``<map>.evaluation`` beside the map.

    Raises:
        InputError: The map cannot be read, holds values without a meaning, or does not meet the parcels.
        ConfigError: The legend is missing or broken.
    """
    path = Path(path)
    with open_map(path, truth.taxonomy, legend) as opened:
        result = count(opened, truth)
    where = (Path(out) if out else path.with_name(f"{path.stem}.evaluation")) / f"{truth.name}.json"
    storage.write_json(where, result.to_dict())
    _show(result, truth)
    say(f"confusion matrices in {where}")
    return result


def count(opened: CropMapFile, truth: Truth) -> MapScore:
    """Count pixels and parcels of an open map by truth and map; see :func:`score_map`."""
    legend = opened.legend
    classes = len(legend.classes)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    votes = np.zeros((len(truth.labels), classes), dtype=np.uint32)
    seen = np.zeros(len(truth.labels), dtype=bool)
    without_label = without_data = blocks = 0
    windows = list(opened.windows(truth.bounds(opened.grid.crs)))
    for window in track(windows, f"scoring {opened.path.name}"):
        mask, numbers = truth.read(opened.grid.window(window))
        known = legend.truth(mask)
        without_label += int((known == IGNORE).sum())
        if (known == IGNORE).all():
            continue
        blocks += 1
        mapped = opened.read(window)
        without_data += int(((known != IGNORE) & (mapped == IGNORE)).sum())
        known[mapped == IGNORE] = IGNORE
        confusion += metrics.confusion_matrix(known, mapped, classes)
        seen[np.unique(numbers[mask != IGNORE])] = True
        inside = (numbers > 0) & (known != IGNORE)
        pairs, counts = np.unique(numbers[inside].astype(np.int64) * classes + mapped[inside], return_counts=True)
        votes.ravel()[pairs] += counts.astype(np.uint32)
    if not blocks:
        remedy = "check the CRS of both, and that they are of the same region"
        raise InputError(f"{opened.path} and {truth.path} have no ground in common", None, remedy)
    own = legend.truth(np.asarray(truth.labels))
    labelled = seen & (own != IGNORE)
    labelled[0] = False
    decided = labelled & (votes.sum(axis=1) > 0)
    # argmax: of two classes with as many pixels the one with the lower id, whatever the order of the blocks.
    majority = votes[decided].argmax(axis=1).astype(np.uint8)
    evaluation = Evaluation(
        set=truth.name,
        dataset=truth.path.name,
        root=str(truth.path),
        split="",
        part="test",
        manifest_digest=storage.sha256(truth.path) if truth.path.is_file() else "",
        simulated=opened.tags.get(NOTE_OF_OWN_MAPS) == SIMULATED_NOTE,
        trained_on_simulated=opened.tags.get(NOTE_OF_OWN_MAPS) == SIMULATED_NOTE,
        protocol="all" if truth.exhaustive or legend.folded else "crop",
        patches=blocks,
        patch_size=0,
        training_patch_size=0,
        classes=legend.classes,
        confusion=confusion,
        without_label=without_label,
        without_data=without_data,
        note=f"a map against parcels, by pixel centre; legend {legend.name}; leakage cannot be told from the file",
    )
    matrix = metrics.confusion_matrix(own[decided], majority, classes)
    return MapScore(evaluation, matrix, int(labelled.sum() - decided.sum()), legend, opened.path)


def protocols_of(score: MapScore, truth: Truth) -> tuple[Counting, ...]:
    """What can be told: both protocols where coverage is exhaustive, and for a folded legend all pixels alone."""
    if score.legend.folded:
        return ("all",)
    return ("all", "crop") if truth.exhaustive else ("crop",)


def _show(score: MapScore, truth: Truth) -> None:
    """Print the scores, class by class and in the means."""
    evaluation = score.evaluation
    counted = protocols_of(score, truth)
    rows: list[Sequence[object]] = []
    for protocol in counted:
        found = evaluation.scores(protocol)
        rows.append(("pixels", PROTOCOLS[protocol], f"{found['pixels']:,}", *(format_score(found[k]) for k in MEANS)))
    found = metrics.scores(score.parcels, counted[-1])
    what = PROTOCOLS[counted[-1]].replace("pixels", "parcels")
    rows.append(("parcels, by majority", what, f"{found['pixels']:,}", *(format_score(found[k]) for k in MEANS)))
    heading = (f"{score.map.name} on {truth.name}", "protocol", "counted", *(title for title, _ in MEANS.values()))
    table("Scores of the map", heading, rows)
    pixels, parcels = evaluation.scores(counted[0]), found
    table(
        f"Classes: pixels under {PROTOCOLS[counted[0]]}, and parcels",
        ("class", "pixels", "IoU", "recall", "parcels", "parcels right"),
        [
            (
                name,
                f"{pixels['support'][i]:,}",
                format_score(pixels["iou"][i]),
                format_score(pixels["accuracy"][i]),
                f"{parcels['support'][i]:,}",
                "n/a" if math.isnan(parcels["accuracy"][i]) else f"{parcels['accuracy'][i]:.1%}",
            )
            for i, name in enumerate(evaluation.classes)
        ],
    )
    for title, rule in MEANS.values():
        say(f"{title}: {rule}")
    of_a_class = int((score.legend.truth(np.asarray(truth.labels)) != IGNORE).sum())
    here = int(score.parcels.sum()) + score.undecided
    say(f"parcels of a class on the map: {here:,} of the {of_a_class:,} in {truth.path.name}")
    say(
        f"left out: {evaluation.without_label:,} pixels of unknown truth, {evaluation.without_data:,} labelled pixels "
        f"and {score.undecided:,} parcels where the map says nothing"
    )
    say("whether the map was made with these parcels cannot be told from the file: ask who made it")
    if evaluation.simulated:
        warn(SIMULATED_NOTE)


def checked_map(path: object) -> Path:
    """The option ``map`` as a path.

    Raises:
        ConfigError: It is not set.
    """
    if not path:
        raise ConfigError("map is not set", None, "give map=<GeoTIFF>")
    return Path(str(path))
