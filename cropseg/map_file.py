"""Anybody's crop map: a categorical GeoTIFF, and the legend that says which class each of its values stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import rasterio
import yaml
from rasterio.errors import RasterioIOError

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.scene import Grid, UInt8Array
from cropseg.core.taxonomy import Taxonomy
from cropseg.core.tiling import Window

REST: Final = "*"
"""In a legend's ``classes``: all classes of the taxonomy that no other one holds."""

BLOCK: Final = 2048
"""Pixels a side that are read at a time."""


@dataclass(frozen=True)
class Legend:
    """What the values of a map mean.

    Attributes:
        name: Name of the legend.
        classes: Names of the classes that the map tells, by id; the taxonomy's own unless ``fold`` says otherwise.
        values: Class id by value of the file, 255 where a value means that nothing is known.
        fold: Class id of this legend by class id of the taxonomy: the identity, or what a map with fewer classes asks.
    """

    name: str
    classes: tuple[str, ...]
    values: Mapping[int, int]
    fold: tuple[int, ...]

    @property
    def folded(self) -> bool:
        """Whether the map tells other classes than the taxonomy."""
        return self.fold != tuple(range(len(self.classes)))

    def truth(self, mask: UInt8Array) -> UInt8Array:
        """Labels of the taxonomy as classes of this legend; 255 stays."""
        table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        table[: len(self.fold)] = self.fold
        return table[mask]


