"""Harmonised parcels as the truth of any grid: what a crop map is scored against."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import Transformer

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.progress import say
from cropseg.core.scene import Grid, UInt8Array
from cropseg.core.taxonomy import Taxonomy
from data_prep.harmonize import Ambiguous, Unmapped, harmonize, summarise
from data_prep.rasterize import UInt32Array, rasterize
from data_prep.recipe import with_extent
from data_prep.subsets import Subset


class ParcelTruth:
    """Parcels with a class each, laid on whatever grid is asked for.

    Args:
        parcels: The vector file, see :func:`data_prep.parcels.read`.
        taxonomy: Classes and keywords.
        unmapped: Label of crops outside the taxonomy, see :class:`data_prep.harmonize.Rules`.
        ambiguous: Label of names that several classes take, see there.
        fields: Further fields of :class:`data_prep.subsets.Subset`: columns, table, coverage, extent, separator.

    Raises:
        ConfigError: No file is named, or an option is impossible.
        InputError: The file is not what it should be, or no parcel has a class.
    """

    def __init__(
        self,
        parcels: str | None,
        taxonomy: Taxonomy,
        *,
        unmapped: Unmapped = "ignore",
        ambiguous: Ambiguous = "ignore",
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        if not parcels:
            raise ConfigError("a map is scored against parcels", None, "give parcels=<vector file>")
        self.path = Path(parcels)
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "_", self.path.name.partition(".")[0]).strip("_-") or "parcels"
        self.taxonomy = taxonomy
        # Country and year tell a season and a folder, of which there is none here.
        subset = Subset(name=self.name, country="any", year=2000, parcels=str(parcels), **(fields or {}))
        found = harmonize(subset, taxonomy, unmapped=unmapped, ambiguous=ambiguous)
        self._parcels = found.parcels
        self._subset = with_extent(subset, found.parcels)
        self.exhaustive = subset.coverage == "exhaustive"
        numbers = found.parcels["parcel"].to_numpy()
        self.labels: UInt8Array = np.full(int(numbers.max(initial=0)) + 1, IGNORE, dtype=np.uint8)
        self.labels[numbers] = found.parcels["label"].to_numpy()
        if (self.labels == IGNORE).all():
            remedy = "set table= or a column with English names, or choose another taxonomy"
            raise InputError(f"no parcel of {parcels} has a class of taxonomy {taxonomy.name}", None, remedy)
        counts = ", ".join(f"{name} {n:,}" for name, n in summarise(found)["classes"].items())
        say(f"parcels of {self.path.name}: {counts}")

    def bounds(self, crs: str) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the parcels, or of the extent that they speak for, in ``crs``.

        Raises:
            InputError: The ground lies where ``crs`` does not reach.
        """
        extent = self._subset.extent
        box, source = (extent, "EPSG:4326") if extent is not None else (self._parcels.total_bounds, self._parcels.crs)
        side = max(box[2] - box[0], box[3] - box[1]) / 64  # a straight edge may sag in another CRS
        outline = shapely.segmentize(shapely.box(*box), side)
        moved = Transformer.from_crs(source, crs, always_xy=True).transform(*shapely.get_coordinates(outline).T)
        found: npt.NDArray[np.float64] = np.asarray(moved)
        if not np.isfinite(found).all():
            raise InputError(f"the CRS of the map does not reach the parcels of {self.path}", None, "reproject the map")
        (left, bottom), (right, top) = found.min(axis=1), found.max(axis=1)
        return float(left), float(bottom), float(right), float(top)

    def read(self, grid: Grid) -> tuple[UInt8Array, UInt32Array]:
        """Class and parcel number of each pixel of ``grid``, by its centre; 255 where nothing is known."""
        laid = rasterize(self._parcels, grid, self._subset.coverage, self._subset.extent)
        return laid.mask, laid.parcels
