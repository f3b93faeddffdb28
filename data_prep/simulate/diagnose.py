"""How far simulated spectra are from real ones: a page of tables and a plot, for people to read.

``python -m data_prep.simulate.diagnose real=<folder of worldcereal places> out=docs/simulated_spectra.md``

The one real place is a piece of Flanders in 2019. Simulated is the ground alone (no air, no sensor noise) with the
climate of ``emb_west``, the nearest region, on the same days. Nothing reads this page but people: no constant of the
simulation is fitted to it.
"""

from __future__ import annotations

import calendar
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf

from cropseg.core.bands import PAPER_BANDS, QUANTIFICATION, S2_BANDS
from cropseg.core.errors import ConfigError
from cropseg.core.progress import say
from cropseg.core.storage import atomic_path, write_bytes
from data_prep.importers.worldcereal_files import PlaceFiles
from data_prep.importers.worldcereal_parts import find_parcels
from data_prep.simulate import phenology, places

FloatArray = npt.NDArray[np.float32]

YEAR: Final = 2019
CLEAR: Final = (4, 5)
"""SCL classes whose pixels are compared: vegetation and bare ground."""

CROPS: Final[Mapping[int, tuple[str, tuple[str, ...]]]] = {
    1110: ("winter wheat", ("wheat",)),
    1510: ("winter barley", ("winter_barley",)),
    1500: ("barley, season not told", ("spring_barley",)),
    1200: ("maize", ("maize", "silage_maize")),
    5100: ("potato", ("potato",)),
    8100: ("beet", ("sugar_beet",)),
    9120: ("grass", ("pasture", "meadow", "mown_twice")),
}
"""WorldCereal codes of the place: name, and the calendars that stand for it here."""

WITHOUT: Final = ("rapeseed", "oats", "sunflower", "soybean")
"""Target crops that the real place does not hold."""

_UNITS: Final = 120


@dataclass(frozen=True)
class Sample:
    """One crop in one month.

    Attributes:
        dates: Days that show it.
        parcels: Parcels seen.
        pixels: 20 m pixels, summed over the days.
        real: Median, lower and upper quartile of real reflectance, (3, 10).
        simulated: The same of simulated reflectance.
    """

    dates: int
    parcels: int
    pixels: int
    real: FloatArray
    simulated: FloatArray


def compare(folder: Path) -> dict[int, dict[int, Sample]]:
    """Samples by crop code and month of all months that a crop was seen in.

    Args:
        folder: The files of one WorldCereal place.
    """
    seen: dict[tuple[int, int], list[FloatArray]] = defaultdict(list)
    days: dict[tuple[int, int], list[int]] = defaultdict(list)
    numbers: dict[tuple[int, int], set[int]] = defaultdict(set)
    with PlaceFiles(folder) as files:
        crops = files.crops()
        raster, _ = find_parcels(crops, {})
        # A 20 m pixel counts where all four 10 m pixels in it are of one parcel: borders are left out.
        four = np.stack([raster[i::2, j::2] for i in (0, 1) for j in (0, 1)])
        pure = (four == four[0]).all(axis=0) & (four[0] > 0)
        code = crops[::2, ::2]
        for date, when in enumerate(files.times):
            if when.year != YEAR:
                continue
            image = np.stack(
                [_at_20m(files.raw(band, date), S2_BANDS[band].resolution) for band in PAPER_BANDS], axis=-1
            )
            clear = pure & np.isin(files.raw("SCL", date), CLEAR) & (image > 0).all(axis=-1)
            for crop in CROPS:
                here = clear & (code == crop)
                if here.any():
                    key = (crop, when.month)
                    seen[key].append(image[here] / np.float32(QUANTIFICATION))
                    days[key].append(when.timetuple().tm_yday)
                    numbers[key] |= set(four[0][here].tolist())
    found: dict[int, dict[int, Sample]] = {}
    for crop, month in sorted(seen):
        key = (crop, month)
        real = np.concatenate(seen[key])
        weights = [len(part) for part in seen[key]]
        model = simulated(CROPS[crop][1], days[key], weights)
        found.setdefault(crop, {})[month] = Sample(
            len(days[key]), len(numbers[key]), len(real), _quartiles(real), _quartiles(model)
        )
    return found


def simulated(kinds: Sequence[str], days: Sequence[int], weights: Sequence[int]) -> FloatArray:
    """Reflectance of simulated parcels of several kinds on several days, each day as often as ``weights`` says."""
    climate = places.place("emb_west").climate
    index = np.array([phenology.kinds().index(kind) for kind in kinds])
    units = phenology.draw_units(
        np.repeat(index, _UNITS), climate, np.zeros(len(kinds) * _UNITS, np.float32), "diagnose"
    )
    # As many draws for a day as it has real pixels, so that both medians are over the same mixture of days.
    parts = []
    for day, weight in zip(days, weights, strict=True):
        look = phenology.reflectance(units, climate, day, 0.45)[0]
        parts.append(look[np.arange(weight * 3) * 7919 % len(look)])
    return np.concatenate(parts)


