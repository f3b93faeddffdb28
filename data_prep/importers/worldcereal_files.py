"""The netCDF files of one WorldCereal place: its pixels on the 10 m grid, and which of its dates are taken."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import netCDF4
import numpy as np
import numpy.typing as npt

from cropseg.core.bands import NODATA, S2_BANDS, SATURATED, SceneClass
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.scene import Grid, UInt8Array, UInt16Array
from data_prep.align import bilinear_upsample

CLEAR: Final = (SceneClass.VEGETATION, SceneClass.BARE, SceneClass.WATER)
"""Scene classes that show the ground for certain; dark and unclassified pixels are doubtful."""

OFFSET: Final = 1000
"""What baseline 04.00 adds to every digital number."""


@dataclass(frozen=True)
class Acquisition:
    """One date that was taken.

    Attributes:
        acquired: Sensing time, UTC.
        image: uint16 (bands, height, width), reflectance × 10000, 0 = no data.
        scl: uint8 (height, width), scene classes by nearest neighbour.
    """

    acquired: datetime
    image: UInt16Array
    scl: UInt8Array


@dataclass(frozen=True)
class Refusal:
    """One date of the season that was not taken, and why."""

    acquired: datetime
    reason: str


class PlaceFiles:
    """The netCDF files of one place; use it in a ``with`` statement.

    Raises:
        InputError: A file is missing, broken, or lies on another grid or other dates than the rest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = {key: _only(folder, f"{key}_*.nc") for key in ("S2_L2A_10m", "S2_L2A_20m", "OUTPUT")}
        self._stack = ExitStack()
        self._fine, self._coarse, self._output = (self._opened(path) for path in self.paths.values())
        self.name = str(self._fine.location_id)
        self.tile = str(self._fine.tile)
        self.grid = self._grid(self._fine, 10)
        coarse = self._grid(self._coarse, 20)
        times = [self._times(file) for file in (self._fine, self._coarse)]
        nested = (coarse.bounds, coarse.crs) == (self.grid.bounds, self.grid.crs)
        if not nested or self._grid(self._output, 10) != self.grid or times[0] != times[1]:
            raise InputError(
                f"the files of {folder} do not agree in grid or dates", (self.grid, coarse), "get the place again"
            )
        self.times = times[0]

    def __enter__(self) -> PlaceFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def crops(self) -> npt.NDArray[np.uint16]:
        """Crop code of every pixel (variable CT), 0 = unknown."""
        return self._read(self._output, "CT", slice(None)).astype(np.uint16)

    def raw(self, band: str, date: int) -> npt.NDArray[np.uint16]:
        """A band or SCL on date number ``date`` at its own resolution, as stored."""
        file = self._fine if band in S2_BANDS and S2_BANDS[band].resolution == 10 else self._coarse
        return self._read(file, band, date)

    def image(self, bands: Sequence[str], date: int, resampling: Literal["bilinear", "nearest"]) -> UInt16Array:
        """All bands on the 10 m grid: uint16 (bands, height, width)."""
        image = np.empty((len(bands), self.grid.height, self.grid.width), np.uint16)
        rows, cols = slice(0, self.grid.height), slice(0, self.grid.width)
        for channel, band in enumerate(bands):
            raw = self.raw(band, date)
            valid = (raw != NODATA) & (raw != SATURATED)
            if raw.shape == image.shape[1:]:
                image[channel] = np.where(valid, raw, NODATA)
                continue
            fine = bilinear_upsample(raw, valid, 2, rows, cols, 0) if resampling == "bilinear" else _double(raw)
            image[channel] = np.where(_double(valid), fine, NODATA)
        return image

    def _opened(self, path: Path) -> Any:
        try:
            file = self._stack.enter_context(netCDF4.Dataset(path))
        except OSError as error:
            raise InputError(f"cannot read {path}", str(error), "get the file again") from error
        # Masked and scaled arrays would be floats of which 0 and no data can no longer be told apart.
        file.set_auto_maskandscale(False)
        return file

    def _read(self, file: Any, name: str, index: Any) -> npt.NDArray[Any]:
        if name not in file.variables:
            raise InputError(f"{file.filepath()} has no variable", name, f"it has: {', '.join(file.variables)}")
        try:
            return np.asarray(file.variables[name][index])
        except (OSError, RuntimeError) as error:
            raise InputError(f"cannot read {name} of {file.filepath()}", str(error), "get the file again") from error

    def _grid(self, file: Any, resolution: int) -> Grid:
        x, y = self._read(file, "x", slice(None)), self._read(file, "y", slice(None))
        if not ((np.diff(x) == resolution).all() and (np.diff(y) == -resolution).all()):
            raise InputError(f"{file.filepath()} must have pixels of {resolution} m, north up", None, "get it again")
        left, top = float(x[0]) - resolution / 2, float(y[0]) + resolution / 2
        return Grid(f"EPSG:{file.epsg}", (resolution, 0.0, left, 0.0, -resolution, top), len(y), len(x))

    def _times(self, file: Any) -> list[datetime]:
        stamps = file.variables["timestamp"]
        found = netCDF4.num2date(stamps[:], stamps.units, stamps.calendar, only_use_cftime_datetimes=False)
        return [moment.replace(tzinfo=UTC) for moment in np.asarray(found).tolist()]


def choose_dates(
    files: PlaceFiles,
    year: int,
    season: Sequence[str],
    bands: Sequence[str],
    resampling: Literal["bilinear", "nearest"],
    min_clear: float,
) -> tuple[list[Acquisition], list[Refusal]]:
    """Dates of the season, taken or refused; the rule is in :mod:`data_prep.importers.worldcereal`."""
    try:
        first, last = (datetime.strptime(f"{year}-{day}", "%Y-%m-%d").date() for day in season)
    except ValueError as error:
        raise ConfigError("season of the importer", list(season), "give the first and the last day as MM-DD") from error
    taken, refused = [], []
    for date, acquired in enumerate(files.times):
        if not first <= acquired.date() <= last:
            continue
        image, scl = files.image(bands, date, resampling), files.raw("SCL", date).astype(np.uint8)
        empty = float((image == NODATA).any(axis=0).mean())
        clear = float(np.isin(scl, CLEAR).mean())
        if empty > 0:
            refused.append(Refusal(acquired, f"{empty:.1%} of the pixels have no data"))
        elif clear < min_clear:
            refused.append(Refusal(acquired, f"{clear:.1%} of the pixels are clear, less than {min_clear:.1%}"))
        else:
            taken.append(Acquisition(acquired, image, _double(scl)))
    return taken, refused


def check_radiometry(files: PlaceFiles, taken: Sequence[Acquisition]) -> None:
    """Refuse pixels that carry baseline 04.00's offset: in red, vegetation reflects far less than the offset's 0.1.

    Raises:
        InputError: Half of the vegetation is brighter than that.
    """
    red = [files.raw("B04", files.times.index(a.acquired))[a.scl == SceneClass.VEGETATION] for a in taken]
    values = np.concatenate(red)
    if len(values) and np.median(values) >= OFFSET:
        raise InputError(
            f"B04 over vegetation of {files.folder} looks as if an offset of {OFFSET} was in it; median",
            float(np.median(values)),
            "use files of products before baseline 04.00, or with the offset removed",
        )


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise InputError(f"{folder} must hold one file {pattern}, not", len(found), "get the place again")
    return found[0]


def _double(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """20 m pixels on the 10 m grid, each four times."""
    return array.repeat(2, axis=0).repeat(2, axis=1)
