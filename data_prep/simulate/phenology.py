"""What stands on each unit of ground on a day: leaf area, pigments, water, soil and petals, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.simulate import spectra
from data_prep.simulate.noise import generator

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Climate:
    """A region and year against the reference calendar of ``data/crops.yaml``.

    Attributes:
        spring: Days that spring is late (negative: early), in force up to day 100.
        autumn: The same for late summer, in force from day 250; between them the shift changes linearly.
        vigour: Factor on leaf area.
        brightness: Mean soil brightness, factor on PROSAIL's soils.
        spread: Standard deviation in days between parcels of a crop.
    """

    spring: float
    autumn: float
    vigour: float
    brightness: float
    spread: float

    def reference_day(self, day: float) -> float:
        """The day of the reference calendar that ``day`` of this region's year corresponds to."""
        return day - float(np.interp(day, (100, 250), (self.spring, self.autumn)))


@dataclass(frozen=True)
class Units:
    """Pieces of ground that each carry one thing, all arrays of length n.

    Attributes:
        kind: Index into :func:`kinds`.
        delay: Days that this unit is late.
        vigour: Factor on leaf area.
        chlorophyll: Factor on chlorophyll.
        brightness: Soil brightness.
        moisture: Added to the day's dryness.
        draw: Four uniform numbers (n, 4): ground before sowing, time of soil work, ground after harvest, cut days.
    """

    kind: npt.NDArray[np.intp]
    delay: Values
    vigour: Values
    chlorophyll: Values
    brightness: Values
    moisture: Values
    draw: Values

    def __len__(self) -> int:
        return len(self.kind)


def kinds() -> tuple[str, ...]:
    """Names of all crops and grounds in the order of ``data/crops.yaml``."""
    stored = spectra.data("crops")
    return (*stored["crops"], *stored["grounds"])


def parameters(kind: str) -> dict[str, Any]:
    """The calendar of one kind."""
    stored = spectra.data("crops")
    found: dict[str, Any] = stored["crops"].get(kind) or stored["grounds"][kind]
    return found


def draw_units(kind: npt.NDArray[np.intp], climate: Climate, soil: Values, *keys: str | int) -> Units:
    """Give each unit its own time, vigour and soil.

    Args:
        kind: Index into :func:`kinds` of each unit.
        climate: The region's.
        soil: Regional soil field at each unit, mean 0, variance 1.
        keys: For :func:`data_prep.simulate.noise.generator`.
    """
    random = generator(*keys, "units")
    n = len(kind)
    normal = random.standard_normal((5, n), dtype=np.float32)
    return Units(
        kind,
        climate.spread * normal[0],
        climate.vigour * np.exp(0.15 * normal[1]),
        np.clip(1 + 0.08 * normal[2], 0.7, 1.3),
        np.clip(climate.brightness + 0.10 * soil + 0.05 * normal[3], 0.5, 1.2).astype(np.float32),
        0.10 * normal[4],
        random.random((n, 4), dtype=np.float32),
    )


def reflectance(units: Units, climate: Climate, day: float, dryness: float) -> tuple[Values, Values, Values]:
    """How each unit looks on a day.

    Args:
        units: The ground.
        climate: Of the region and year.
        day: Day of the year.
        dryness: Of the soil's surface that day, 0 wet to 1 dry.

    Returns:
        Reflectance (n, 10), its change by a quarter more leaf area, and its change by 0.1 in soil brightness.
    """
    n = len(units)
    table = spectra.table()
    names = kinds()
    state: dict[str, Values] = {axis: np.zeros(n, dtype=np.float32) for axis in ("lai", "cab", "brown", "water")}
    state["brightness"] = units.brightness
    state["dryness"] = np.clip(dryness + units.moisture, 0, 1)
    canopy = np.zeros(n, dtype=np.intp)
    bloom, leafy = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
    petals, built = np.zeros((n, 10), dtype=np.float32), np.zeros((n, 10), dtype=np.float32)
    for index in np.unique(units.kind):
        kind, here = names[int(index)], np.flatnonzero(units.kind == index)
        crop, members = parameters(kind), _take(units, here)
        built[here] = _built(kind, members, climate)
        if "canopy" not in crop:
            continue
        found, bloom[here] = canopy_state(kind, members, climate.reference_day(day))
        for axis, values in found.items():
            state[axis][here] = values
        canopy[here] = table.canopies.index(crop["canopy"])
        leafy[here] = crop.get("shade", 1.0) * (1 - sum(part for _, part in crop.get("mix", ())))
        if "flower" in crop:
            petals[here] = spectra.ground(crop["flower"][3])
    looks = []
    for leaves, bright in ((1.0, 0.0), (1.25, 0.0), (1.0, 0.1)):
        varied = {
            **state,
            "lai": state["lai"] * np.float32(leaves),
            "brightness": state["brightness"] + np.float32(bright),
        }
        look = table.look_up(canopy, varied)
        look += bloom[:, None] * (petals - look)
        looks.append(look * leafy[:, None] + built)
    return looks[0], looks[1] - looks[0], looks[2] - looks[0]


def _take(units: Units, index: npt.NDArray[np.intp]) -> Units:
    return Units(*(getattr(units, entry.name)[index] for entry in fields(Units)))


