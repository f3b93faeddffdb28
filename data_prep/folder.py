"""The dataset folder while it is being made: one preparation at a time, and one recipe for all of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from data_prep.recipe import Recipe, Stage, differences

RECORD = "prepare.json"
"""The recipe that the folder is made by, written before anything else in it."""

_OURS = (
    "manifest.parquet", "candidates.parquet", "dataset.json", "dropped.csv", "refused.csv", "rois.json",
    "audit.csv", "audit", "harmonize.json", "shards", "search", "splits", "tables",
)  # fmt: skip


@contextmanager
def dataset_folder(recipe: Recipe, stage: Stage, *, overwrite: bool) -> Iterator[bool]:
    """Hold the dataset's folder for this preparation.

    Args:
        recipe: What it is made by.
        stage: How far; ``split`` may draw another split over a finished dataset.
        overwrite: Whether a dataset of another recipe in this folder is removed first.

    Yields:
        Whether it holds a finished dataset to which the recipe's split is to be added, and nothing else done.

    Raises:
        ConfigError: The folder was made by another recipe, and not ``overwrite``.
        InputError: It holds something else, or another preparation is at work on it.
    """
    root = recipe.root
    with storage.storage_errors(root):
        root.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root.parent / f".{root.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another prepare.py is at work on {root}", None, "wait until it ends, or choose another name="
        ) from None
    try:
        yield _claim(recipe, stage, overwrite=overwrite)
    finally:
        lock.release()


def _claim(recipe: Recipe, stage: Stage, *, overwrite: bool) -> bool:
    root = recipe.root
    record = root / RECORD
    if record.is_file():
        old = storage.read_json(record)
        found = differences(old["config"], recipe.config) | differences(old["inputs"], recipe.inputs, "inputs.")
        of_split = bool(found) and all(key.startswith("split.") for key in found)
        if stage == "split" and of_split and not overwrite and (root / "manifest.parquet").is_file():
            if recipe.split.name == old["split"]:
                raise ConfigError(
                    f"{root} has a split of that name, drawn otherwise", recipe.split.name,
                    "give this one a name: split.name=",
                )  # fmt: skip
            return True
        if found and not overwrite and (root / "shards").is_dir():
            shown = "; ".join(f"{key}: {one!r} -> {other!r}" for key, (one, other) in list(found.items())[:5])
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise ConfigError(
                f"{root} was prepared with another configuration ({shown}{more})", None,
                "choose another name=, or overwrite=true to prepare it anew",
            )  # fmt: skip
        if found:
            _clear(root)
    elif foreign := sorted(path.name for path in root.glob("[!.]*")):
        raise InputError(
            f"{root} holds something that prepare.py did not make", foreign[0], "choose another name= or out="
        )
    for left in [*root.glob(".*.part*"), *root.glob("s*/**/.*.part*"), *root.glob("[at]*/.*.part*")]:
        left.unlink(missing_ok=True)  # of a run that was killed while it wrote
    storage.write_json(record, {"config": recipe.config, "inputs": recipe.inputs, "split": recipe.split.name})
    return False


def _clear(root: Path) -> None:
    # The old record stays until the new one replaces it, so that a stop in between is seen as what it is.
    for name in _OURS:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
