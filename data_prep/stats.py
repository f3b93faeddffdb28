"""What a dataset is made of: Tables 2 and 3 of the paper, computed from a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cropseg.core import storage
from cropseg.core.progress import table
from cropseg.core.taxonomy import Taxonomy


@dataclass(frozen=True)
class Stats:
    """Rows of a table as shown and as written.

    Attributes:
        title: What it shows.
        name: File name without suffix.
        columns: Headings.
        rows: Plain values; shares are percent with three decimals, as in the paper.
    """

    title: str
    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def show(self) -> None:
        """Print it."""
        table(self.title, self.columns, [[_shown(cell) for cell in row] for row in self.rows])

    def write(self, folder: Path) -> Path:
        """Write it as CSV."""
        path = folder / f"{self.name}.csv"
        lines = [",".join(_quoted(cell) for cell in row) for row in (self.columns, *self.rows)]
        storage.write_bytes(path, ("\n".join(lines) + "\n").encode())
        return path


def countries(manifest: pa.Table) -> Stats:
    """Table 2: patches per country, the most first."""
    found = Counter(manifest["country"].to_pylist())
    total = sum(found.values())
    rows = [(name, n, _percent(n, total)) for name, n in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    rows.append(("Total", total, _percent(total, total)))
    return Stats("Table 2: patches per country", "table2_countries", ("country", "patches", "percent"), tuple(rows))


def classes(manifest: pa.Table, taxonomy: Taxonomy) -> Stats:
    """Table 3: pixels per class, and patches that hold at least one pixel of it; by class id.

    Percentages are of all labelled pixels (255 left out) and of all patches.
    """
    counts = np.array(manifest["counts"].to_pylist(), dtype=np.int64).reshape(-1, len(taxonomy))
    pixels, patches = counts.sum(axis=0), (counts > 0).sum(axis=0)
    rows = tuple(
        (
            crop.id, crop.name, int(pixels[crop.id]), _percent(int(pixels[crop.id]), int(pixels.sum())),
            int(patches[crop.id]), _percent(int(patches[crop.id]), manifest.num_rows),
        )
        for crop in taxonomy.classes
    )  # fmt: skip
    columns = ("id", "class", "pixels", "pixel percent", "patches", "patch percent")
    return Stats("Table 3: pixels and patches per class", "table3_classes", columns, rows)


def parts(manifest: pa.Table, split: Sequence[dict[str, str]], taxonomy: Taxonomy) -> Stats:
    """Patches of each part of a split, and how many of them hold each class."""
    part_of = {row["id"]: row["part"] for row in split}
    labels = np.array([part_of[i] for i in manifest["id"].to_pylist()], dtype=np.str_)
    counts = np.array(manifest["counts"].to_pylist(), dtype=np.int64).reshape(-1, len(taxonomy))
    rows = tuple(
        (
            part, int((labels == part).sum()), _percent(int((labels == part).sum()), len(labels)),
            *((counts[labels == part] > 0).sum(axis=0).tolist()),
        )
        for part in dict.fromkeys(["train", "val", "test", *sorted(set(labels.tolist()))])
        if (labels == part).any()
    )  # fmt: skip
    return Stats("Patches per part, and those with each class", "parts", ("part", "patches", "percent",
                 *taxonomy.names), rows)  # fmt: skip


def write_and_show(tables: Sequence[Stats], folder: Path) -> None:
    """Print each table and write it to ``folder``."""
    for one in tables:
        one.show()
        one.write(folder)


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 3) if whole else 0.0


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.3f} %"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _quoted(cell: object) -> str:
    text = f"{cell:.3f}" if isinstance(cell, float) else str(cell)
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if any(c in text for c in ',"\n') else text
