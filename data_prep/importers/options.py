"""The options of an importer, checked before a file is read: an error names the option, its value and what to give."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cropseg.core.checks import finite, whole
from cropseg.core.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """What an option may be.

    Attributes:
        said: What to give, in words.
        fits: Whether a value is of the kind.
    """

    said: str
    fits: Callable[[Any], bool]

    def or_null(self) -> Kind:
        """The same, or None."""
        return Kind(f"{self.said}, or null", lambda value: value is None or self.fits(value))


def check_options(whose: str, options: Mapping[str, tuple[Any, Kind]]) -> None:
    """Check each option, given by name with its value and kind.

    Raises:
        ConfigError: The first that does not fit, named ``<whose>.<name>``.
    """
    for name, (value, kind) in options.items():
        if not kind.fits(value):
            option = f"{whose}.{name}"
            raise ConfigError(f"{option} is null" if value is None else option, value, f"give {kind.said}")


def check_paper(paper: Any) -> None:
    """Check the paper's counts, each a whole number or null, and its ``support``, a whole number a class.

    Raises:
        ConfigError: See :func:`check_options`.
    """
    mapping = Kind("counts by name, as in the importer's YAML", lambda value: isinstance(value, Mapping)).or_null()
    check_options("importer", {"paper": (paper, mapping)})
    counts = dict(paper or {})
    support = counts.pop("support", None)
    check_options("importer.paper", {"support": (support, mapping)})
    check_options("importer.paper", {name: (count, whole_number(0).or_null()) for name, count in counts.items()})
    classes = dict(support or {})
    check_options("importer.paper.support", {name: (count, whole_number(0)) for name, count in classes.items()})


def whole_number(least: int, most: int | None = None) -> Kind:
    """A whole number from ``least`` on, and up to ``most`` if that is given."""
    said = f"{least} or more" if most is None else f"{least} to {most}"
    return Kind(f"a whole number, {said}", lambda v: whole(v) and least <= v and (most is None or v <= most))


def choice(*known: str) -> Kind:
    """One of some words."""
    return Kind(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


def list_of(kind: Kind, example: str, length: int | None = None) -> Kind:
    """A list of such values; a word is none, though Python would take it for a list of its letters."""

    def fits(value: Any) -> bool:
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and length in (None, len(value)) and all(kind.fits(one) for one in value)

    return Kind(f"a list such as {example}", fits)


def made_as(kind: type) -> Kind:
    """What the importer's YAML makes of its own group of options."""
    return Kind("the options of its own that the importer's YAML has", lambda value: isinstance(value, kind))


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or finite(value)


NUMBER: Final = Kind("a number", finite)
ABOVE_0: Final = Kind("a number above 0", lambda value: finite(value) and value > 0)
SHARE: Final = Kind("a number from 0 to 1", lambda value: finite(value) and 0 <= value <= 1)
NODATA: Final = list_of(Kind("", _is_number), "[0], of numbers; nan on the command line and .nan in YAML is one")
SWITCH: Final = Kind("true or false", lambda value: isinstance(value, bool))
TEXT: Final = Kind("text, a number in quotes", lambda value: isinstance(value, str))
WORD: Final = Kind("text", lambda value: isinstance(value, str) and value != "")
PATH: Final = Kind("a path", lambda value: isinstance(value, str | Path) and str(value) != "")
FOLDER_NAME: Final = Kind(
    "the plain name of a folder, of letters, digits, ., _ and -",
    lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) is not None,
)
COUNTRY: Final = Kind(
    "two capital letters, XX where it is unknown",
    lambda value: isinstance(value, str) and re.fullmatch("[A-Z]{2}", value) is not None,
)
BANDS: Final = list_of(WORD, "[B02, B03, B04, B08]")
SEASON: Final = list_of(WORD, '["04-01", "09-30"], its first and last day', 2)
SOURCES: Final = list_of(WORD, "[EuroCrops, parcel declarations of FR]").or_null()
