"""A subset: one country's (or part's) parcels of one year, and how to read them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cropseg.core.errors import ConfigError

Coverage = Literal["exhaustive", "sparse"]
Extent = tuple[float, float, float, float]


@dataclass(frozen=True)
class Subset:
    """Where the parcels of one region and year lie, and which of their columns name the crop.

    Columns that are None are recognised from the known national formats (see :mod:`data_prep.parcels`).

    Attributes:
        name: Name of the subset; also the name of a folder: letters, digits, ``_`` and ``-``.
        country: Country code, such as AT or DE_BB; any text without meaning to the code.
        year: Year whose crops the parcels hold; the season is taken from it.
        parcels: Path of the vector file; None to audit the table alone.
        layer: Layer of the file, needed where it has several.
        table: Path of the EuroCrops table that translates the national names (a file with the EuroCrops columns
            ``EC_trans_n`` or English names needs none).
        name_column: Column with the national crop name.
        code_column: Column with the national crop code.
        english_column: Column with the English crop name; it needs no table.
        coverage: ``exhaustive`` if ground without a parcel carries no crop, ``sparse`` if it is unknown.
        extent: Left, bottom, right, top in degrees (WGS84) that ``exhaustive`` holds for; None for the parcels' own.
        separator: Text between the crops of a parcel whose English name lists several, such as ``", "`` in Irish
            files; None where a name is one crop.
    """

    name: str
    country: str
    year: int
    parcels: str | None = None
    layer: str | None = None
    table: str | None = None
    name_column: str | None = None
    code_column: str | None = None
    english_column: str | None = None
    coverage: Coverage = "exhaustive"
    extent: Extent | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        """Check each value; a list for ``extent``, as YAML gives it, becomes a tuple."""
        for field in ("name", "country", "parcels", "layer", "table", "name_column", "code_column", "english_column"):
            value = getattr(self, field)
            # YAML reads an unquoted NO as false and 12 as a number.
            if not isinstance(value, str) and not (value is None and field not in ("name", "country")):
                raise ConfigError(
                    f"{field} of subset {self.name} must be text", value, f'put it in quotes: {field}: "…"'
                )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise ConfigError("name of a subset", self.name, "use letters, digits, _ and -, for it names a folder")
        if isinstance(self.year, bool) or not isinstance(self.year, int) or not 1900 <= self.year <= 2200:
            raise ConfigError(f"year of subset {self.name}", self.year, "give the year of the crops, such as 2022")
        if self.coverage not in ("exhaustive", "sparse"):
            raise ConfigError(f"coverage of subset {self.name}", self.coverage, "use exhaustive or sparse")
        if self.parcels is None and self.table is None:
            raise ConfigError(
                f"subset {self.name} has neither parcels nor a table", None, "set parcels= to a vector file"
            )
        if self.separator == "":
            raise ConfigError(f"separator of subset {self.name} is empty", None, "leave it out, or give some text")
        if self.extent is not None:
            object.__setattr__(self, "extent", self._checked_extent(self.extent))

    def _checked_extent(self, extent: Iterable[float]) -> Extent:
        remedy = "give left, bottom, right, top in degrees, such as [16.2, 48.0, 16.9, 48.4]"
        try:
            left, bottom, right, top = (float(value) for value in extent)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"extent of subset {self.name}", extent, remedy) from error
        if not (-180 <= left < right <= 180 and -90 <= bottom < top <= 90):
            raise ConfigError(f"extent of subset {self.name}", (left, bottom, right, top), remedy)
        return left, bottom, right, top


def from_config(entries: Iterable[Mapping[str, Any]]) -> tuple[Subset, ...]:
    """Build the subsets of ``region.subsets``.

    Args:
        entries: Plain data, the fields of :class:`Subset` each.

    Raises:
        ConfigError: A field is unknown or missing, a value is impossible, or two subsets share a name.
    """
    known = {field.name for field in dataclasses.fields(Subset)}
    found: list[Subset] = []
    for number, entry in enumerate(entries):
        fields = {str(key): value for key, value in entry.items()}
        if unknown := sorted(set(fields) - known):
            raise ConfigError(
                f"region.subsets[{number}] has no field", unknown[0], f"known: {', '.join(sorted(known))}"
            )
        if missing := [key for key in ("name", "country", "year") if fields.get(key) is None]:
            raise ConfigError(
                f"region.subsets[{number}] lacks", missing[0], f"set region.subsets.{number}.{missing[0]}"
            )
        subset = Subset(**fields)
        if subset.name in (other.name for other in found):
            raise ConfigError("two subsets share the name", subset.name, "rename one: each has a folder of its own")
        found.append(subset)
    if not found:
        raise ConfigError("region.subsets is empty", None, "list at least one subset")
    return tuple(found)
