"""The embedded datasets on first use: whoever needs one that is not there has it prepared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from filelock import FileLock

from cropseg.core import storage
from cropseg.core.errors import InputError, SourceError
from cropseg.core.progress import say

EMBEDDED: Final = ("embedded", "embedded_unseen", "embedded_unseen_sparse")
"""Names of the datasets, and of the regions in ``conf/region``, that can be made without any input."""

SPLIT: Final = "location"
"""The split that ``prepare.py`` makes unless told otherwise."""


def ensure(root: Path, *overrides: str, split: str | None = None) -> None:
    """Prepare the embedded dataset at ``root`` if it is not there, and say so.

    Args:
        root: The dataset's folder; its name is that of an embedded region.
        overrides: Further options of ``prepare.py``.
        split: The split that is wanted of a dataset for training; None for whatever it has.

    Raises:
        InputError: It is not there, and is none of the embedded ones, or would not have this split.
        SourceError: Preparing failed; the reason was printed.
    """
    root = Path(root)
    if (root / "manifest.parquet").is_file():
        return
    if root.name not in EMBEDDED:
        raise InputError(f"no dataset at {root}", None, "prepare it first: python prepare.py --help")
    if split not in (None, SPLIT):
        remedy = f"prepare it so first: python prepare.py split={split} paths.data={root.parent}"
        paper = " (for experiment=paper: prepare_as=paper instead of split=random)" if split == "random" else ""
        raise InputError(f"no dataset at {root}, and made on first use it would not have split", split, remedy + paper)
    script = Path(__file__).resolve().parent.parent / "prepare.py"
    with storage.storage_errors(root):
        root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f".{root.name}.first-use.lock"):
        if (root / "manifest.parquet").is_file():
            return
        say(f"the simulated dataset {root.name} is not there yet: preparing it into {root} (some minutes, once)")
        done = subprocess.run(
            [sys.executable, str(script), f"region={root.name}", f"paths.data={root.parent}", *overrides], check=False
        )
        if done.returncode != 0:
            raise SourceError(f"preparing {root} failed", None, f"see the lines above, or run: python {script.name}")
