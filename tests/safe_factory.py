"""Small Sentinel-2 products of random pixels, for tests; and how their pixels come out by definition."""

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np

from cropseg.core.bands import PAPER_BANDS, S2_BANDS
from data_prep.safe import SafeProduct, open_product
from data_prep.simulate.writer import ProductMeta, write_product


def meta(
    *, epsg: int = 32633, ulx: int = 600_000, uly: int = 5_300_040, size: int = 96, baseline: str = "05.10"
) -> ProductMeta:
    return ProductMeta(
        tile=f"{epsg % 100}{'UXP' if epsg < 32700 else 'HBD'}",
        epsg=epsg,
        ulx=ulx,
        uly=uly,
        size=size,
        acquired=datetime(2022, 6, 12, 10, 6, 1, tzinfo=UTC),
        baseline=baseline,
        platform="S2A",
        relative_orbit=22,
        absolute_orbit=36400,
        cloud_cover=3.0,
        nodata_percentage=0.0,
        generated=datetime(2022, 6, 12, 15, 0, 0, tzinfo=UTC),
        place="nowhere",
    )


def pixels(size: int, seed: int, *, swath: bool = True) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Digital numbers by band, and SCL: dark, bright, saturated and missing pixels, a slanted swath edge of no data."""
    rng = np.random.default_rng(seed)
    bands = {}
    for name in PAPER_BANDS:
        factor = S2_BANDS[name].resolution // 10
        side = size // factor
        # Many values below 1000, which the offset of recent baselines makes negative; some at the format's ends.
        array = rng.choice([1, 2, 990, 1000, 1001, 2000, 65_534], (side, side)).astype(np.uint16)
        usual = rng.random((side, side)) < 0.8
        array[usual] = rng.integers(1, 6_000, int(usual.sum()))
        array[rng.random((side, side)) < 0.02] = 65_535
        array[rng.random((side, side)) < 0.02] = 0
        if swath:
            row, col = np.indices((side, side)) * factor
            array[row + 2 * col < size * 0.7] = 0
        bands[name] = array
    scl = rng.integers(1, 12, (size // 2, size // 2)).astype(np.uint8)
    return bands, scl


def product(folder: Path, seed: int = 0, *, swath: bool = True, **kwargs) -> SafeProduct:
    about = meta(**kwargs)
    return open_product(write_product(about, *pixels(about.size, seed, swath=swath), folder))


def by_definition(raw: np.ndarray, factor: int, offset: int, resampling: str) -> np.ndarray:
    """A whole tile of one band, pixel by pixel in exact fractions, as the definition has it."""
    height, width = raw.shape
    out = np.zeros((height * factor, width * factor), np.uint16)
    for i, j in np.ndindex(out.shape):
        if raw[i // factor, j // factor] in (0, 65_535):
            continue
        if resampling == "nearest":
            value = Fraction(int(raw[i // factor, j // factor]))
        else:
            total = weights = Fraction(0)
            y, x = Fraction(2 * i + 1, 2 * factor) - Fraction(1, 2), Fraction(2 * j + 1, 2 * factor) - Fraction(1, 2)
            for r in {y.__floor__(), y.__ceil__()}:
                for c in {x.__floor__(), x.__ceil__()}:
                    if 0 <= r < height and 0 <= c < width and raw[r, c] not in (0, 65_535):
                        weight = (1 - abs(y - r)) * (1 - abs(x - c))
                        total, weights = total + weight * int(raw[r, c]), weights + weight
            value = total / weights
        out[i, j] = min(max(round(value + offset), 1), 65_535)  # round() of a fraction: half to even
    return out
