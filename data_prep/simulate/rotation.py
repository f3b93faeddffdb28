"""Which crop stands on which parcel, this year and the year before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_prep.simulate.noise import generator
from data_prep.simulate.places import Crop

Index = npt.NDArray[np.intp]


def assign(use: npt.NDArray[np.str_], crops: Sequence[Crop], year: int, *keys: str | int) -> tuple[Index, Index]:
    """Draw the crop of each parcel.

    Shares come out close to the mix, since the draw is systematic: a small region has its rare crops too. Each year
    favours some crops a little. The crop of the year before is drawn after this year's, so that a crop that may not
    follow itself does not.

    Args:
        use: Use of each of n parcels.
        crops: The region's.
        year: Of the crops.
        keys: For :func:`data_prep.simulate.noise.generator`.

    Returns:
        Index into ``crops`` of this year's crop and of last year's, (n,) each.
    """
    now = np.zeros(len(use), dtype=np.intp)
    before = np.zeros(len(use), dtype=np.intp)
    season = generator(*keys, "year", year)
    for name in dict.fromkeys(crop.use for crop in crops):
        chosen = [number for number, crop in enumerate(crops) if crop.use == name]
        weight = np.array([crops[number].weight for number in chosen]) * np.exp(
            0.1 * season.standard_normal(len(chosen))
        )
        share = weight / weight.sum()
        here = np.flatnonzero(use == name)
        random = generator(*keys, "crops", name)
        quantile = random.permutation((np.arange(len(here)) + random.random()) / max(len(here), 1))
        drawn = np.minimum(np.searchsorted(np.cumsum(share), quantile, side="right"), len(chosen) - 1)
        after_itself = np.array([crops[number].after_itself for number in chosen])
        # (this year, last year): the mix, but less of the crop itself; one that stays for years follows itself.
        prior = np.tile(share, (len(chosen), 1))
        prior[np.diag_indices(len(chosen))] *= after_itself
        stays = np.flatnonzero(after_itself >= 1)
        prior[stays] = 0.25 * prior[stays]
        prior[stays, stays] += 0.75
        steps = np.cumsum(prior / prior.sum(axis=1, keepdims=True), axis=1)
        last = (random.random(len(here))[:, None] > steps[drawn]).sum(axis=1)
        now[here] = np.array(chosen)[drawn]
        before[here] = np.array(chosen)[np.minimum(last, len(chosen) - 1)]
    return now, before
