"""The EuroCrops tables: from a national crop name or code to its English name and HCAT code."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cropseg.core.errors import InputError

_UNKNOWN_LETTERS = "?\ufffd"


@dataclass(frozen=True)
class Crop:
    """One row of a national table.

    Attributes:
        code: National code; empty where the table has none.
        name: National name; empty where the table has none.
        english: English name.
        hcat: HCAT3 code of ten digits; empty where the table has none.
    """

    code: str
    name: str
    english: str
    hcat: str


@dataclass(frozen=True)
class Found:
    """What a table says about a crop.

    Attributes:
        crops: Rows that fit, one for each English name; empty if none does.
        how: What they were found by, or why nothing was.
    """

    crops: tuple[Crop, ...]
    how: str


class CropTable:
    """A national table, looked up by name and code.

    Args:
        name: Name of the table, for messages.
        crops: Its rows in file order.
        aliases: Further names of each row, such as DE_BW's second name column.
    """

    def __init__(self, name: str, crops: Iterable[Crop], aliases: Iterable[tuple[str, ...]] | None = None) -> None:
        self.name = name
        self.crops = tuple(crops)
        self._by_code: dict[str, list[Crop]] = defaultdict(list)
        self._by_name: dict[str, list[Crop]] = defaultdict(list)
        self._by_letters: dict[str, list[Crop]] = defaultdict(list)
        for crop, names in zip(self.crops, aliases or ((crop.name,) for crop in self.crops), strict=True):
            if crop.code:
                self._by_code[normal_code(crop.code)].append(crop)
            for alias in dict.fromkeys(normal_name(text) for text in names if text):
                self._by_name[alias].append(crop)
                self._by_letters[_without_accents(alias)].append(crop)

    def find(self, name: str, code: str) -> Found:
        """Look a crop up: by name, then by code, then by name without accents, then with unknown letters.

        The name comes first, since providers give a code another meaning in another year. Case, spacing, and leading
        zeros of codes do not count. ``?`` and U+FFFD in a name, as garbled files have them, stand for one letter
        each, and count only if exactly one name of the table fits. Several rows with one English name are one crop.
        Where several rows fit a name, those that also fit the code are taken.

        Args:
            name: National name; may be empty.
            code: National code; may be empty.
        """
        if not name and not code:
            return Found((), "no name")
        wanted = normal_name(name)
        with_code = self._by_code.get(normal_code(code), []) if code else []
        crops = self._by_name.get(wanted, [])
        if crops:
            both = [crop for crop in crops if crop in with_code]
            return Found(_distinct(both or crops), "name")
        if with_code:
            return Found(_distinct(with_code), "code")
        alike = _distinct(self._by_letters.get(_without_accents(wanted), []))
        if len(alike) == 1:
            return Found(alike, "name without accents")
        if any(letter in name for letter in _UNKNOWN_LETTERS):
            return self._garbled(wanted)
        return Found((), f"{'name' if name else 'code'} not in table {self.name}")

    def _garbled(self, wanted: str) -> Found:
        pattern = re.compile("".join(r"\w" if letter in _UNKNOWN_LETTERS else re.escape(letter) for letter in wanted))
        names = [name for name in self._by_name if pattern.fullmatch(name)]
        if len(names) == 1:
            return Found(_distinct(self._by_name[names[0]]), "garbled name")
        how = f"{len(names)} names of table {self.name}" if names else f"no name of table {self.name}"
        return Found((), f"garbled name fits {how}")


def normal_name(text: str) -> str:
    """A name as it is compared: composed letters, case folded, one kind of apostrophe, single spaces."""
    text = re.sub("[’‘`´]", "'", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.split())


def normal_code(text: str) -> str:
    """A code as it is compared: case folded; numbers without leading zeros or a trailing ``.0``."""
    text = re.sub(r"\.0+$", "", text.strip().casefold())
    return text.lstrip("0") or "0" if text.isdigit() else text


def read_table(path: str | Path) -> CropTable:
    """Read a EuroCrops table.

    The columns are found by their names, in any order: ``translated_name`` must be there, and ``original_name`` (or
    several, such as DE_BW's ``original_name_BW`` and ``original_name_DE``) or ``original_code``; ``HCAT3_code`` may.

    Raises:
        InputError: The file is missing, is not UTF-8 CSV, is empty, or lacks a column.
    """
    path = Path(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"no such table: {path}", None, "check the path of the subset's table") from error
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, IsADirectoryError) as error:
        raise InputError(f"{path} is not a UTF-8 CSV table", str(error), "download it again") from error
    frame = frame.rename(columns=lambda column: str(column).strip())
    listed = f"the columns are: {', '.join(frame.columns)}"
    names = [column for column in frame.columns if column.startswith("original_name")]
    if "translated_name" not in frame.columns:
        raise InputError(f"table {path} has no column", "translated_name", listed)
    if not names and "original_code" not in frame.columns:
        raise InputError(f"table {path} has no column", "original_name or original_code", listed)
    if frame.empty:
        raise InputError(f"table {path} has no rows", None, "download it again")
    frame = frame.apply(lambda column: column.str.split().str.join(" "))
    blank = [""] * len(frame)
    columns = {
        column: frame[column].tolist() if column in frame.columns else blank
        for column in ("original_code", "translated_name", "HCAT3_code")
    }
    aliases = list(frame[names].itertuples(index=False, name=None)) if names else [("",)] * len(frame)
    crops = [
        Crop(code, next(filter(None, alias), ""), english, hcat)
        for code, alias, english, hcat in zip(
            columns["original_code"], aliases, columns["translated_name"], columns["HCAT3_code"], strict=True
        )
    ]
    return CropTable(path.stem, crops, aliases)


def _distinct(crops: Iterable[Crop]) -> tuple[Crop, ...]:
    first: dict[str, Crop] = {}
    for crop in crops:
        first.setdefault(crop.english.casefold(), crop)
    return tuple(first.values())


def _without_accents(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
