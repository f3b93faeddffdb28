import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cropseg.core import taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError
from cropseg.core.manifest import MANIFEST_SCHEMA
from data_prep.quality import Figures, Thresholds, judge

CROPS = taxonomy.load("eurocrops10")
OFF = Thresholds(max_nodata=1, min_foreground=0, max_scl_invalid=1, max_bright=1)


def clean(size=10):
    """A patch that every filter accepts: dark crop under clear sky."""
    image = np.full((10, size, size), 800, np.uint16)
    return image, np.full((size, size), 3, np.uint8), np.full((size, size), 4, np.uint8)


def test_a_clean_patch_is_accepted_with_its_figures():
    verdict = judge(*clean(), Thresholds(), CROPS, clamped_fraction=0.25)
    assert verdict.accepted
    assert (verdict.rule, verdict.reason) == ("", "")
    assert verdict.figures == Figures(0, 1, 0, 0, 0.25, (0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0), 0)


def test_figures_are_named_as_the_manifest_columns():
    assert set(asdict(judge(*clean(), OFF, CROPS).figures)) <= set(MANIFEST_SCHEMA.names)


def test_each_filter_refuses_at_its_limit_and_says_why():
    image, mask, scl = clean()
    nodata = image.copy()
    nodata[7, 0, :6] = 0  # one band is enough
    verdict = judge(nodata, mask, scl, Thresholds(max_nodata=0.05), CROPS)
    assert (verdict.accepted, verdict.rule) == (False, "nodata")
    assert verdict.reason == "6.00% of the pixels have no data, at most 5.00% allowed"
    assert judge(nodata, mask, scl, Thresholds(max_nodata=0.06), CROPS).accepted

    bare = np.zeros_like(mask)
    bare[0, :4] = 10
    bare[1] = 255  # unknown ground is no foreground
    verdict = judge(image, bare, scl, Thresholds(min_foreground=0.05), CROPS)
    assert (verdict.rule, verdict.reason) == ("foreground", "4.00% of the pixels carry a crop, at least 5.00% needed")
    assert verdict.figures.ignored == 10
    assert judge(image, bare, scl, Thresholds(min_foreground=0.04), CROPS).accepted

    cloudy = scl.copy()
    cloudy[:2, :6] = 9
    verdict = judge(image, mask, cloudy, Thresholds(max_scl_invalid=0.1), CROPS)
    assert verdict.rule == "scl"
    assert verdict.reason == "12.00% of the pixels with data are cloudy or invalid, at most 10.00% allowed"
    assert judge(image, mask, cloudy, Thresholds(max_scl_invalid=0.1, scl_invalid=[8]), CROPS).accepted

    bright = image.copy()
    bright[:3, 0, :8] = 3001
    verdict = judge(bright, mask, scl, Thresholds(max_bright=0.05, bright_reflectance=0.3), CROPS)
    assert verdict.rule == "bright"
    assert verdict.reason == "8.00% of the pixels with data are unusually bright, at most 5.00% allowed"
    bright[:3, 0, :8] = 3000
    assert judge(bright, mask, scl, Thresholds(max_bright=0.05, bright_reflectance=0.3), CROPS).accepted
    near_infrared = image.copy()
    near_infrared[3:8] = 5000  # dense vegetation is as bright as a cloud there
    assert judge(near_infrared, mask, scl, Thresholds(), CROPS).accepted


def test_target_class_mode():
    image, mask, scl = clean()
    mask[0, :5] = CROPS.id_of("sunflower")
    verdict = judge(image, mask, scl, Thresholds(target="sunflower", min_target=0.06), CROPS)
    assert (verdict.rule, verdict.reason) == ("target", "5.00% of the pixels carry sunflower, at least 6.00% needed")
    assert judge(image, mask, scl, Thresholds(target="sunflower", min_target=0.05), CROPS).accepted
    with pytest.raises(ConfigError, match="has no class: 'Hops'"):
        judge(image, mask, scl, Thresholds(target="Hops"), CROPS)
    with pytest.raises(ConfigError, match=r"quality\.target is a crop class: 'background'"):
        judge(image, mask, scl, Thresholds(target="background"), CROPS)