def read_legend(name: object, taxonomy: Taxonomy) -> Legend:
    """Read a legend that ships with cropseg by its name, or any other by the path of its YAML file.

    It holds ``name``, ``values`` (value of the file: class name, or null where nothing is known) and, for a map that
    tells fewer classes than the taxonomy, ``classes`` (own class: the taxonomy's classes that it holds, or ``*`` for
    the rest); the first of them is treated as background.

    Raises:
        ConfigError: There is no such legend, or it names a class that does not exist.
    """
    folder = resources.files("cropseg") / "legends"
    shipped = folder / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name) if isinstance(name, str | Path) else None
    if path is None or not path.is_file():
        known = ", ".join(sorted(one.name.removesuffix(".yaml") for one in folder.iterdir()))
        raise ConfigError("no such legend", name, f"give {known} or the path of a YAML file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            "a legend is a YAML file, not", str(name), "see docs/maps.md, or give a shipped one"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets through what int() and date() say of a value
        raise ConfigError(f"legend {name} is not valid YAML", str(error), "mend the file") from error
    if not isinstance(data, dict) or not _holds_values(data):
        raise ConfigError(f"legend {name} must hold name, values and, if need be, classes", None, "see docs/maps.md")
    classes, fold = _fold(str(name), data.get("classes"), taxonomy)
    values: dict[int, int] = {}
    for value, label in data["values"].items():
        if not _is_value(value) or (label is not None and label not in classes):
            remedy = f"whole numbers of at most 64 bits stand for null or one of {', '.join(classes)}"
            raise ConfigError(f"legend {name} has an entry of no meaning", {value: label}, remedy)
        values[value] = IGNORE if label is None else classes.index(label)
    return Legend(str(data.get("name", name)), classes, values, fold)


def _holds_values(data: Mapping[Any, Any]) -> bool:
    values = data.get("values")
    return isinstance(values, dict) and len(values) > 0 and not set(data) - {"name", "values", "classes"}


def _is_value(value: object) -> bool:
    """Whether a pixel can have it."""
    limits = np.iinfo(np.int64)
    return isinstance(value, int) and not isinstance(value, bool) and limits.min <= value <= limits.max


def _fold(name: str, own: Any, taxonomy: Taxonomy) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Class names of a legend, and which of them each class of the taxonomy is."""
    if own is None:
        return taxonomy.names, tuple(range(len(taxonomy)))
    if not isinstance(own, dict) or len(own) < 2:
        raise ConfigError(f"classes of legend {name}", own, "give at least two: own class: [classes of the taxonomy]")
    fold = dict.fromkeys(taxonomy.names, -1)
    for index, (title, members) in enumerate(own.items()):
        if members != REST and not isinstance(members, list | None):
            remedy = f'give a list of classes of the taxonomy, or "{REST}" for the rest'
            raise ConfigError(f"class {title} of legend {name}", members, remedy)
        for member in () if members == REST else members or ():
            if not isinstance(member, str) or fold.get(member, 0) != -1:
                remedy = f"each of {', '.join(taxonomy.names)} can stand once"
                raise ConfigError(f"classes of legend {name}: unknown, or named twice", member, remedy)
            fold[member] = index
    rest = [index for index, members in enumerate(own.values()) if members == REST]
    left = [member for member, index in fold.items() if index == -1]
    if len(rest) > 1 or (left and not rest):
        raise ConfigError(f"classes of legend {name} leave out", left, f'name them, or give one class "{REST}"')
    return tuple(str(one) for one in own), tuple(rest[0] if index == -1 else index for index in fold.values())


class CropMapFile:
    """An open map, read by windows as classes of its legend; see :func:`open_map`.

    Args:
        dataset: The open file.
        path: Where it lies.
        legend: What its values mean.
    """

    def __init__(self, dataset: Any, path: Path, legend: Legend) -> None:
        self.path = path
        self.legend = legend
        a, b, c, d, e, f = tuple(dataset.transform)[:6]
        self.grid = Grid(dataset.crs.to_wkt(), (a, b, c, d, e, f), dataset.height, dataset.width)
        self.crs_name = str(dataset.crs.to_string())[:60]
        # Square metres that a pixel stands for; None where that changes from pixel to pixel.
        self.metres: float | None = (
            abs(a * e) * dataset.crs.linear_units_factor[1] ** 2 if dataset.crs.is_projected else None
        )
        self.tags: Mapping[str, str] = dataset.tags()
        self._dataset = dataset
        values = dict(legend.values)
        if dataset.nodata is not None and float(dataset.nodata).is_integer():
            values.setdefault(int(dataset.nodata), IGNORE)
        self._known = np.array(sorted(values), dtype=np.int64)
        self._labels = np.array([values[value] for value in sorted(values)], dtype=np.uint8)

    def read(self, window: Window) -> UInt8Array:
        """Class ids of ``window``, uint8 (height, width), 255 where the map says nothing.

        Raises:
            InputError: A value that the legend does not tell, or a broken block.
        """
        place = tuple((part.start, part.stop) for part in window.slices)
        try:
            values: npt.NDArray[np.int64] = self._dataset.read(1, window=place).astype(np.int64)
        except RasterioIOError as error:
            raise InputError(f"{self.path} cannot be read at {place}", str(error), "get the file again") from error
        index = np.minimum(np.searchsorted(self._known, values), len(self._known) - 1)
        strange = self._known[index] != values
        if strange.any():
            found = np.unique(values[strange])[:10].tolist()
            remedy = "add them to a copy of the legend (null: nothing is known), and give legend=<file.yaml>"
            raise InputError(f"{self.path} holds values that legend {self.legend.name} does not tell", found, remedy)
        return self._labels[index]

    def windows(self, bounds: tuple[float, float, float, float] | None = None) -> Iterator[Window]:
        """Blocks of the map, row by row; of :data:`BLOCK` pixels a side or what is left.

        Args:
            bounds: Left, bottom, right, top in the map's CRS: only blocks of this ground. None for all.
        """
        top, left, bottom, right = 0, 0, self.grid.height, self.grid.width
        if bounds is not None:
            a, _, x, _, e, y = self.grid.transform
            left, right = max(left, int((bounds[0] - x) // a)), min(right, int((bounds[2] - x) // a) + 1)
            top, bottom = max(top, int((bounds[3] - y) // e)), min(bottom, int((bounds[1] - y) // e) + 1)
        for row in range(top, bottom, BLOCK):
            for col in range(left, right, BLOCK):
                yield Window(row, col, min(BLOCK, bottom - row), min(BLOCK, right - col))


@contextmanager
def open_map(path: str | Path, taxonomy: Taxonomy, legend: str | None = None) -> Iterator[CropMapFile]:
    """Open a crop map.

    Args:
        path: A GeoTIFF (or what else GDAL reads) with whole numbers in its first band, north up, in any CRS.
        taxonomy: The classes that the values are translated to.
        legend: Name or path of the legend; None for a map that predict.py made, which says itself what it holds.

    Raises:
        InputError: The file cannot be read or is no map of classes.
        ConfigError: It needs a legend, or the legend is broken.
    """
    path = Path(path)
    try:
        dataset = rasterio.open(path)
    except RasterioIOError as error:
        raise InputError(f"{path} cannot be opened as a raster", str(error), "give a GeoTIFF") from error
    with dataset:
        if not np.issubdtype(np.dtype(dataset.dtypes[0]), np.integer):
            raise InputError(f"{path} holds no classes but", dataset.dtypes[0], "give a map of whole numbers")
        if dataset.crs is None:
            raise InputError(f"{path} does not say its CRS", None, "assign it: gdal_edit.py -a_srs EPSG:<code> <file>")
        a, b, _, d, e, _ = tuple(dataset.transform)[:6]
        if b != 0 or d != 0 or a <= 0 or e >= 0:
            remedy = "turn it: gdalwarp -r near -t_srs EPSG:3035 <file> turned.tif"
            raise InputError(f"{path} is not north up", (a, b, d, e), remedy)
        own = legend is None or legend == ""
        read = _own_legend(path, dataset.tags(), taxonomy) if own else read_legend(legend, taxonomy)
        yield CropMapFile(dataset, path, read)


def _own_legend(path: Path, tags: Mapping[str, str], taxonomy: Taxonomy) -> Legend:
    """The legend that predict.py writes into its maps."""
    names = own_classes(tags)
    if not names:
        remedy = "give legend=eucropmap, legend=worldcereal or the path of a YAML file (docs/maps.md)"
        raise ConfigError(f"{path} does not say what its values mean", None, remedy)
    if names != taxonomy.names:
        remedy = "choose the taxonomy that the map was made with: taxonomy=…"
        raise ConfigError(f"{path} has other classes than taxonomy {taxonomy.name}", list(names), remedy)
    values = {**{i: i for i in range(len(names))}, IGNORE: IGNORE}
    return Legend(tags.get("TAXONOMY", "its own"), names, values, tuple(range(len(names))))


def own_classes(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Class names in the tags of a map that predict.py made, by id; empty for others."""
    found: list[str] = []
    while (name := tags.get(f"CLASS_{len(found)}")) is not None:
        found.append(name)
    return tuple(found)
