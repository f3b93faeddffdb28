"""The places of the embedded region, read from ``data/regions.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cropseg.core.errors import ConfigError
from data_prep.simulate import spectra
from data_prep.simulate.fields import Layout
from data_prep.simulate.phenology import Climate


@dataclass(frozen=True)
class CropName:
    """How a national file names a crop: a fact of the real national tables.

    Attributes:
        weight: Share among the names of the crop.
        code: National code, empty where the country has none.
        name: National name.
        english: EuroCrops' translation, empty where no table has the name.
        hcat_name: Name in the HCAT hierarchy.
        hcat_code: Its ten digits.
    """

    weight: float
    code: str
    name: str
    english: str
    hcat_name: str
    hcat_code: str


@dataclass(frozen=True)
class Crop:
    """A crop of a region.

    Attributes:
        kind: Calendar in ``data/crops.yaml``.
        use: Use of parcel it stands on.
        weight: Share of that use.
        after_itself: How readily it follows itself, 0 never to 1 freely.
        names: Its national names.
    """

    kind: str
    use: str
    weight: float
    after_itself: float
    names: tuple[CropName, ...]


@dataclass(frozen=True)
class Pass:
    """One overpass and its processing.

    Attributes:
        acquired: Sensing start, UTC.
        platform: S2A or S2B.
        relative_orbit: 1 to 143.
        baseline: Processing baseline.
        cloud: Share of the ground under thick cloud.
        haze: Mean reflectance that uncorrected aerosol adds at B02.
        cirrus: Strength of thin cirrus, 0 none.
        beyond: Share of the product beyond the swath's edge.
        dryness: Of the soil's surface, 0 wet to 1 dry.
    """

    acquired: datetime
    platform: str
    relative_orbit: int
    baseline: str
    cloud: float
    haze: float
    cirrus: float
    beyond: float
    dryness: float

    @property
    def datatake(self) -> str:
        """What two processings of the same measurement share."""
        return f"{self.platform} {self.acquired:%Y%m%dT%H%M%S}"

    @property
    def generated(self) -> datetime:
        """When it was processed: the same day, or years later where the archive was processed again."""
        again = {"05.00": datetime(2023, 2, 1, tzinfo=UTC), "05.10": datetime(2024, 9, 1, tzinfo=UTC)}.get(
            self.baseline
        )
        if again is None:
            return self.acquired + timedelta(hours=5, minutes=17)
        return again + timedelta(hours=self.day, minutes=self.acquired.minute, seconds=self.acquired.second)

    @property
    def day(self) -> int:
        """Day of the year."""
        return self.acquired.timetuple().tm_yday

    @property
    def absolute_orbit(self) -> int:
        """Orbits since launch: 143 in ten days, phased by one known orbit of each satellite.

        Known orbits: S2A 38058 on 2022-10-05 11:54 UTC, S2B 26649 on 2022-04-13 15:08 UTC.
        """
        number, when = {
            "S2A": (38058, datetime(2022, 10, 5, 11, 54, tzinfo=UTC)),
            "S2B": (26649, datetime(2022, 4, 13, 15, 8, tzinfo=UTC)),
        }[self.platform]
        return number + round((self.acquired - when).total_seconds() / 864_000 * 143)


@dataclass(frozen=True)
class Place:
    """A region of the simulation.

    Attributes:
        name: Name of its subset.
        country: Country whose files it imitates.
        place: In words.
        year: Year of its crops.
        tile: MGRS tile whose corner it lies at.
        epsg: EPSG code of its UTM zone.
        ulx: Easting of the tile's corner in metres.
        uly: Northing of the tile's corner in metres.
        lon_lat: Degrees, for the sun.
        national_crs: CRS of its parcel file.
        file: Name of that file.
        layer: Its layer.
        nuts3: Its NUTS3 code and its neighbour's.
        climate: Against the reference calendar.
        layout: Sizes of fields.
        crops: What grows there.
        passes: What the satellites saw.
    """

    name: str
    country: str
    place: str
    year: int
    tile: str
    epsg: int
    ulx: int
    uly: int
    lon_lat: tuple[float, float]
    national_crs: str
    file: str
    layer: str
    nuts3: tuple[str, str]
    climate: Climate
    layout: Layout
    crops: tuple[Crop, ...]
    passes: tuple[Pass, ...]


def place(name: str) -> Place:
    """One region by its name.

    Raises:
        ConfigError: There is none.
    """
    stored = spectra.data("regions")
    if name not in stored:
        raise ConfigError("simulated region", name, f"choose from {', '.join(stored)}")
    raw: Mapping[str, Any] = stored[name]
    simple = {key: raw[key] for key in ("country", "place", "year", "tile", "epsg", "ulx", "uly", "national_crs")}
    return Place(
        name=name,
        **simple,
        lon_lat=(float(raw["lon_lat"][0]), float(raw["lon_lat"][1])),
        file=raw["file"],
        layer=raw["layer"],
        nuts3=(raw["nuts3"][0], raw["nuts3"][1]),
        climate=Climate(**raw["climate"]),
        layout=Layout(**raw["layout"]),
        crops=tuple(
            Crop(kind, use, float(weight), float(after), tuple(CropName(*entry) for entry in names))
            for use, crops in raw["crops"].items()
            for kind, (weight, after, names) in crops.items()
        ),
        passes=tuple(_pass(*entry) for entry in raw["products"]),
    )


def _pass(date: str, time: str, platform: str, orbit: int, baseline: str, *shares: float) -> Pass:
    return Pass(datetime.fromisoformat(f"{date}T{time}+00:00"), platform, orbit, baseline, *map(float, shares))
