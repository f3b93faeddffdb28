"""Galleries: patches of each evaluation set with image, truth, what each model makes of them and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg import details, metrics
from cropseg.core.bands import NODATA
from cropseg.core.errors import CropsegError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Dataset, open_dataset
from cropseg.core.progress import track
from cropseg.core.scene import UInt8Array
from cropseg.pictures import choose_patches
from cropseg.predictor import classify
from cropseg.report import figures
from cropseg.report.content import Figure, Picture
from cropseg.runs import Run, label
from cropseg.scores import PROTOCOLS, Evaluation, Scope
from cropseg.seeds import over_seeds, scored_on, sets_of
from cropseg.tta import augmented

EXTREMES: Final = ("best", "median", "worst")


@dataclass
class Patch:
    """A patch that is shown, filled up model by model.

    Attributes:
        dataset: Where it lies.
        row: Row of the manifest.
        role: Why it is shown: ``best``, ``median``, ``worst``; empty for one chosen by its labels alone.
        score: Of a best, median or worst one: what it was ranked by.
        predicted: By model: labels, confidence or None, and the patch's own score.
    """

    dataset: Dataset
    row: int
    role: str = ""
    score: float = float("nan")
    predicted: dict[str, tuple[UInt8Array, npt.NDArray[np.float32] | None, str]] | None = None


@dataclass(frozen=True)
class Gallery:
    """The panels of one evaluation set; a reason where there are none, or where the best and worst cannot be told.

    Attributes:
        name: What the page calls the set.
        key: The set, with the augmentation.
        chosen: Patches chosen by their labels.
        ranked: The best, the median and the worst.
        ranking: What these were ranked by.
        reason: Why there are no panels.
        unranked: Why there is no best, median and worst.
    """

    name: str
    key: str
    chosen: tuple[Figure, ...] = ()
    ranked: tuple[Figure, ...] = ()
    ranking: str = ""
    reason: str = ""
    unranked: str = ""


def galleries(runs: Sequence[Run], names: Sequence[str] | None, count: int) -> list[Gallery]:
    """Draw patches of each set with the first seed of each model.

    Each model is loaded once, asked about every patch, and let go of before the next; one that the caller had loaded
    stays. A dataset or a model that is gone is a reason that the page tells, no failure.

    Args:
        runs: The runs.
        names: Keys of the evaluation sets; None for all. Those of one name and other patches have a gallery each.
        count: Patches of each set that are chosen by their labels; best, median and worst come on top.
    """
    sets = sets_of(runs, names)
    asked = {on: [one.runs[0] for one in over_seeds(runs, on)] for on in sets}
    shown = [run for run in runs if any(run is one for of_set in asked.values() for one in of_set)]
    patches: dict[Scope, list[Patch]] = {}
    reasons: dict[Scope, str] = {}
    rankings: dict[Scope, tuple[str, str]] = {}
    for on in sets:
        try:
            dataset, rows = _open(asked[on][0].evaluations[on.key])
        except CropsegError as error:
            reasons[on] = str(error)
            continue
        patches[on] = [Patch(dataset, row) for row in choose_patches(dataset, rows, count)]
        ranked, by, why_not = _ranked(runs, on, dataset, rows)
        patches[on] += ranked
        rankings[on] = (by, why_not)
    for run in track(shown, "drawing panels"):
        wanted = {on: patches[on] for on in patches if any(run is one for one in asked[on])}
        try:
            _ask(run, label(run, shown), wanted)
        except CropsegError as error:
            reasons |= dict.fromkeys(wanted, str(error))
    found = []
    for on, name in sets.items():
        if on in reasons:
            found.append(Gallery(name, on.key, reason=reasons[on]))
            continue
        drawn = [(one.role, _figure(one)) for one in patches[on]]
        chosen = tuple(figure for role, figure in drawn if not role)
        extreme = tuple(figure for role, figure in drawn if role)
        ranking, unranked = rankings[on]
        found.append(Gallery(name, on.key, chosen, extreme, ranking, unranked=unranked))
    return found


def _open(evaluation: Evaluation) -> tuple[Dataset, list[int]]:
    dataset = open_dataset(evaluation.root)
    if dataset.digest != evaluation.manifest_digest:
        raise InputError("the dataset was prepared again since the evaluation", None, "evaluate again")
    return dataset, [int(row) for row in dataset.parts(evaluation.split)[evaluation.part]]  # type: ignore[index]


def _ranked(runs: Sequence[Run], on: Scope, dataset: Dataset, rows: Sequence[int]) -> tuple[list[Patch], str, str]:
    """Best, median and worst patch, by what they were ranked, and why they cannot be told.

    The score of a patch is mIoU over the classes present in it, under the protocol of its set, averaged over every
    run that stored it. Patches without a counted pixel have none.
    """
    protocol = on.protocol
    values: dict[str, list[float]] = {}
    told = 0
    for run, _ in scored_on(runs, on):
        detail = run.details(on.key)
        if detail is None:
            continue
        told += 1
        for one, matrix in zip(detail.patches["id"].to_pylist(), details.matrices(detail.patches), strict=True):
            found = metrics.scores(matrix, protocol)
            values.setdefault(str(one), []).append(float(found["miou_present"]))
    if not told:
        return [], "", "no scores patch by patch are stored with these evaluations: evaluate again to have them"
    row_of = {str(dataset.manifest["id"][row].as_py()): row for row in rows}
    means = sorted(
        (float(np.mean(found)), one)
        for one, found in values.items()
        if len(found) == told and one in row_of and np.isfinite(found).all()
    )
    if len(means) < len(EXTREMES):
        return [], "", f"only {len(means)} patches have a score: best, median and worst need three"
    by = (
        f"mIoU over the classes present in a patch ({PROTOCOLS[protocol]}), "
        f"{'of one run' if told == 1 else f'mean of {told} runs'}, among {len(means):,} patches"
    )
    places = {"best": -1, "median": (len(means) - 1) // 2, "worst": 0}
    picked = [(role, *means[places[role]]) for role in EXTREMES]
    return [Patch(dataset, row_of[one], role, score) for role, score, one in picked], by, ""


def _ask(run: Run, name: str, wanted: dict[Scope, list[Patch]]) -> None:
    """Predict every patch; the model is let go of where it was loaded for this."""
    loaded = "predictor" in run.__dict__
    try:
        for on, patches in wanted.items():
            predictor = augmented(run.predictor, run.evaluations[on.key].tta)
            protocol = on.protocol
            for patch in patches:
                image, mask = patch.dataset.image(patch.row), patch.dataset.mask(patch.row)
                labels, sure = classify(predictor, image[None])
                empty = (image == NODATA).any(axis=0)
                truth = np.where(empty, IGNORE, mask).astype(np.uint8)
                own = metrics.scores(metrics.confusion_matrix(truth, labels[0], len(run.spec.taxonomy)), protocol)
                score = own["miou_present"]
                told = "" if np.isnan(score) else f"mIoU {score:.2f}"
                patch.predicted = patch.predicted or {}
                patch.predicted[name] = (labels[0], None if sure is None else sure[0], told)
    finally:
        if not loaded:
            run.release()


def _figure(patch: Patch) -> Figure:
    """Image, truth, and prediction and confidence of each model."""
    dataset, row = patch.dataset, patch.row
    image, mask = dataset.image(row), dataset.mask(row)
    empty = (image == NODATA).any(axis=0)
    taxonomy = dataset.spec.taxonomy
    country, day = dataset.manifest["country"][row].as_py(), dataset.manifest["datetime"][row].as_py()
    place = dataset.manifest["roi"][row].as_py()
    where = f"{country}, {place}, {day:%Y-%m-%d}" + (" (simulated)" if dataset.spec.simulated else "")
    present = [taxonomy.names[i] for i in np.unique(mask) if i < len(taxonomy)]

    def painted(labels: UInt8Array) -> bytes:
        return figures.png(figures.paint(labels, taxonomy))

    pictures = [
        Picture(
            "simulated image" if dataset.spec.simulated else "Sentinel-2 image",
            f"Image of {where}",
            figures.jpeg(figures.true_color(image, dataset.spec.bands)),
        ),
        Picture("truth", f"Truth of {where}: {', '.join(present)}", painted(mask), below=True, painted=True),
    ]
    for name, (labels, sure, told) in (patch.predicted or {}).items():
        shown = np.where(empty, IGNORE, labels).astype(np.uint8)
        caption = f"{name}, {told}" if told else name
        alt = f"Prediction of {name} for {where}"
        pictures.append(Picture(caption, alt, painted(shown), painted=True))
        if sure is not None:
            mean = float(sure[~empty].mean()) if (~empty).any() else float("nan")
            caption = f"confidence, mean {mean:.0%}" if np.isfinite(mean) else "confidence"
            content = figures.png(figures.confidence(sure, empty))
            pictures.append(Picture(caption, f"Confidence of {name} for {where}", content, below=True))
    title = f"{patch.role.capitalize()} (mean {patch.score:.2f}): {where}" if patch.role else where
    return Figure(title, tuple(pictures), patch=True)


def example(dataset: Dataset, rows: Sequence[int]) -> tuple[Picture, Picture] | None:
    """An image and its mask, the one with most classes; None where there is no patch."""
    chosen = choose_patches(dataset, rows, 1)
    return _figure(Patch(dataset, chosen[0])).pictures[:2] if chosen else None  # type: ignore[return-value]
