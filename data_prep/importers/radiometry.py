"""Band order and BOA offset of a foreign scene, told from its pixels alone, by a rule that is fixed beforehand.

No label and no prediction is looked at. Of each candidate the evidence is kept, that of the refused one too.

*Band order.* Each candidate order makes claims (:data:`CLAIMS`) that vegetation, and the native pixel sizes of the
bands, bear out or not. The one with most claims held is taken, if it is alone in that and at least ``min_share`` of its
claims hold.

*BOA offset.* Baseline 04.00 adds 1000 to every digital number. The darkest percentile of the darkest band is then near
1000 and up; without the offset some band of some field, wood, water or shadow is far below it, since short-wave
infrared is dark where haze brightens the visible bands. In between, and under
cloud, which is as bright as an offset makes clear ground, nothing is told. Held against 72 dates of a real place, with
and without an offset added, in the tests.

A scene that does not tell follows the majority of those delivered with it, and the audit says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cropseg.core.bands import PAPER_BANDS, S2_BANDS, check_bands
from cropseg.core.errors import ConfigError, InputError
from data_prep.importers.options import BANDS, NUMBER, SHARE, WORD, Kind, check_options, whole_number

Offset = Literal["absent", "present"]
BoolArray = npt.NDArray[np.bool_]

CLAIMS: Final = {
    "detail": "pixels of 60 m bands differ less from their neighbours than those of 20 m bands, those less than 10 m",
    "B8A as B08": "B8A goes with B08 more than with B11",
    "SWIR pair": "B11 goes with B12 more than with B8A",
    "red edge": "over vegetation B04 < B05 < B06 < 1.1 B07",
    "near infrared": "over vegetation B08 and B8A are within 0.75 to 1.35 of B07",
    "green peak": "over vegetation B03 is above B04",
    "SWIR": "over vegetation B12 < B11 < B8A",
    "vapour": "over vegetation B09 is within 0.65 to 1.45 of B8A (where the candidate has a B09)",
}
"""What a candidate order claims, by name."""


ORDERS: Final = Kind(
    "lists of bands by name, as in the importer's YAML",
    lambda value: isinstance(value, Mapping) and bool(value) and all(map(BANDS.fits, value.values())),
)


@dataclass(frozen=True)
class RadiometryRule:
    """The rule, as the importer's YAML fixes it.

    Attributes:
        orders: Candidate band orders by name; the first is the documented or expected one.
        order: ``radiometry`` decides; ``other`` takes the best of the refused; or a candidate's name.
        offset: ``radiometry`` decides; ``other`` takes the refused one; or ``absent`` or ``present``.
        min_share: Least share of its claims that must hold for a candidate to be taken.
        min_claims: Least number of claims that the scene must tell of it: under cloud few are told, and not rightly.
        min_vegetation: Least number of vegetated pixels for claims about vegetation.
        percentile: The darkest percentile looked at, 0 to 100.
        absent_below: Below this digital number the darkest band has no offset in it.
        present_from: From this one on it has, up to ``present_to``, above which the scene is bright all over.
        present_to: See ``present_from``.
        clear_to: Median of B02 above which the scene is too cloudy to tell that an offset is in it.
        value: The offset in digital numbers.
    """

    orders: Mapping[str, Sequence[str]]
    order: str = "radiometry"
    offset: str = "radiometry"
    min_share: float = 0.75
    min_claims: int = 6
    min_vegetation: int = 100
    percentile: float = 1.0
    absent_below: float = 700.0
    present_from: float = 850.0
    present_to: float = 1700.0
    clear_to: float = 2200.0
    value: int = 1000

    def __post_init__(self) -> None:
        """Check the figures and the names."""
        check_options(
            "importer.rule",
            {
                "orders": (self.orders, ORDERS), "order": (self.order, WORD), "offset": (self.offset, WORD),
                "min_share": (self.min_share, SHARE), "min_claims": (self.min_claims, whole_number(0)),
                "min_vegetation": (self.min_vegetation, whole_number(1)), "percentile": (self.percentile, NUMBER),
                "absent_below": (self.absent_below, NUMBER), "present_from": (self.present_from, NUMBER),
                "present_to": (self.present_to, NUMBER), "clear_to": (self.clear_to, NUMBER),
                "value": (self.value, whole_number(1)),
            },
        )  # fmt: skip
        for name, bands in self.orders.items():
            if missing := set(PAPER_BANDS) - set(check_bands(bands)):
                raise ConfigError(f"band order {name} lacks bands", sorted(missing), "name all bands of the file")
        if len({len(bands) for bands in self.orders.values()}) != 1:
            raise ConfigError("candidate band orders must have one length", list(self.orders), "mend rule.orders")
        if self.order not in ("radiometry", "other", *self.orders):
            known = ", ".join(("radiometry", "other", *self.orders))
            raise ConfigError("rule.order of the importer", self.order, f"choose from {known}")
        if self.order == "other" and len(self.orders) < 2:
            raise ConfigError("rule.order=other needs a second candidate", list(self.orders), "add one to rule.orders")
        if self.offset not in ("radiometry", "other", "absent", "present"):
            remedy = "choose radiometry, other, absent or present"
            raise ConfigError("rule.offset of the importer", self.offset, remedy)
        if not self.absent_below <= self.present_from < self.present_to or not 0 <= self.percentile <= 50:
            raise ConfigError(
                "importer rule needs absent_below <= present_from < present_to, and a percentile of 0 to 50",
                (self.absent_below, self.present_from, self.present_to, self.percentile),
            )

    @property
    def expected(self) -> str:
        """The first candidate order."""
        return next(iter(self.orders))

    @property
    def channels(self) -> int:
        """Bands of a file."""
        return len(self.orders[self.expected])

    @property
    def others(self) -> tuple[RadiometryRule, ...]:
        """The rule with one choice turned round each: what a wrong choice would do. None of a rule that is turned."""
        if self.suffix:
            return ()
        order = (replace(self, order="other"),) if len(self.orders) > 1 else ()
        return (replace(self, offset="other"), *order)

    @property
    def suffix(self) -> str:
        """What a dataset imported under another choice is called by, beside its name."""
        parts = [f"_{self.order}_order"] if self.order != "radiometry" else []
        return "".join([*parts, *([f"_{self.offset}_offset"] if self.offset != "radiometry" else [])])


@dataclass(frozen=True)
class Evidence:
    """What one scene tells.

    Attributes:
        held: Claims that held, by candidate order.
        failed: Claims that did not.
        dark: Darkest percentile of the darkest band, in digital numbers; NaN without valid pixels.
        blue: Median of B02.
        clamped: Share of the samples that would be raised to 1 if the offset were taken off.
        ndvi_absent: 99th percentile of NDVI if there is no offset.
        ndvi_present: The same if there is one.
    """

    held: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, tuple[str, ...]]
    dark: float
    blue: float
    clamped: float
    ndvi_absent: float
    ndvi_present: float


@dataclass(frozen=True)
class Decision:
    """What is applied to one scene, and on what grounds: ``radiometry``, ``set``, ``majority of …``, ``documented``."""

    order: str
    order_by: str
    offset: Offset
    offset_by: str


def look(values: npt.NDArray[Any], valid: BoolArray, rule: RadiometryRule) -> Evidence:
    """Evidence of one scene.

    Args:
        values: (bands, height, width), digital numbers in the file's order.
        valid: (height, width), where every band has data.
        rule: The rule.
    """
    stack = values.astype(np.float32)
    held, failed = {}, {}
    detail, pixels = _detail(stack, valid), stack[:, valid]
    for name, order in rule.orders.items():
        claims = _claims(dict(zip(order, range(len(order)), strict=True)), detail, pixels, rule.min_vegetation)
        held[name] = tuple(claim for claim, holds in claims.items() if holds)
        failed[name] = tuple(claim for claim, holds in claims.items() if not holds)
    best = _best(held, failed, rule) or rule.expected
    order = list(rule.orders[best])
    wanted = pixels[[order.index(band) for band in PAPER_BANDS]]
    if not wanted.size:
        return Evidence(held, failed, *[float("nan")] * 5)
    darkest = np.percentile(wanted, rule.percentile, axis=1)
    red, near = wanted[PAPER_BANDS.index("B04")], wanted[PAPER_BANDS.index("B08")]
    return Evidence(
        held,
        failed,
        float(darkest.min()),
        float(np.median(wanted[PAPER_BANDS.index("B02")])),
        float((wanted <= rule.value).mean()),
        _index(near, red),
        _index(near - rule.value, red - rule.value),
    )


def settle(evidence: Sequence[Evidence], groups: Sequence[str], rule: RadiometryRule) -> list[Decision]:
    """Decide for every scene; those that do not tell follow the majority of their group, then of all.

    Args:
        evidence: Of each scene.
        groups: Delivered with which others, such as the folder of its year.
        rule: The rule.

    Raises:
        InputError: No scene tells which, and no choice was set.
    """
    orders = [_best(one.held, one.failed, rule) for one in evidence]
    offsets = [_offset(one, rule) for one in evidence]
    decisions = []
    for number, group in enumerate(groups):
        order, order_by = _followed(orders, groups, number, group)
        if order is None:
            order, order_by = rule.expected, "documented; the pixels of no scene tell"
        if rule.order == "other":
            rest = [name for name in rule.orders if name != order]
            order, order_by = max(rest, key=lambda name: len(evidence[number].held[name])), "the other choice"
        elif rule.order != "radiometry":
            order, order_by = rule.order, "set"
        offset, offset_by = _followed(offsets, groups, number, group)
        if rule.offset in ("absent", "present"):
            offset, offset_by = rule.offset, "set"
        if offset is None:
            raise InputError(
                "no scene tells whether the BOA offset is in its numbers; darkest values",
                [round(one.dark) if one.dark == one.dark else "none" for one in evidence][:5],
                "set rule.offset=absent or present",
            )
        if rule.offset == "other":
            offset, offset_by = "absent" if offset == "present" else "present", "the other choice"
        decisions.append(Decision(order, order_by, "present" if offset == "present" else "absent", offset_by))
    return decisions


def audit_columns(evidence: Evidence, decision: Decision, rule: RadiometryRule) -> dict[str, Any]:
    """Both choices of a scene with their evidence, for the audit."""
    row: dict[str, Any] = {"order": decision.order, "order_by": decision.order_by}
    for name in rule.orders:
        told = len(evidence.held[name]) + len(evidence.failed[name])
        row[f"order_{name}_held"] = f"{len(evidence.held[name])}/{told}"
        row[f"order_{name}_failed"] = "; ".join(evidence.failed[name])
    row |= {
        "offset": decision.offset,
        "offset_by": decision.offset_by,
        "darkest_dn": round(evidence.dark, 1),
        "median_blue_dn": round(evidence.blue, 1),
        "darkest_reflectance_if_absent": round(evidence.dark / 10_000, 4),
        "darkest_reflectance_if_present": round((evidence.dark - rule.value) / 10_000, 4),
        "clamped_if_present": round(evidence.clamped, 4),
        "ndvi_p99_if_absent": round(evidence.ndvi_absent, 3),
        "ndvi_p99_if_present": round(evidence.ndvi_present, 3),
    }
    return row


def _best(
    held: Mapping[str, tuple[str, ...]], failed: Mapping[str, tuple[str, ...]], rule: RadiometryRule
) -> str | None:
    ranked = sorted(rule.orders, key=lambda name: -len(held[name]))
    first = ranked[0]
    told = len(held[first]) + len(failed[first])
    if told < max(1, rule.min_claims) or len(held[first]) < rule.min_share * told:
        return None
    alone = len(ranked) == 1 or len(held[ranked[1]]) < len(held[first])
    return first if alone else None


def _offset(seen: Evidence, rule: RadiometryRule) -> str | None:
    if seen.dark < rule.absent_below:
        return "absent"
    clear = seen.blue <= rule.clear_to
    return "present" if clear and rule.present_from <= seen.dark <= rule.present_to else None


def _followed(choices: Sequence[str | None], groups: Sequence[str], number: int, group: str) -> tuple[str | None, str]:
    own = choices[number]
    near = [choice for choice, other in zip(choices, groups, strict=True) if other == group]
    majorities = [(whose, _most(pool)) for whose, pool in ((group, near), ("all scenes", choices))]
    if own is not None:
        return own, "radiometry" if own == majorities[0][1] else f"radiometry, unlike most of {group}"
    return next(((most, f"majority of {whose}") for whose, most in majorities if most is not None), (None, ""))


def _most(choices: Sequence[str | None]) -> str | None:
    # Ties go to the name that sorts first, so that the order of files does not matter.
    counted = sorted(Counter(c for c in choices if c is not None).items(), key=lambda item: (-item[1], item[0]))
    return counted[0][0] if counted else None


def _claims(
    at: Mapping[str, int], detail: npt.NDArray[np.float64], pixels: npt.NDArray[np.float32], least: int
) -> dict[str, bool]:
    """Which claims of one order hold; those that the scene cannot tell are left out."""
    claims: dict[str, bool] = {}
    if not np.isfinite(detail).all() or pixels.shape[1] < least:
        return claims
    by_size = [
        float(np.mean([detail[at[band]] for band in at if S2_BANDS[band].resolution == size]))
        for size in (60, 20, 10)
        if any(S2_BANDS[band].resolution == size for band in at)
    ]
    claims["detail"] = by_size == sorted(by_size)
    some = pixels[:, :: max(1, pixels.shape[1] // 20_000)]
    if (some.std(axis=1) > 0).all():
        goes: npt.NDArray[np.float64] = np.asarray(np.corrcoef(some))
        claims["B8A as B08"] = bool(goes[at["B8A"], at["B08"]] > goes[at["B8A"], at["B11"]])
        claims["SWIR pair"] = bool(goes[at["B11"], at["B12"]] > goes[at["B11"], at["B8A"]])
    near, red = pixels[at["B08"]], pixels[at["B04"]]
    index = (near - red) / np.maximum(near + red, 1)
    green = (index > 0.3) & (index >= np.percentile(index, 75))
    if green.sum() < least:
        return claims
    middle = np.median(pixels[:, green], axis=1)
    m = {band: float(middle[channel]) for band, channel in at.items()}
    claims["red edge"] = m["B04"] < m["B05"] < m["B06"] < 1.1 * m["B07"]
    claims["near infrared"] = all(0.75 <= m[band] / max(m["B07"], 1) <= 1.35 for band in ("B08", "B8A"))
    claims["green peak"] = m["B03"] > m["B04"]
    claims["SWIR"] = m["B12"] < m["B11"] < m["B8A"]
    if "B09" in m:
        claims["vapour"] = 0.65 <= m["B09"] / max(m["B8A"], 1) <= 1.45
    return claims


def _detail(stack: npt.NDArray[np.float32], valid: BoolArray) -> npt.NDArray[np.float64]:
    """Mean difference of neighbours over that of pixels seven apart, for each band: low where pixels are coarse."""
    found = []
    for step in (1, 7):
        both = valid[:, step:] & valid[:, :-step]
        difference = np.abs(stack[:, :, step:] - stack[:, :, :-step])
        found.append(difference[:, both].mean(axis=1, dtype=np.float64) if both.any() else np.full(len(stack), np.nan))
    near, far = found
    return np.where(far > 0, near / np.where(far > 0, far, 1), np.nan)


def _index(near: npt.NDArray[np.float32], red: npt.NDArray[np.float32]) -> float:
    near, red = np.maximum(near, 1), np.maximum(red, 1)
    return float(np.percentile((near - red) / (near + red), 99))
