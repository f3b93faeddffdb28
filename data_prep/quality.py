"""Whether a patch is worth keeping: the paper's four filters and its target-class mode (§2.3), each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import NODATA, PAPER_BANDS, QUANTIFICATION, SceneClass, check_bands
from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND, IGNORE
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.core.taxonomy import Taxonomy


@dataclass(frozen=True)
class Thresholds:
    """What a patch must satisfy; the paper names the filters and gives no value, so each is ours and configurable.

    Shares are 0 to 1. A limit of 1 (for a maximum) or 0 (for a minimum) switches its filter off.

    Attributes:
        max_nodata: Largest share of all pixels without data in any band.
        min_foreground: Least share of all pixels that carry a crop class.
        max_scl_invalid: Largest share of the pixels with data whose scene class is in ``scl_invalid``.
        scl_invalid: Scene classes that spoil a pixel, 0 to 11.
        max_bright: Largest share of the pixels with data that are brighter than ``bright_reflectance``.
        bright_reflectance: Mean surface reflectance of ``bright_bands`` above which a pixel is bright.
        bright_bands: Bands whose mean is the brightness: clouds are bright in all visible bands, crops in none.
        target: Name of the class that a patch must hold (target-class mode); None for no such demand.
        min_target: Least share of all pixels that carry ``target``; not used without one.
    """

    max_nodata: float = 0.05
    min_foreground: float = 0.05
    max_scl_invalid: float = 0.10
    scl_invalid: Sequence[int] = (
        SceneClass.NO_DATA,
        SceneClass.SATURATED,
        SceneClass.CLOUD_SHADOW,
        SceneClass.CLOUD_MEDIUM,
        SceneClass.CLOUD_HIGH,
        SceneClass.CIRRUS,
        SceneClass.SNOW,
    )
    max_bright: float = 0.05
    bright_reflectance: float = 0.30
    bright_bands: Sequence[str] = ("B02", "B03", "B04")
    target: str | None = None
    min_target: float = 0.01

    def __post_init__(self) -> None:
        """Check every figure, and turn lists that a YAML gave into tuples."""
        for name in ("max_nodata", "min_foreground", "max_scl_invalid", "max_bright", "min_target"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise ConfigError(f"quality.{name} is a share of pixels", value, "give a number from 0 to 1")
        if not _is_number(self.bright_reflectance) or not 0 < self.bright_reflectance < math.inf:
            raise ConfigError(
                "quality.bright_reflectance is a surface reflectance", self.bright_reflectance, "give one above 0"
            )
        known = {int(scene_class) for scene_class in SceneClass}
        if any(isinstance(c, bool) or c not in known for c in self.scl_invalid):
            raise ConfigError("quality.scl_invalid lists scene classes", list(self.scl_invalid), "use 0 to 11")
        object.__setattr__(self, "scl_invalid", tuple(int(c) for c in self.scl_invalid))
        object.__setattr__(self, "bright_bands", check_bands(self.bright_bands))


@dataclass(frozen=True)
class Figures:
    """What was measured on a patch, named as the manifest's columns.

    Attributes:
        nodata_fraction: Of all pixels, those where any band has no data.
        foreground_fraction: Of all pixels, those whose label is a crop class.
        scl_invalid_fraction: Of the pixels with data, those of an invalid scene class; NaN if no SCL or no data.
        bright_fraction: Of the pixels with data, those above the brightness limit; NaN if there is no data.
        clamped_fraction: Of the valid samples, those raised to 1.
        counts: Pixels per class id.
        ignored: Pixels of label 255.
    """

    nodata_fraction: float
    foreground_fraction: float
    scl_invalid_fraction: float
    bright_fraction: float
    clamped_fraction: float
    counts: tuple[int, ...]
    ignored: int


@dataclass(frozen=True)
class Verdict:
    """The judgement of one patch.

    Attributes:
        accepted: Whether it passed every filter.
        rule: The filter that refused it: ``nodata``, ``foreground``, ``scl``, ``bright`` or ``target``; empty if none.
        reason: One line with the figure and the threshold; empty if accepted.
        figures: All figures, whatever the verdict.
    """

    accepted: bool
    rule: str
    reason: str
    figures: Figures


def judge(
    image: UInt16Array,
    mask: UInt8Array,
    scl: UInt8Array | None,
    thresholds: Thresholds,
    taxonomy: Taxonomy,
    *,
    bands: Sequence[str] = PAPER_BANDS,
    clamped_fraction: float = 0.0,
) -> Verdict:
    """Judge one patch; the first filter that refuses it, in the paper's order, gives the reason.

    Args:
        image: (bands, height, width), reflectance × 10000, 0 = no data.
        mask: (height, width), class ids and 255.
        scl: (height, width) scene classes, or None where none is known: that filter is then passed over.
        thresholds: The limits.
        taxonomy: Classes of ``mask``.
        bands: Channel order of ``image``.
        clamped_fraction: Of the valid samples, those raised to 1; only carried into the figures.

    Returns:
        The verdict with all figures.

    Raises:
        ConfigError: The brightness bands are not in ``bands``, or the target is not a crop class of ``taxonomy``.
    """
    figures = measure(image, mask, scl, thresholds, taxonomy, bands=bands, clamped_fraction=clamped_fraction)
    for rule, what, value, limit, too_much in (
        ("nodata", "of the pixels have no data", figures.nodata_fraction, thresholds.max_nodata, True),
        ("foreground", "of the pixels carry a crop", figures.foreground_fraction, thresholds.min_foreground, False),
        (
            "scl",
            "of the pixels with data are cloudy or invalid",
            figures.scl_invalid_fraction,
            thresholds.max_scl_invalid,
            True,
        ),
        (
            "bright",
            "of the pixels with data are unusually bright",
            figures.bright_fraction,
            thresholds.max_bright,
            True,
        ),
        (
            "target",
            f"of the pixels carry {thresholds.target}",
            _target_fraction(figures, thresholds, taxonomy, mask.size),
            thresholds.min_target,
            False,
        ),
    ):
        # NaN, where there is nothing to judge, compares as false and so passes.
        if (value > limit) if too_much else (value < limit):
            bound = f"at most {limit:.2%} allowed" if too_much else f"at least {limit:.2%} needed"
            return Verdict(False, rule, f"{value:.2%} {what}, {bound}", figures)
    return Verdict(True, "", "", figures)


def measure(
    image: UInt16Array,
    mask: UInt8Array,
    scl: UInt8Array | None,
    thresholds: Thresholds,
    taxonomy: Taxonomy,
    *,
    bands: Sequence[str] = PAPER_BANDS,
    clamped_fraction: float = 0.0,
) -> Figures:
    """All figures of one patch; arguments and errors as for :func:`judge`."""
    check_filters(thresholds, bands, taxonomy)
    data = (image != NODATA).all(axis=0)
    n_data = int(data.sum())
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    visible = image[[list(bands).index(band) for band in thresholds.bright_bands]]
    # Compared as a sum of integers, so that the figure does not hang on rounding.
    bright = visible.sum(axis=0, dtype=np.int64) > thresholds.bright_reflectance * QUANTIFICATION * len(visible)
    invalid = None if scl is None else np.isin(scl, list(thresholds.scl_invalid))
    return Figures(
        nodata_fraction=(mask.size - n_data) / mask.size,
        foreground_fraction=float(counts[BACKGROUND + 1 : len(taxonomy)].sum()) / mask.size,
        scl_invalid_fraction=_share(invalid, data, n_data),
        bright_fraction=_share(bright, data, n_data),
        clamped_fraction=clamped_fraction,
        counts=tuple(int(count) for count in counts[: len(taxonomy)]),
        ignored=int(counts[IGNORE]),
    )


def check_filters(thresholds: Thresholds, bands: Sequence[str], taxonomy: Taxonomy) -> None:
    """Refuse filters that do not fit the images or the classes.

    Raises:
        ConfigError: The brightness bands are not in ``bands``, or the target is not a crop class of ``taxonomy``.
    """
    missing = [band for band in thresholds.bright_bands if band not in bands]
    if missing:
        raise ConfigError("quality.bright_bands asks for bands the images lack", missing, f"choose from {list(bands)}")
    if thresholds.target is not None and taxonomy.id_of(thresholds.target) == BACKGROUND:
        raise ConfigError("quality.target is a crop class", thresholds.target, "name a crop, or none with null")


def _share(flags: npt.NDArray[np.bool_] | None, data: npt.NDArray[np.bool_], n_data: int) -> float:
    return math.nan if flags is None or n_data == 0 else int((flags & data).sum()) / n_data


def _target_fraction(figures: Figures, thresholds: Thresholds, taxonomy: Taxonomy, pixels: int) -> float:
    if thresholds.target is None:
        return math.nan
    return figures.counts[taxonomy.id_of(thresholds.target)] / pixels


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
