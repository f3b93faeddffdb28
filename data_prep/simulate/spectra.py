"""Reflectance of canopies, soils and other ground in the ten bands, looked up in tables that ship as data.

Canopies and soils come from PROSAIL by way of ``data/spectra.npz`` (see :mod:`data_prep.simulate.derive_spectra`);
water, asphalt, roofs and petals are typed in ``data/ground.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from cropseg.core.bands import PAPER_BANDS

FloatArray = npt.NDArray[np.float32]
AXES = ("lai", "cab", "brown", "water", "brightness", "dryness")


@dataclass(frozen=True)
class SpectralTable:
    """PROSAIL's reflectance on a grid of canopy states.

    Attributes:
        canopies: Canopy types along the first axis.
        axes: Grid points of each of :data:`AXES`.
        reflectance: float32 (canopy, lai, cab, brown, water, brightness, dryness, 10), 0 to 1, bands in paper order.
    """

    canopies: tuple[str, ...]
    axes: tuple[FloatArray, ...]
    reflectance: FloatArray

    def look_up(self, canopy: npt.NDArray[np.intp], state: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
        """Multilinear interpolation.

        Args:
            canopy: Index into ``canopies`` for each of n units.
            state: For each of :data:`AXES` n values, in the units of the derivation; values beyond the grid are
                clipped to it.

        Returns:
            Reflectance, float32 (n, 10).
        """
        lows, shares = [], []
        for name, axis in zip(AXES, self.axes, strict=True):
            value = np.clip(np.asarray(state[name], dtype=np.float32), axis[0], axis[-1])
            low = np.clip(np.searchsorted(axis, value, side="right") - 1, 0, len(axis) - 2)
            lows.append(low)
            shares.append((value - axis[low]) / (axis[low + 1] - axis[low]))
        flat = self.reflectance.reshape(-1, self.reflectance.shape[-1])
        total = np.zeros((len(canopy), flat.shape[1]), dtype=np.float32)
        for corner in product((0, 1), repeat=len(AXES)):
            index = np.asarray(canopy)
            weight = np.ones(len(canopy), dtype=np.float32)
            for step, low, share, axis in zip(corner, lows, shares, self.axes, strict=True):
                index = index * len(axis) + low + step
                weight = weight * (share if step else 1 - share)
            total += flat[index] * weight[:, None]
        return total


@cache
def table() -> SpectralTable:
    """The table that ships with the package."""
    with (resources.files("data_prep.simulate") / "data" / "spectra.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        order = [list(stored["bands"]).index(name) for name in PAPER_BANDS]
        return SpectralTable(
            tuple(str(name) for name in stored["canopies"]),
            tuple(stored[name].astype(np.float32) for name in AXES),
            stored["reflectance"][..., order].astype(np.float32) / np.float32(10_000),
        )


@cache
def data(name: str) -> Any:
    """A YAML file of the package's ``data`` folder, as plain data; not to be changed by the caller."""
    return yaml.safe_load((resources.files("data_prep.simulate") / "data" / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def ground(name: str) -> FloatArray:
    """Reflectance of a ground or petal type of ``data/ground.yaml``, float32 (10,), bands in paper order."""
    spectrum = data("ground")["spectra"][name]
    return np.array([spectrum[band] for band in PAPER_BANDS], dtype=np.float32)
