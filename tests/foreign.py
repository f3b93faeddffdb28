"""Foreign benchmarks, written as their originals are laid out: ground of a few materials, in bands of three sizes."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import rasterio
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from cropseg.core.bands import S2_BANDS
from cropseg.core.errors import ConfigError

DACIA5_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
PASTIS_ORDER = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

# Digital numbers of green crops, stubble, woods, water: round figures as in any handbook.
SPECTRA = {
    "B01": (300, 900, 150, 250), "B02": (350, 1100, 180, 220),
    "B03": (700, 1400, 350, 200), "B04": (400, 1800, 200, 120),
    "B05": (1000, 2000, 600, 110), "B06": (2800, 2200, 1800, 100), "B07": (3500, 2400, 2200, 90),
    "B08": (3700, 2500, 2300, 80), "B8A": (3800, 2600, 2400, 70), "B09": (3900, 2600, 2400, 70),
    "B11": (1900, 3200, 1000, 40), "B12": (900, 2700, 450, 30),
}  # fmt: skip


@cache
def composed(repo, name):
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        return compose("prepare", [f"importer={name}"]).importer


def run_importer(repo, importer, /, **changes):
    """What ``python prepare.py importer=… importer.<key>=<value> …`` does; ``__`` in a key stands for a dot."""
    cfg = composed(repo, importer).copy()
    if "others" in cfg:
        cfg.others = False  # thrice the time; the test that wants them says so
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    try:
        return instantiate(cfg)
    except InstantiationException as error:  # Hydra's wrapping, which the command line takes off too
        raise (error.__cause__ or error) from None


def refused(repo, importer, option, value, /, **changes):
    """The one line that refuses ``importer.<option>=<value>``, which must begin with the option and say the value."""
    with pytest.raises(ConfigError) as error:
        run_importer(repo, importer, **{**changes, option.replace(".", "__"): value})
    text = str(error.value)
    begin = f"importer.{option} is null. " if value is None else f"importer.{option}: {value!r}. "
    assert text.startswith(begin)
    assert "\n" not in text
    return text.removeprefix(begin)


def stack(order, height, width, *, offset=0, seed=0):
    """(bands, height, width) int64 in the band order asked for; 20 m and 60 m bands in blocks of equal pixels."""
    random = np.random.default_rng(seed)
    material = random.choice(4, (height // 8 + 1, width // 8 + 1), p=(0.5, 0.3, 0.15, 0.05))
    material = material.repeat(8, 0).repeat(8, 1)[:height, :width]
    speckle = random.normal(1, 0.08, (height, width))
    bands = []
    for band in order:
        fine = np.array(SPECTRA[band], float)[material] * speckle * random.normal(1, 0.02, (height, width))
        size = S2_BANDS[band].resolution // 10
        rows, cols = (np.arange(n) // size for n in (height, width))
        sums = np.zeros((rows[-1] + 1, cols[-1] + 1))
        np.add.at(sums, (rows[:, None], cols[None]), fine)
        counts = np.outer(np.bincount(rows), np.bincount(cols))
        bands.append((sums / counts)[rows[:, None], cols[None]])
    return np.rint(bands).astype(np.int64).clip(1) + offset


def write_tiff(path, values, *, crs="EPSG:32635", left=500_000.0, top=5_070_000.0, resolution=10.0, nodata=None):
    """A GeoTIFF of any bands and type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    profile = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
    transform = rasterio.Affine(resolution, 0, left, 0, -resolution, top)
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, nodata=nodata, **profile) as file:
        file.write(values)


def write_dacia5(folder, scenes, masks):
    """``scenes``: (12, h, w) by YYYYMMDD; ``masks``: uint8 (h, w) by year."""
    root = folder / "Dataset"
    for stamp, values in scenes.items():
        name = f"Images_Sentinel2_GeoTIFF/Sentinel2_{stamp[:4]}/Sentinel2_L2A_{stamp}.tif"
        write_tiff(root / name, np.asarray(values, np.uint16))
    for year, mask in masks.items():
        path = root / f"Masks_and_legend/Sentinel2_{year}/Labels_mask_{year}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(mask, np.uint8)).save(path)
    return folder


def write_pastis(folder, metadata, series, targets):
    """``metadata``: a FeatureCollection; ``series``: int16 (t, 10, h, w) and ``targets``: (3, h, w), by ID_PATCH."""
    for name in ("DATA_S2", "ANNOTATIONS"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "metadata.geojson").write_text(json.dumps(metadata))
    for number, values in series.items():
        np.save(folder / f"DATA_S2/S2_{number}.npy", values)
    for number, target in targets.items():
        np.save(folder / f"ANNOTATIONS/TARGET_{number}.npy", target)
    return folder
