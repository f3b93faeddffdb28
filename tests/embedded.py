"""The embedded datasets in small, prepared once for a whole test session, by whatever worker needs them first."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

REPO = Path(__file__).resolve().parent.parent
DATASETS = ("embedded", "embedded_unseen", "embedded_unseen_sparse")
SHARED = Path(os.environ.get("CROPSEG_TEST_CACHE", Path(tempfile.gettempdir()) / "cropseg-tests"))


def sources_digest() -> str:
    """SHA-256 of every file that the datasets are made from, so that a change makes them anew."""
    groups = ["region", "source", "taxonomy", "season", "rois", "grid", "quality", "split", "select", "scale"]
    folders = [REPO / "data_prep", REPO / "cropseg" / "core", *(REPO / "conf" / group for group in groups)]
    found = {p for folder in folders for p in folder.rglob("*") if p.suffix in (".py", ".yaml", ".npz", ".csv")}
    files = [*sorted(p for p in found if "importers" not in p.parts), REPO / "conf" / "prepare.yaml"]
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(REPO)).encode() + path.read_bytes())
    return digest.hexdigest()


def prepare(data: Path, *overrides: str, check: bool = True, **more) -> subprocess.CompletedProcess:
    """Run ``prepare.py`` as a user does, with ``paths.data`` at ``data``."""
    command = [sys.executable, str(REPO / "prepare.py"), f"paths.data={data}", f"paths.root={data}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"prepare.py failed\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def tiny_data() -> Path:
    """A ``paths.data`` with the embedded datasets in small windows and the simulated region, made once and kept.

    Do not write into it; take :func:`prepare_tiny` for a copy.
    """
    if "CROPSEG_TEST_DATA" in os.environ:  # while working on the sources: a folder that is good enough
        return Path(os.environ["CROPSEG_TEST_DATA"])
    data = SHARED / sources_digest()[:16]
    data.mkdir(parents=True, exist_ok=True)
    with FileLock(SHARED / f"{data.name}.lock"):
        for name in DATASETS:
            if not (data / name / "manifest.parquet").is_file():
                prepare(data, "prepare_as=tiny", f"region={name}")
    return data


def prepare_tiny(tmp_root: Path) -> Path:
    """Copy the small embedded datasets into ``tmp_root`` and return it, as a ``paths.data`` of its own."""
    for name in DATASETS:
        shutil.copytree(tiny_data() / name, tmp_root / name)
    return tmp_root
