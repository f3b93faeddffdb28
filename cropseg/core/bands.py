"""Sentinel-2 MSI bands: names, order, native resolution, and the numbers of the L2A format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cropseg.core.errors import ConfigError


@dataclass(frozen=True)
class Band:
    """One spectral band of the MultiSpectral Instrument.

    Attributes:
        name: ESA's name, such as ``B8A``.
        resolution: Native pixel size in metres.
        wavelength: Central wavelength of Sentinel-2A in nanometres (Sentinel-2 User Handbook).
        boa_id: ``band_id`` of this band in ``MTD_MSIL2A.xml``.
    """

    name: str
    resolution: int
    wavelength: float
    boa_id: int


S2_BANDS: Final[dict[str, Band]] = {
    band.name: band
    for band in (
        Band("B01", 60, 442.7, 0),
        Band("B02", 10, 492.4, 1),
        Band("B03", 10, 559.8, 2),
        Band("B04", 10, 664.6, 3),
        Band("B05", 20, 704.1, 4),
        Band("B06", 20, 740.5, 5),
        Band("B07", 20, 782.8, 6),
        Band("B08", 10, 832.8, 7),
        Band("B8A", 20, 864.7, 8),
        Band("B09", 60, 945.1, 9),
        Band("B10", 60, 1373.5, 10),
        Band("B11", 20, 1613.7, 11),
        Band("B12", 20, 2202.4, 12),
    )
}
"""All bands by name."""

PAPER_BANDS: Final = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
"""The ten bands of the paper in its order (§3): the channel order of every image here unless configured otherwise."""

QUANTIFICATION: Final = 10_000
"""Digital numbers per unit of surface reflectance."""

NODATA: Final = 0
"""No measurement, in products and in our images; in ours it means nothing else."""

SATURATED: Final = 65_535
"""A saturated detector, in products; becomes :data:`NODATA` in our images."""

DARKEST: Final = 1
"""The least value of a valid pixel in our images: darker ones are clamped to it."""


class SceneClass(IntEnum):
    """Values of the Scene Classification Layer (L2A product definition)."""

    NO_DATA = 0
    SATURATED = 1
    DARK = 2
    CLOUD_SHADOW = 3
    VEGETATION = 4
    BARE = 5
    WATER = 6
    UNCLASSIFIED = 7
    CLOUD_MEDIUM = 8
    CLOUD_HIGH = 9
    CIRRUS = 10
    SNOW = 11


def check_bands(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` as a tuple if each is a band, and none stands twice.

    Raises:
        ConfigError: An unknown or repeated band, or none at all.
    """
    for name in names:
        if name not in S2_BANDS:
            raise ConfigError("unknown Sentinel-2 band", name, f"choose from {', '.join(S2_BANDS)}")
    if not names or len(set(names)) != len(names):
        raise ConfigError("bands must be one or more, each once", list(names), "remove the repeated ones")
    return tuple(names)
