"""The run folder before anything is learned."""

from __future__ import annotations

from pathlib import Path

from cropseg.core import storage


def clear(run_dir: Path) -> None:
    """Take away what would pass an earlier model of the same folder off as the one that is about to be trained.

    ``spec.json`` says that a run is finished and is written last; an evaluation belongs to the weights that it scored.
    """
    with storage.storage_errors(run_dir):
        for path in (run_dir / "spec.json", run_dir / "nonfinite.json", *run_dir.glob("evaluation/*.json")):
            path.unlink(missing_ok=True)
