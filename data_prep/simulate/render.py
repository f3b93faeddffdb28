"""From pieces of ground to the digital numbers of a product, in blocks of rows, so that a whole tile fits in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import rasterio.features
import shapely
from affine import Affine

from cropseg.core.bands import NODATA, PAPER_BANDS, QUANTIFICATION, S2_BANDS, SATURATED
from data_prep.simulate import atmosphere, phenology, rotation, scl, spectra
from data_prep.simulate.fields import Landscape, landscape
from data_prep.simulate.noise import Field, generator
from data_prep.simulate.noise import field as noise_field
from data_prep.simulate.phenology import Units
from data_prep.simulate.places import Pass, Place

FloatArray = npt.NDArray[np.float32]

BLOCK_ROWS: Final = 512
"""Rows of 10 m rendered at once. Part of the result: noise is drawn block by block."""

KEEP_PIXELS: Final = 2048 * 2048
"""Up to this many pixels a scene keeps its raster of units instead of making it again for each product."""


@dataclass(frozen=True)
class Scene:
    """The ground of a place.

    Attributes:
        place: Which.
        size: Pixels per side at 10 m.
        seed: Of the simulation.
        land: Pieces of ground.
        crop: Index into ``place.crops`` of each parcel of ``land``.
        units: What each piece carries, and road as the last.
        angle: Direction of work of each unit in radians; NaN where nothing is worked in rows.
        vigour: Field of growth over the ground.
        soil: Field of soil brightness.
        cache: Rasters of units already made.
    """

    place: Place
    size: int
    seed: int
    land: Landscape
    crop: npt.NDArray[np.intp]
    units: Units
    angle: FloatArray
    vigour: Field
    soil: Field
    cache: dict[int, npt.NDArray[np.int32]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the products in metres."""
        reach = 10.0 * self.size
        return self.place.ulx, self.place.uly - reach, self.place.ulx + reach, self.place.uly

    @property
    def known(self) -> tuple[float, float, float, float]:
        """Bounds of the ground that was laid out: the products' and a margin."""
        return _known(self.place, self.size)

    def ground(self, row: int, rows: int) -> npt.NDArray[np.int32]:
        """Index of the unit at each 5 m pixel of a block of 10 m rows, int32 (2 · rows, 2 · size)."""
        if row in self.cache:
            return self.cache[row]
        left, _, right, top = self.bounds
        area = shapely.box(left, top - 10 * (row + rows), right, top - 10 * row)
        inside = np.sort(shapely.STRtree(self.land.shapes).query(area))
        transform = Affine(5, 0, left, 0, -5, top - 10 * row)
        last = len(self.units) - 1
        shapes = ((self.land.shapes[index], int(index)) for index in inside)
        out: npt.NDArray[np.int32] = (
            rasterio.features.rasterize(
                shapes, (2 * rows, 2 * self.size), fill=last, transform=transform, dtype="int32"
            )
            if len(inside)
            else np.full((2 * rows, 2 * self.size), last, dtype=np.int32)
        )
        if self.size**2 <= KEEP_PIXELS:
            self.cache[row] = out
        return out


def scene(place: Place, size: int, seed: int) -> Scene:
    """Lay out a place, plant it, and draw its soils.

    Args:
        place: Which.
        size: Pixels per side at 10 m.
        seed: Of the simulation.
    """
    keys = (seed, place.name)
    bounds = _known(place, size)
    land = landscape(bounds, place.layout, *keys)
    parcel = land.is_parcel
    crop, _ = rotation.assign(land.use[parcel], place.crops, place.year, *keys)
    names = phenology.kinds()
    number = {name: index for index, name in enumerate(names)}
    kind = np.full(len(land.use) + 1, number["road"], dtype=np.intp)
    kind[:-1][~parcel] = [number[str(use)] for use in land.use[~parcel]]
    kind[:-1][parcel] = np.array([number[c.kind] for c in place.crops])[crop]
    centres = shapely.get_coordinates(shapely.centroid(land.shapes))
    regional = noise_field(bounds, (4000.0, 900.0), (1.0, 0.7), *keys, "soils")
    at_units = np.append(regional.at_points(centres[:, 0], centres[:, 1]), np.float32(0))
    arable = np.isin(land.use, ("arable", "vineyard"))
    angle = np.append(np.where(arable, land.angle, np.nan), np.nan).astype(np.float32)
    return Scene(
        place,
        size,
        seed,
        land,
        crop,
        phenology.draw_units(kind, place.climate, at_units, *keys),
        angle,
        noise_field(bounds, (420.0, 160.0, 60.0), (1.0, 0.7, 0.45), *keys, "vigour"),
        noise_field(bounds, (700.0, 240.0, 80.0), (1.0, 0.7, 0.4), *keys, "soil"),
    )


def _known(place: Place, size: int) -> tuple[float, float, float, float]:
    # The margin lets an upright box in degrees hold a product that is turned by some two degrees in them.
    reach = 10.0 * size
    margin = max(400.0, 0.04 * reach)
    return place.ulx - margin, place.uly - reach - margin, place.ulx + reach + margin, place.uly + margin


