"""Derives ``data/spectra.npz``: canopy reflectance in Sentinel-2's bands from the radiative-transfer model PROSAIL.

Run by hand, once: ``pip install prosail && python -m data_prep.simulate.derive_spectra``. PROSAIL is GPL-3, so this
script alone imports it, and it is no dependency of cropseg; the table of numbers it gives ships as data.

Model: PROSPECT-D (Féret et al. 2017, RSE 193) for the leaf and 4SAIL (Verhoef et al. 2007, IEEE TGRS 45) for the
canopy, as coupled in Jacquemoud et al. 2009, RSE 113, with the two soil spectra that PROSAIL brings. Direct sun only,
sun zenith 38°, view zenith 5°, azimuth between them 90°: a Sentinel-2 overpass at 48° north in the growing season.

Band response: a Gaussian about the centre with the full width at half maximum of Sentinel-2A (Sentinel-2 User
Handbook, table of spectral bands), normalised over 400-2500 nm. B01, B09 and B10 are kept for completeness.

Leaf and canopy parameters come from the agronomic literature named beside them, none from an image.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import S2_BANDS

FWHM: Final = {
    "B01": 21,
    "B02": 66,
    "B03": 36,
    "B04": 31,
    "B05": 15,
    "B06": 15,
    "B07": 20,
    "B08": 106,
    "B8A": 21,
    "B09": 20,
    "B10": 31,
    "B11": 91,
    "B12": 175,
}
"""Band widths in nanometres."""

CANOPIES: Final = {
    # name: mean leaf angle in degrees (ellipsoidal, Campbell 1990), leaf structure N, water cm, dry matter g/cm²
    # Erectophile cereals: Danner et al. 2019 (winter wheat 55-70°), Jacquemoud et al. 2009.
    "cereal": (62.0, 1.5, 0.012, 0.0050),
    # Maize: España et al. 1999 (Agric. For. Meteorol. 93): near 50-55°; thicker, wetter leaves.
    "maize": (53.0, 1.5, 0.015, 0.0050),
    # Oilseed rape: horizontal rosettes, then pods: Müller et al. 2009 (spherical on average).
    "rape": (48.0, 1.7, 0.018, 0.0050),
    # Beet, potato, soybean, sunflower, peas: planophile: Andrieu et al. 1997 (beet), Duan et al. 2014 (35-45°).
    "broadleaf": (38.0, 1.6, 0.018, 0.0045),
    # Grass swards: near spherical to erect: Darvishzadeh et al. 2008 (RSE 112).
    "grass": (58.0, 1.5, 0.012, 0.0055),
    # Broad-leaved trees, vines and hedges: Féret et al. 2017 for leaves (drier, heavier).
    "tree": (45.0, 1.7, 0.011, 0.0090),
}
LAI: Final = (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 6.5)
"""Leaf area index, m²/m²."""
CAB: Final = (2.0, 15.0, 30.0, 45.0, 60.0)
"""Leaf chlorophyll a+b, µg/cm²; carotenoids follow as 1 + chlorophyll / 5 (Féret et al. 2017)."""
BROWN: Final = (0.0, 0.25, 0.6, 1.0)
"""Brown pigments, arbitrary units of PROSPECT: 0 green, 1 dead."""
WATER: Final = (0.1, 1.0)
"""Leaf water as a share of the canopy's full value."""
BRIGHTNESS: Final = (0.5, 1.2)
"""Factor on PROSAIL's soil spectra."""
DRYNESS: Final = (0.0, 1.0)
"""Share of the dry spectrum against the wet one."""
AXES: Final = ("lai", "cab", "brown", "water", "brightness", "dryness")

FloatArray = npt.NDArray[np.float64]


def band_weights() -> FloatArray:
    """Normalised Gaussian responses, (13, 2101), on PROSAIL's grid 400, 401, …, 2500 nm."""
    nm = np.arange(400, 2501, dtype=np.float64)
    rows = [np.exp(-4 * np.log(2) * ((nm - band.wavelength) / FWHM[name]) ** 2) for name, band in S2_BANDS.items()]
    weights = np.stack(rows)
    normalised: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def derive() -> dict[str, Any]:
    """The whole table: ``reflectance`` uint16 × 10000 (canopy, lai, cab, brown, water, brightness, dryness, band)."""
    import prosail  # GPL-3: see the module's docstring

    weights = band_weights()
    axes = (LAI, CAB, BROWN, WATER, BRIGHTNESS, DRYNESS)
    table = np.empty((len(CANOPIES), *(len(axis) for axis in axes), len(S2_BANDS)), dtype=np.uint16)
    for c, (angle, n, water, dry_matter) in enumerate(CANOPIES.values()):
        for index in product(*(range(len(axis)) for axis in axes)):
            lai, cab, brown, wet, brightness, dryness = (axis[i] for axis, i in zip(axes, index, strict=True))
            spectrum = prosail.run_prosail(
                n=n,
                cab=cab,
                car=1 + cab / 5,
                cbrown=brown,
                cw=water * wet,
                cm=dry_matter,
                lai=max(lai, 1e-4),
                lidfa=angle,
                hspot=0.1,
                tts=38.0,
                tto=5.0,
                psi=90.0,
                typelidf=2,
                rsoil=brightness,
                psoil=dryness,
                prospect_version="D",
                factor="SDR",
            )
            table[(c, *index)] = np.rint(10_000 * (weights @ spectrum))
    return {
        "reflectance": table,
        "canopies": np.array(list(CANOPIES)),
        "bands": np.array(list(S2_BANDS)),
        **{name: np.array(axis, dtype=np.float32) for name, axis in zip(AXES, axes, strict=True)},
    }


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "data" / "spectra.npz", **derive())
