"""Details of evaluations made up for tests: places of several dates, parcels, edges and confidences that add up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cropseg.calibration import BINS, Reliability
from cropseg.details import PATCHES, AreaBand, Band, Details, lists
from cropseg.scores import Evaluation

CLASSES = ("background", "maize", "wheat", "pasture")
COUNTRIES = ("at", "be")


def make_details(seed=0, places=14, dates=2, right=0.7, hard=None, absent=(), prefix="p") -> Details:
    """Details of one model on ``places`` × ``dates`` patches of 400 pixels.

    Args:
        seed: Of the truth and of the model's luck.
        places: How many.
        dates: Patches of each.
        right: Mean share of correct pixels.
        hard: Seed of what makes places hard, the same for all models; None for that of ``seed``.
        absent: Classes that occur in no truth.
        prefix: Of the places' names.
    """
    random, of_places = np.random.default_rng(seed), np.random.default_rng(seed if hard is None else hard)
    n = len(CLASSES)
    shares = np.clip(right + of_places.normal(0, 0.1, places), 0.02, 0.98)
    chance = np.array([i not in absent for i in range(n)]) / (n - len(absent))
    truth_of = of_places.multinomial(400, chance, size=(places, dates))
    rows, stack = [], []
    for place in range(places):
        for date in range(dates):
            matrix = np.zeros((n, n), np.int64)
            for i, count in enumerate(truth_of[place, date]):
                odds = np.full(n, (1 - shares[place]) / (n - 1))
                odds[i] = shares[place]
                matrix[i] = random.multinomial(count, odds)
            stack.append(matrix)
            rows.append(
                {
                    "id": f"{prefix}{place:02}/{date}",
                    "subset": f"{COUNTRIES[place % 2]}_2021",
                    "country": COUNTRIES[place % 2],
                    "roi": f"r{place}",
                    "product": f"s2_{date}",
                    "year": 2021,
                    "month": 4 + 2 * date,
                    "place": f"{prefix}{place:02}",
                    "cloud": float("nan") if place == 0 else 0.03 * (place % 4),
                    "nodata": 0.0,
                    "pixels": int(matrix.sum()),
                    "correct": int(np.trace(matrix)),
                    "confusion": [],
                }
            )
    every = np.array(stack)
    patches = pa.Table.from_pylist(rows, schema=PATCHES).drop_columns("confusion")
    patches = patches.append_column(PATCHES.field("confusion"), lists(every)).select(PATCHES.names)
    whole = every.sum(axis=0)
    near, far = whole // 3, whole - whole // 3
    crop = whole.copy()
    crop[0] = 0
    return Details(
        patches=patches,
        clusters={
            f"{prefix}{place:02}": every[place * dates : (place + 1) * dates].sum(axis=0) for place in range(places)
        },
        clusters_are="place",
        boundary=(Band(0, 2, near), Band(2, float("inf"), far)),
        boundary_from="parcel raster",
        parcel_majority=np.diag([0, 20, 30, 10]) + 1,
        parcel_areas=(AreaBand(0, 1, 50, near), AreaBand(1, float("inf"), 26, far)),
        outside_parcels=np.zeros_like(whole),
        reliability={"all": reliability(whole), "crop": reliability(crop)},
    )


def reliability(matrix) -> Reliability:
    """Half of the pixels claim 0.95, the others 0.55; of the correct ones 55 in 100 are among the sure."""
    pixels, correct, confidence = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS)
    total, right = int(matrix.sum()), int(np.trace(matrix))
    sure, sure_right = total // 2, right * 11 // 20
    for at, claim, of_all, of_right in ((284, 0.95, sure, sure_right), (164, 0.55, total - sure, right - sure_right)):
        pixels[at], correct[at], confidence[at] = of_all, of_right, claim * of_all
    return Reliability(pixels, correct, confidence)


def evaluation(matrix, names, name="internal", /, **changes) -> Evaluation:
    """A stored evaluation with this matrix."""
    values = {
        "set": name,
        "dataset": f"d_{name}",
        "root": "data",
        "split": "location",
        "part": "test",
        "manifest_digest": name.ljust(64, "0"),
        "simulated": False,
        "trained_on_simulated": False,
        "protocol": "all",
        "patches": 7,
        "patch_size": 32,
        "training_patch_size": 32,
        "classes": names,
        "confusion": matrix,
        "shared_ground": 0.0,
    }
    return Evaluation(**{**values, **changes})


def evaluation_of(details: Details, name="internal", **changes) -> Evaluation:
    """The evaluation that ``details`` lie beside."""
    own = {"patches": len(details.patches), "patch_size": 20, "training_patch_size": 20}
    return evaluation(details.confusion, CLASSES, name, **{**own, **changes})
