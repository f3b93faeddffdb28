"""Between the ground and the satellite: residual haze, cirrus, clouds and their shadows, and the edge of the swath."""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, asin, atan2, cos, degrees, pi, radians, sin, tan
from typing import Final

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import PAPER_BANDS, S2_BANDS
from data_prep.simulate import spectra
from data_prep.simulate.noise import Field, field, generator
from data_prep.simulate.places import Pass

FloatArray = npt.NDArray[np.float32]
Bounds = tuple[float, float, float, float]

_CLOUD_OCTAVES: Final = (2600.0, 1300.0, 650.0, 320.0, 160.0, 80.0)
_CLOUD_WEIGHTS: Final = (1.0, 0.62, 0.40, 0.27, 0.18, 0.11)
_WAVELENGTH: Final = np.array([S2_BANDS[name].wavelength for name in PAPER_BANDS])

HAZE: Final[FloatArray] = ((492.4 / _WAVELENGTH) ** 1.3).astype(np.float32)
"""Haze of each band against B02: scattering by aerosol falls with wavelength to the power 1.3 (Ångström)."""

DIFFUSE: Final[FloatArray] = (0.10 + 0.28 * (492.4 / _WAVELENGTH) ** 2.0).astype(np.float32)
"""Light left in a cloud's shadow: skylight, blue above all."""


@dataclass(frozen=True)
class Sun:
    """Where the sun stands, in degrees.

    Attributes:
        zenith: From the vertical.
        azimuth: From north over east.
    """

    zenith: float
    azimuth: float


def sun(overpass: Pass, lon_lat: tuple[float, float]) -> Sun:
    """Position of the sun, to about half a degree (Spencer's declination, equation of time left in)."""
    turn = 2 * pi * (overpass.day - 1) / 365
    declination = (
        0.006918 - 0.399912 * cos(turn) + 0.070257 * sin(turn) - 0.006758 * cos(2 * turn) + 0.000907 * sin(2 * turn)
    )
    late = 229.18 * (
        0.000075 + 0.001868 * cos(turn) - 0.032077 * sin(turn) - 0.014615 * cos(2 * turn) - 0.04089 * sin(2 * turn)
    )
    minutes = overpass.acquired.hour * 60 + overpass.acquired.minute + overpass.acquired.second / 60
    hour = radians((minutes + late + 4 * lon_lat[0]) / 4 - 180)
    latitude = radians(lon_lat[1])
    height = asin(sin(latitude) * sin(declination) + cos(latitude) * cos(declination) * cos(hour))
    azimuth = atan2(sin(hour), cos(hour) * sin(latitude) - tan(declination) * cos(latitude))
    return Sun(degrees(acos(sin(height))), (degrees(azimuth) + 180) % 360)


@dataclass(frozen=True)
class Air:
    """What lies over a block of pixels, all float32 (height, width).

    Attributes:
        cloud: Opacity of thick cloud, 0 to 1.
        shadow: Share of direct sunlight that clouds take from the ground.
        shadow_seen: What a processor takes for shadow: nearly, not quite, at the same place.
        cirrus: Reflectance that cirrus adds at B02.
        haze: Reflectance that haze adds at B02; negative where the correction took too much.
        gain: Error of the correction that goes with the signal, about 1.
        texture: Brightness of cloud tops, about 1.
        valid: Whether the swath covers the pixel (boolean).
    """

    cloud: FloatArray
    shadow: FloatArray
    shadow_seen: FloatArray
    cirrus: FloatArray
    haze: FloatArray
    gain: FloatArray
    texture: FloatArray
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sky:
    """The state of the air over a whole product; see :func:`sky`."""

    overpass: Pass
    clouds: Field
    veil: Field
    aerosol: Field
    threshold: float
    offset: tuple[float, float]
    edge: tuple[float, float, float]

    def over(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Air:
        """The air over the pixel centres of columns ``x`` and rows ``y`` (metres)."""
        thick = self.clouds.at(x, y)
        aerosol = self.aerosol.at(x, y)
        veil = self.veil.at(x, y) if self.overpass.cirrus else np.zeros_like(thick)
        dx, dy = self.offset
        x0, y0, side = self.edge
        # A descending orbit runs about 13° west of south; no data lie beyond the edge on one side.
        beyond = (x[None, :] - x0 - np.tan(radians(13.0)) * (y[:, None] - y0)) * side
        return Air(
            self._opacity(thick),
            self._opacity(self.clouds.at(x + dx, y + dy)),
            self._opacity(self.clouds.at(x + 0.93 * dx, y + 0.93 * dy)),
            (0.05 * self.overpass.cirrus * np.clip(veil + 0.2, 0, None)).astype(np.float32),
            (self.overpass.haze * (1 + 0.6 * aerosol) - 0.002).astype(np.float32),
            (1 + 0.012 * aerosol).astype(np.float32),
            (1 + 0.06 * thick).astype(np.float32),
            np.asarray(beyond <= 0, dtype=bool),
        )

    def _opacity(self, thick: FloatArray) -> FloatArray:
        """Opacity grows from the cloud's edge inwards (Beer's law, optical depth linear in the field)."""
        depth = np.float32(5.0) * np.clip(thick - np.float32(self.threshold), 0, None)
        return np.asarray(1 - np.exp(-depth), dtype=np.float32)


def sky(overpass: Pass, lon_lat: tuple[float, float], bounds: Bounds, *keys: str | int) -> Sky:
    """Draw the air of one overpass.

    Args:
        overpass: Its cloud, haze, cirrus and swath.
        lon_lat: Where the sun is computed for, degrees.
        bounds: Left, bottom, right, top of the product in metres.
        keys: For :func:`data_prep.simulate.noise.generator`; two processings of one measurement share them.
    """
    left, bottom, right, top = bounds
    names = (*keys, overpass.datatake)
    random = generator(*names, "sky")
    around = (left - 5000, bottom - 5000, right + 5000, top + 5000)
    clouds = field(around, _CLOUD_OCTAVES, _CLOUD_WEIGHTS, *names, "cloud")
    sample = clouds.at(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
    height = random.uniform(900, 1900)
    above = sun(overpass, lon_lat)
    far = height * tan(radians(above.zenith))
    side = 1.0 if random.random() < 0.5 else -1.0
    place = right - overpass.beyond * (right - left) if side > 0 else left + overpass.beyond * (right - left)
    if overpass.beyond <= 0:
        place += side * 1e7
    return Sky(
        overpass,
        clouds,
        field(around, (4000.0, 1500.0, 500.0), (1.0, 0.6, 0.3), *names, "cirrus"),
        field(around, (5000.0, 1500.0), (1.0, 0.4), *names, "aerosol"),
        float(np.quantile(sample, 1 - overpass.cloud)),
        (far * sin(radians(above.azimuth)), far * cos(radians(above.azimuth))),
        (place, (bottom + top) / 2, side),
    )


def seen_through(ground: FloatArray, band: int, air: Air) -> FloatArray:
    """Surface reflectance of one band as the processor delivers it, float32 of any range.

    Args:
        ground: True reflectance (height, width).
        band: Index in the paper's order.
        air: Over the same pixels.
    """
    lit = ground * (1 - air.shadow * (1 - DIFFUSE[band]))
    veiled = lit * air.gain + air.haze * HAZE[band] + air.cirrus * spectra.ground("cirrus")[band]
    cloud = spectra.ground("cloud")[band] * air.texture
    result: FloatArray = veiled + air.cloud * (cloud - veiled)
    return result