@dataclass(frozen=True)
class Measurement:
    """One overpass in surface reflectance × 10000, before any product's offset.

    Attributes:
        bands: int16 at native resolution by name; may be zero or negative over dark ground.
        scl: Scene classification, uint8 at 20 m.
        valid: Whether the swath covers the pixel: {10: boolean, 20: boolean}.
        saturated: Pixels whose detector was saturated, as in ``valid``.
    """

    bands: dict[str, npt.NDArray[np.int16]]
    scl: npt.NDArray[np.uint8]
    valid: dict[int, npt.NDArray[np.bool_]]
    saturated: dict[int, npt.NDArray[np.bool_]]

    def product(self, baseline: str) -> dict[str, npt.NDArray[np.uint16]]:
        """Digital numbers as a processing baseline stores them: since 04.00 with 1000 added; never 0 where valid."""
        offset = 1000 if baseline >= "04.00" else 0
        result = {}
        for name, values in self.bands.items():
            resolution = S2_BANDS[name].resolution
            numbers = np.clip(values.astype(np.int32) + offset, 1, SATURATED - 1)
            numbers[self.saturated[resolution]] = SATURATED
            numbers[~self.valid[resolution]] = NODATA
            result[name] = numbers.astype(np.uint16)
        return result


def measure(ground: Scene, overpass: Pass) -> Measurement:
    """What the satellite measures on one overpass.

    Args:
        ground: The place.
        overpass: When and through what air.
    """
    size = ground.size
    looks = phenology.reflectance(ground.units, ground.place.climate, overpass.day, overpass.dryness)
    air = atmosphere.sky(overpass, ground.place.lon_lat, ground.bounds, ground.seed, ground.place.name)
    shapes = {10: (size, size), 20: (size // 2, size // 2)}
    bands = {name: np.empty(shapes[S2_BANDS[name].resolution], dtype=np.int16) for name in PAPER_BANDS}
    valid = {resolution: np.empty(shape, dtype=bool) for resolution, shape in shapes.items()}
    saturated = {resolution: np.zeros(shape, dtype=bool) for resolution, shape in shapes.items()}
    classes = np.empty(shapes[20], dtype=np.uint8)
    for number, (row, rows) in enumerate(_blocks(size)):
        random = generator(ground.seed, ground.place.name, overpass.datatake, "block", number)
        fine, coarse = slice(row, row + rows), slice(row // 2, (row + rows) // 2)
        over, pixels = _block(ground, looks, air, row, rows, random)
        for name, values in pixels.items():
            target = fine if S2_BANDS[name].resolution == 10 else coarse
            bands[name][target] = np.clip(np.rint(values * QUANTIFICATION), -1500, 30_000).astype(np.int16)
        valid[10][fine], valid[20][coarse] = over.valid, over.valid[::2, ::2] & over.valid[1::2, 1::2]
        # Where a thick cloud mirrors the sun, a few detectors are at their end.
        glint = (over.cloud > 0.97) & (random.random(over.cloud.shape, dtype=np.float32) < 2e-4)
        saturated[10][fine], saturated[20][coarse] = glint, glint[::2, ::2]
        classes[coarse] = scl.classify(pixels, over, valid[20][coarse], saturated[20][coarse], random)
    return Measurement(bands, classes, valid, saturated)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for row in range(0, size, BLOCK_ROWS):
        yield row, min(BLOCK_ROWS, size - row)


def _block(
    ground: Scene,
    looks: tuple[FloatArray, FloatArray, FloatArray],
    air: atmosphere.Sky,
    row: int,
    rows: int,
    random: np.random.Generator,
) -> tuple[atmosphere.Air, dict[str, FloatArray]]:
    """Air and noisy reflectance of a block of rows, each band at its native resolution."""
    left, _, _, top = ground.bounds
    x = left + 10.0 * np.arange(ground.size, dtype=np.float64) + 5.0
    y = top - 10.0 * (row + np.arange(rows, dtype=np.float64)) - 5.0
    unit = ground.ground(row, rows)
    # Four samples of 5 m make a 10 m pixel, so that pixels on a border are mixed by area.
    corners = [np.ascontiguousarray(unit[i::2, j::2]) for i in (0, 1) for j in (0, 1)]
    main = corners[3]
    vigour = ground.vigour.at(x, y) * np.float32(0.8) + _rows(ground.angle[main], x, y)
    soil = ground.soil.at(x, y)
    over = air.over(x, y)
    floor, share = (np.float32(spectra.data("ground")["noise"][key]) for key in ("floor", "share"))
    pixels = {}
    for band, name in enumerate(PAPER_BANDS):
        base, leaf, earth = (np.ascontiguousarray(look[:, band]) for look in looks)
        value = (base[corners[0]] + base[corners[1]] + base[corners[2]] + base[corners[3]]) * np.float32(0.25)
        value = np.clip(value + leaf[main] * vigour + earth[main] * soil, 5e-4, 1)
        value = atmosphere.seen_through(value, band, over)
        if S2_BANDS[name].resolution == 20:
            value = halved(value)
        spread = floor + share * np.abs(value)
        pixels[name] = value + spread * random.standard_normal(value.shape, dtype=np.float32)
    return over, pixels


def _rows(angle: FloatArray, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> FloatArray:
    """Tramlines and passes of machines: stripes 27 m apart along the direction of work."""
    worked = np.isfinite(angle)
    safe = np.where(worked, angle, 0)
    # Positions within a kilometre keep float32 exact enough for a phase.
    east = (x % 1000.0).astype(np.float32)[None, :]
    north = (y % 1000.0).astype(np.float32)[:, None]
    phase = (north * np.cos(safe) - east * np.sin(safe)) * np.float32(2 * np.pi / 27.0)
    return np.where(worked, 0.25 * np.cos(phase), 0).astype(np.float32)


def halved(values: FloatArray) -> FloatArray:
    """Mean of each two by two pixels."""
    result: FloatArray = (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) * np.float32(
        0.25
    )
    return result