def _built(kind: str, units: Units, climate: Climate) -> Values:
    """Light from asphalt, roofs and water in units of one kind (n, 10): roofs and roads differ in brightness."""
    total = np.zeros(10, dtype=np.float32)
    for name, part in parameters(kind).get("mix", ()):
        total = total + np.float32(part) * spectra.ground(name)
    factor = (
        np.ones(len(units), dtype=np.float32) if kind == "water" else units.brightness / np.float32(climate.brightness)
    )
    return np.asarray(factor[:, None] * total, dtype=np.float32)


def canopy_state(kind: str, units: Units, day: float) -> tuple[dict[str, Values], Values]:
    """The canopy of units of one kind.

    Args:
        kind: A kind with a canopy.
        units: All of that kind.
        day: Day of the reference calendar.

    Returns:
        ``lai`` (m²/m²), ``cab`` (µg/cm²), ``brown``, ``water`` (shares), each float32 (n,); and the share of petals.
    """
    crop = parameters(kind)
    field = spectra.data("crops")["field"]
    t = (day - units.delay).astype(np.float32)
    rise = _logistic(crop["rise"], t - crop["green"])
    dead = _logistic(crop["fall"], t - crop["senesce"])
    lai = (crop["early"] + (crop["lai"] - crop["early"]) * rise) * units.vigour * (1 - 0.45 * dead)
    cab = 2 + (crop["cab"] * units.chlorophyll - 2) * (1 - dead)
    brown = crop["dead"] * dead
    water = 1 - 0.9 * dead
    lai, brown = _used_sward(crop, field, units, t, lai, brown)
    bloom = np.zeros(len(units), dtype=np.float32)
    if "flower" in crop:
        start, end, share, _ = crop["flower"]
        bloom = share * np.clip(1 - np.abs(2 * (t - start) / (end - start) - 1) ** 4, 0, 1)
    state = {"lai": lai, "cab": cab, "brown": brown, "water": water}
    if "emerge" in crop:
        _before_sowing(crop, field, units, t, state)
    if "harvest" in crop:
        bloom = np.where(t < crop["harvest"], bloom, 0)
        _after_harvest(crop, field, units, t, state)
    return {name: np.asarray(value, dtype=np.float32) for name, value in state.items()}, bloom.astype(np.float32)


def _used_sward(
    crop: dict[str, Any], field: dict[str, Any], units: Units, t: Values, lai: Values, brown: Values
) -> tuple[Values, Values]:
    """Leaf area after cuts and under grazing."""
    left = np.full(len(t), crop.get("grazed", 1.0), dtype=np.float32)
    for number, cut in enumerate(crop.get("cuts", ())):
        # Farmers mow within some two weeks of each other, and not always at the same end of them.
        when = cut + 18 * ((units.draw[:, 3] + 0.37 * number) % 1 - 0.5)
        since = np.maximum(t - when, 0)
        grown = 1 - (1 - field["left_by_cut"]) * np.exp(-since / field["regrowth_days"])
        left = np.where(t >= when, grown, left)
        brown = np.where(t >= when, np.maximum(brown, 0.35 * np.exp(-since / 6)), brown)
    return lai * left, brown


def _before_sowing(crop: dict[str, Any], field: dict[str, Any], units: Units, t: Values, state: dict[str, Any]) -> None:
    """Ground before emergence: bare, straw of the year before, or a green cover crop until the soil is worked."""
    earliest, latest = field["killed_before_sowing"]
    worked = crop["sow"] - earliest - (latest - earliest) * units.draw[:, 1]
    ploughed, straw, _ = np.cumsum(crop["cover"])
    stubble = (t < worked) & (units.draw[:, 0] >= ploughed) & (units.draw[:, 0] < straw)
    green = (t < worked) & (units.draw[:, 0] >= straw)
    bare = (t < crop["emerge"]) & ~stubble & ~green
    cover = crop.get("cover_lai", field["cover_lai"]) * units.vigour * np.clip(0.6 + t / 200, 0.6, 1.1)
    _set(state, stubble, field["stubble"])
    _set(state, green, {"lai": cover, "cab": 35.0, "brown": 0.1, "water": 1.0})
    _set(state, bare, {"lai": 0.0})


def _after_harvest(crop: dict[str, Any], field: dict[str, Any], units: Units, t: Values, state: dict[str, Any]) -> None:
    """Stubble, then worked soil, then nothing or a cover crop."""
    least, typical = field["stubble_days"]
    since = t - crop["harvest"]
    lasts = least - (typical - least) * np.log(np.clip(1 - units.draw[:, 1], 0.02, 1))
    stubble = (since >= 0) & (since < lasts)
    gone = since >= lasts
    green = gone & (units.draw[:, 2] >= field["after"][0])
    grown = field["cover_lai"] * units.vigour * _logistic(0.18, since - lasts - 28)
    _set(state, stubble, field["stubble"])
    _set(state, gone, {"lai": 0.0})
    _set(state, green, {"lai": grown, "cab": 38.0, "brown": 0.0, "water": 1.0})


def _set(state: dict[str, Any], where: npt.NDArray[np.bool_], values: dict[str, Any]) -> None:
    for name, value in values.items():
        state[name] = np.where(where, value, state[name])


def _logistic(steepness: float, days: Values) -> Values:
    return np.asarray(1 / (1 + np.exp(-np.clip(steepness * days, -30, 30))), dtype=np.float32)