def test_the_first_failing_filter_gives_the_reason_and_all_figures_are_kept():
    image, mask, scl = clean()
    image[:, :5] = 0
    mask[:] = 0
    scl[:] = 9
    verdict = judge(image, mask, scl, Thresholds(), CROPS)
    assert verdict.rule == "nodata"
    assert (verdict.figures.foreground_fraction, verdict.figures.scl_invalid_fraction) == (0, 1)
    assert judge(image, mask, scl, replace(Thresholds(), max_nodata=0.5), CROPS).rule == "foreground"


def test_shares_of_pixels_with_data_leave_the_others_out():
    image, mask, scl = clean()
    image[0, :5] = 0
    scl[:5] = 0
    image[:3, 5, 0] = 9_000
    figures = judge(image, mask, scl, OFF, CROPS).figures
    assert figures.nodata_fraction == 0.5
    assert figures.scl_invalid_fraction == 0
    assert figures.bright_fraction == 0.02


def test_without_scl_or_without_any_data_there_is_nothing_to_judge():
    image, mask, _ = clean()
    verdict = judge(image, mask, None, Thresholds(max_scl_invalid=0), CROPS)
    assert verdict.accepted
    assert math.isnan(verdict.figures.scl_invalid_fraction)
    verdict = judge(np.zeros_like(image), mask, None, OFF, CROPS)
    assert verdict.accepted
    assert math.isnan(verdict.figures.bright_fraction)
    assert judge(np.zeros_like(image), mask, None, Thresholds(), CROPS).rule == "nodata"


def test_brightness_follows_the_channel_order():
    image, mask, scl = clean()
    bands = PAPER_BANDS[::-1]
    image[[bands.index(b) for b in ("B02", "B03", "B04")]] = 9_000
    assert judge(image, mask, scl, Thresholds(), CROPS, bands=bands).rule == "bright"
    assert judge(image, mask, scl, Thresholds(), CROPS).accepted
    with pytest.raises(ConfigError, match=r"bands the images lack: \['B03'\]"):
        judge(image[:2], mask, scl, Thresholds(), CROPS, bands=["B02", "B04"])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(1, 12))
def test_figures_against_counting_pixel_by_pixel(seed, side):
    rng = np.random.default_rng(seed)
    image = rng.choice([0, 1, 2_999, 3_001, 9_000], (10, side, side), p=[0.02, 0.3, 0.3, 0.28, 0.1]).astype(np.uint16)
    mask = rng.choice([0, 1, 5, 10, 255], (side, side)).astype(np.uint8)
    scl = rng.integers(0, 12, (side, side)).astype(np.uint8)
    figures = judge(image, mask, scl, OFF, CROPS).figures
    data = [(r, c) for r in range(side) for c in range(side) if image[:, r, c].min() > 0]
    assert figures.nodata_fraction == pytest.approx(1 - len(data) / side**2)
    assert figures.foreground_fraction == pytest.approx(np.isin(mask, range(1, 11)).mean())
    assert sum(figures.counts) + figures.ignored == side**2
    assert figures.counts == tuple((mask == i).sum() for i in range(11))
    if data:
        invalid = [scl[p] in (0, 1, 3, 8, 9, 10, 11) for p in data]
        bright = [float(image[:3, p[0], p[1]].mean()) > 3_000 + 1e-9 for p in data]
        assert figures.scl_invalid_fraction == pytest.approx(np.mean(invalid))
        assert figures.bright_fraction == pytest.approx(np.mean(bright))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_nodata", 1.1),
        ("min_foreground", -0.1),
        ("max_scl_invalid", math.nan),
        ("max_bright", "0.1"),
        ("min_target", None),
        ("max_nodata", True),
        ("bright_reflectance", 0),
        ("bright_reflectance", math.inf),
        ("scl_invalid", [12]),
        ("scl_invalid", [-1]),
        ("scl_invalid", ["cloud"]),
        ("bright_bands", []),
        ("bright_bands", ["red"]),
    ],
)
def test_impossible_thresholds_are_refused(name, value):
    with pytest.raises(ConfigError):
        Thresholds(**{name: value})


@pytest.mark.parametrize("option", ["default", "paper", "off"])
def test_options_of_the_config_group(repo, option):
    thresholds = instantiate(OmegaConf.load(repo / "conf" / "quality" / f"{option}.yaml"))
    assert isinstance(thresholds, Thresholds)
    if option == "off":
        image, mask, scl = clean()
        assert judge(np.zeros_like(image), mask * 0, scl * 0, thresholds, CROPS).accepted
    else:
        assert thresholds == Thresholds()