def page(samples: Mapping[int, Mapping[int, Sample]], picture: str) -> str:
    """The page in Markdown.

    Args:
        samples: What :func:`compare` gave.
        picture: Address of the plot, as seen from the page.
    """
    lines = [
        "# Simulated and real spectra",
        "",
        "> simulated: measures the software, not crop mapping",
        "",
        f"Made by `python -m data_prep.simulate.diagnose` from one real place in Flanders ({YEAR}; WorldCereal, MIT;",
        "Copernicus Sentinel-2 data). Real: 20 m pixels that lie in one parcel and that the scene classification",
        "calls vegetation or bare (4, 5), missed shadows included. Simulated: the ground without air or noise, with",
        "the climate of `emb_west`, on the same days. Cells: medians in percent, **simulated / real**. **No constant",
        "of the simulation was fitted to these numbers**: they stood in a commit before this page was first made, and",
        "differences are left as they are. One place and one year tell little about a crop: read the number of parcels",
        "first.",
        "",
        f"Target crops without real spectra here: {', '.join(WITHOUT)}. Of the others (peas, vineyards, orchards,",
        "sorghum, buckwheat, alfalfa and all else in `data_prep/simulate/data/crops.yaml`) there are none either.",
        "",
        f"![Simulated and real reflectance over the season]({picture})",
        "",
        "| crop | mean absolute difference of medians, percent reflectance | months | parcels | pixels |",
        "| --- | --- | --- | --- | --- |",
    ]
    for crop, months in samples.items():
        away = np.mean([np.abs(s.real[0] - s.simulated[0]).mean() for s in months.values()])
        parcels, pixels = max(s.parcels for s in months.values()), sum(s.pixels for s in months.values())
        lines.append(f"| {CROPS[crop][0]} | {100 * away:.1f} | {len(months)} | {parcels} | {pixels} |")
    for crop, months in samples.items():
        name, kinds = CROPS[crop]
        heads = [calendar.month_abbr[month] for month in months]
        lines += ["", f"## {name.capitalize()}", "", f"WorldCereal code {crop}; simulated as {', '.join(kinds)}.", ""]
        lines += ["| | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
        for what in ("dates", "parcels", "pixels"):
            lines.append(f"| {what} | " + " | ".join(str(getattr(s, what)) for s in months.values()) + " |")
        for band, label in enumerate(PAPER_BANDS):
            cells = [f"{100 * s.simulated[0, band]:.1f} / {100 * s.real[0, band]:.1f}" for s in months.values()]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append(
            "| NDVI | " + " | ".join(f"{_ndvi(s.simulated):.2f} / {_ndvi(s.real):.2f}" for s in months.values()) + " |"
        )
    return "\n".join(line.rstrip() for line in lines) + "\n"


def plot(samples: Mapping[int, Mapping[int, Sample]], path: Path) -> None:
    """Reflectance over the months in four bands, a row for each crop."""
    from matplotlib.figure import Figure

    shown = ("B03", "B04", "B08", "B11")
    figure = Figure(figsize=(11, 1.9 * len(samples)))
    axes = figure.subplots(len(samples), len(shown), sharex=True, squeeze=False)
    for row, (crop, months) in zip(axes, samples.items(), strict=True):
        for axis, name in zip(row, shown, strict=True):
            band = PAPER_BANDS.index(name)
            for what, color in (("real", "black"), ("simulated", "tab:orange")):
                values = np.stack([getattr(sample, what)[:, band] for sample in months.values()], axis=1)
                axis.fill_between(list(months), values[1], values[2], color=color, alpha=0.2, linewidth=0)
                axis.plot(list(months), values[0], color=color, marker=".", label=what)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{CROPS[crop][0]}, {name}", fontsize=8)
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.04, top=0.94, hspace=0.35, wspace=0.2)
    axes[0, 0].legend(fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel(f"month of {YEAR}")
    figure.suptitle("Median and quartiles. Simulated: measures the software, not crop mapping", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=65, metadata={"Software": None})


def main(arguments: Sequence[str]) -> None:
    """Read ``real=`` and ``out=``, and write the page and its plot.

    Raises:
        ConfigError: An option is missing or unknown, or ``real`` holds no place.
    """
    options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    if set(options) != {"real", "out"}:
        raise ConfigError("diagnose takes real= and out=", sorted(options), "real=<folder of places> out=<page.md>")
    found = sorted(Path(options["real"]).rglob("OUTPUT_*.nc"))
    if not found:
        raise ConfigError("no WorldCereal place below real", options["real"], "give the folder that holds OUTPUT_*.nc")
    samples = compare(found[0].parent)
    out = Path(options["out"])
    picture = out.with_suffix(".png")
    plot(samples, picture)
    write_bytes(out, page(samples, picture.name).encode())
    say(f"{out} and {picture.name}: {len(samples)} crops of one place")


def _at_20m(values: npt.NDArray[Any], resolution: int) -> FloatArray:
    """A band on the 20 m grid; 0 where any part of a pixel has no data."""
    result = values.astype(np.float32)
    if resolution == 10:
        parts = np.stack([result[i::2, j::2] for i in (0, 1) for j in (0, 1)])
        result = np.where((parts > 0).all(axis=0), parts.mean(axis=0), 0)
    return result


def _quartiles(values: FloatArray) -> FloatArray:
    return np.asarray(np.quantile(values, (0.5, 0.25, 0.75), axis=0), dtype=np.float32)


def _ndvi(values: FloatArray) -> float:
    red, infrared = (float(values[0, PAPER_BANDS.index(name)]) for name in ("B04", "B08"))
    return (infrared - red) / (infrared + red)


if __name__ == "__main__":
    main(sys.argv[1:])
