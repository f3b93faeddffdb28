"""Further splits of a finished dataset, drawn from its manifest alone: no pixel, parcel or product is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from cropseg.core import storage
from cropseg.core.errors import ConfigError, CropsegError, InputError
from cropseg.core.manifest import PARTS, SPLIT_SCHEMA, read_table, write_table
from cropseg.core.progress import say, table, warn
from data_prep.places import Patches, uniform
from data_prep.split import BUFFER, Split, proof

EVEN: Final = "_even"
"""What the name of a split with a thinned training part ends in."""


def add(root: str | Path, splits: Mapping[str, Split], *, even: bool = False, seed: int = 0) -> list[str]:
    """Draw the splits that a finished dataset lacks.

    A split that it has stays as it is, however it was drawn: a model may have been trained on it. One that cannot be
    drawn, such as that by country where there is one, is told with the reason and left out.

    Args:
        root: The dataset's folder.
        splits: The splits; any keys.
        even: Whether each is also written as ``<name>_even``, its training part thinned at random to as many patches as
            the smallest one of all has. Where a model does worse under the stricter split still, it is not for lack of
            patches.
        seed: Of the thinning.

    Returns:
        Names of all splits wanted that the dataset now has.

    Raises:
        ConfigError: No split was named.
        InputError: There is no finished dataset, another preparation is at work on it, or an even split was drawn
            among others, with another number of patches.
        CropsegError: None could be drawn; the first reason.
    """
    root = Path(root)
    if not splits:
        raise ConfigError("no split was named", None, "give splits=[random,location,block,country]")
    if not (root / "manifest.parquet").is_file():
        raise InputError(f"no dataset at {root}", None, "prepare it first (prepare.py), or give root=<its folder>")
    lock = FileLock(root.parent / f".{root.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"another prepare.py is at work on {root}", None, "wait until it ends") from None
    try:
        there = _draw(root, splits)
        return there + _even(root, [one for one in splits.values() if one.name in there], seed) if even else there
    finally:
        lock.release()


def _draw(root: Path, splits: Mapping[str, Split]) -> list[str]:
    manifest = read_table(root / "manifest.parquet")
    patches = Patches.read(manifest)
    failed: list[CropsegError] = []
    shown: list[list[object]] = []
    for split in splits.values():
        path = root / "splits" / f"{split.name}.parquet"
        if path.is_file():
            say(f"split {split.name} is there already and stays as it is")
            continue
        try:
            rows = split.assign(patches)
            report = proof(split, manifest, rows)
        except (ConfigError, InputError) as error:
            failed.append(error)
            warn(f"split {split.name} is left out: {error}")
            continue
        write(root, split, rows, report)
        shown.append([split.name, *(report["patches"][part] for part in (*PARTS, BUFFER)), *_figures(report)])
    there = [split.name for split in splits.values() if (root / "splits" / f"{split.name}.parquet").is_file()]
    if not there:
        raise failed[0]
    if shown:
        columns = ("split", *PARTS, "left out", "least distance m", "overlapping pairs", "classes a part lacks")
        table(f"splits drawn over the {manifest.num_rows} patches of {root}", columns, shown)
    return there


def _even(root: Path, splits: Sequence[Split], seed: int) -> list[str]:
    manifest = read_table(root / "manifest.parquet")
    tables = {one.name: read_table(root / "splits" / f"{one.name}.parquet").to_pylist() for one in splits}
    known = set(manifest["id"].to_pylist())
    learned = {
        name: sorted(
            (row["id"] for row in rows if row["part"] == "train" and row["id"] in known), key=partial(uniform, seed)
        )
        for name, rows in tables.items()
    }
    least = min(len(ids) for ids in learned.values())
    for split in splits:
        path = root / "splits" / f"{split.name}{EVEN}.parquet"
        there = least if not path.is_file() else read_table(path)["part"].to_pylist().count("train")
        if there != least:
            remedy = f"name the splits that it was drawn with, or remove {path} if no model was trained under it"
            raise InputError(f"{split.name}{EVEN} has {there} training patches, and the smallest has", least, remedy)
    found = []
    for split in splits:
        thinned = replace(split, name=split.name + EVEN)  # type: ignore[type-var]
        left_out = set(learned[split.name][least:])
        rows = [{**row, "part": BUFFER if row["id"] in left_out else row["part"]} for row in tables[split.name]]
        if (root / "splits" / f"{thinned.name}.parquet").is_file():
            say(f"split {thinned.name} is there already and stays as it is")
        else:
            write(root, thinned, rows, proof(thinned, manifest, rows))
        found.append(thinned.name)
    say(f"{', '.join(found)}: as those without {EVEN}, with {least} training patches each")
    return found


def write(root: Path, split: Split, rows: list[dict[str, str]], report: Mapping[str, Any]) -> Counter[str]:
    """Write a split and its proof, the proof first; the patches of each part."""
    storage.write_json(root / "splits" / f"{split.name}.json", report)
    write_table(root / "splits" / f"{split.name}.parquet", rows, SPLIT_SCHEMA)
    return Counter(row["part"] for row in rows)


def _figures(report: Mapping[str, Any]) -> list[object]:
    least = report["minimum_distance_m"]
    absent = sorted({label for labels in report["classes_absent"].values() for label in labels})
    return ["" if least is None else f"{least:.0f}", report["overlapping_pairs"], ", ".join(map(str, absent)) or "none"]
