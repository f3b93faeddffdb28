"""Target classes: their numbers, names and colours, and the keyword rules that map crop names to them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND, IGNORE

Matching = Literal["substring", "word"]


@dataclass(frozen=True)
class CropClass:
    """One class of a taxonomy.

    Attributes:
        id: Label value, 0 to 254, consecutive from 0; 0 is background.
        name: Name as shown to people.
        color: RGB as six hex digits.
        include: Keywords any of which puts a crop name here (Table 1), lower case.
        exclude: Keywords any of which keeps it out.
        rare: Whether class-aware selection favours it (§2.2).
    """

    id: int
    name: str
    color: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rare: bool = False


@dataclass(frozen=True)
class Match:
    """A class that a name fell into, and the keyword that put it there."""

    class_id: int
    keyword: str


@dataclass(frozen=True)
class Taxonomy:
    """The classes of a dataset and the rules of membership.

    Attributes:
        name: Name of the taxonomy.
        classes: By id, without gaps; the first is background.
        matching: ``substring`` finds a keyword anywhere (the paper's rule); ``word`` only at word boundaries.
    """

    name: str
    classes: tuple[CropClass, ...]
    matching: Matching = "substring"

    def __post_init__(self) -> None:
        """Check what every reader relies on."""
        ids = [crop.id for crop in self.classes]
        if ids != list(range(len(ids))) or not 2 <= len(ids) < IGNORE:
            raise ConfigError(f"class ids of taxonomy {self.name} must run 0, 1, 2, …", ids, "renumber the classes")
        if self.classes[BACKGROUND].include:
            raise ConfigError(f"background of taxonomy {self.name} takes no keywords", None, "remove its include list")
        if self.matching not in ("substring", "word"):
            raise ConfigError(f"matching of taxonomy {self.name}", self.matching, "use substring or word")
        if len({crop.name for crop in self.classes}) != len(ids):
            raise ConfigError(f"two classes of taxonomy {self.name} share a name", None, "rename one")
        for crop in self.classes:
            if not re.fullmatch(r"[0-9a-fA-F]{6}", crop.color):
                raise ConfigError(f"colour of class {crop.name}", crop.color, "give six hex digits, such as ffd300")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by id."""
        return tuple(crop.name for crop in self.classes)

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """RGB triples, 0 to 255, by id."""
        return tuple((int(c.color[:2], 16), int(c.color[2:4], 16), int(c.color[4:], 16)) for c in self.classes)

    @property
    def rare(self) -> tuple[int, ...]:
        """Ids of the rare classes."""
        return tuple(crop.id for crop in self.classes if crop.rare)

    def id_of(self, name: str) -> int:
        """The id of the class called ``name``.

        Raises:
            ConfigError: There is none.
        """
        for crop in self.classes:
            if crop.name == name:
                return crop.id
        raise ConfigError(f"taxonomy {self.name} has no class", name, f"choose from {', '.join(self.names)}")

    def matches(self, crop_name: str) -> tuple[Match, ...]:
        """Every class whose rules take ``crop_name``, by ascending id.

        Args:
            crop_name: A crop's name in the language of the keywords (English in Table 1), any case.
        """
        text = crop_name.casefold()
        found = []
        for crop in self.classes:
            if any(self._holds(text, word) for word in crop.exclude):
                continue
            keyword = next((word for word in crop.include if self._holds(text, word)), None)
            if keyword is not None:
                found.append(Match(crop.id, keyword))
        return tuple(found)

    def _holds(self, text: str, keyword: str) -> bool:
        if self.matching == "substring":
            return keyword in text
        return re.search(rf"(?<!\w){re.escape(keyword)}(?!\w)", text) is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :func:`from_dict` reads back."""
        return {
            "name": self.name,
            "matching": self.matching,
            "classes": [
                {
                    "id": c.id,
                    "name": c.name,
                    "color": c.color,
                    "include": list(c.include),
                    "exclude": list(c.exclude),
                    "rare": c.rare,
                }
                for c in self.classes
            ],
        }

    @property
    def digest(self) -> str:
        """SHA-256 over the class ids and names: equal digests mean comparable masks."""
        return hashlib.sha256(json.dumps([[c.id, c.name] for c in self.classes]).encode()).hexdigest()


def from_dict(data: Mapping[str, Any]) -> Taxonomy:
    """Build a taxonomy from plain data.

    Raises:
        ConfigError: A key is missing or unknown, or the classes break a rule of :class:`Taxonomy`.
    """
    unknown = set(data) - {"name", "matching", "classes"}
    if unknown or "name" not in data or "classes" not in data:
        raise ConfigError(
            "a taxonomy holds name, matching and classes", sorted(data), "see taxonomies/eurocrops10.yaml"
        )
    return Taxonomy(
        str(data["name"]), tuple(_crop_class(entry) for entry in data["classes"]), data.get("matching", "substring")
    )


def _crop_class(entry: Mapping[str, Any]) -> CropClass:
    unknown = set(entry) - {"id", "name", "color", "include", "exclude", "rare"}
    if unknown or not {"id", "name", "color"} <= set(entry):
        raise ConfigError("a class holds id, name, color and, if need be, include, exclude, rare", dict(entry))
    return CropClass(
        int(entry["id"]),
        str(entry["name"]),
        str(entry["color"]),
        _keywords(entry.get("include", ())),
        _keywords(entry.get("exclude", ())),
        bool(entry.get("rare", False)),
    )


def _keywords(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(word).casefold() for word in words)


def load(name: str) -> Taxonomy:
    """Read a taxonomy that ships with cropseg by its name, or any other by the path of its YAML file.

    Raises:
        ConfigError: Neither exists, or the file is not a taxonomy.
    """
    shipped = resources.files("cropseg.core") / "taxonomies" / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        raise ConfigError(
            "no such taxonomy", name, "give eurocrops10, eurocrops10_corrected or the path of a YAML file"
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"taxonomy {name} is not valid YAML", str(error), "mend the file") from error
    if not isinstance(data, dict):
        raise ConfigError(f"taxonomy {name} is not a mapping", type(data).__name__, "see taxonomies/eurocrops10.yaml")
    return from_dict(data)
