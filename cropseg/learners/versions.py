"""What shaped a model besides its data: versions of packages and the commit of this one."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path


def versions(*packages: str) -> dict[str, str]:
    """Versions of ``packages``, of Python, and the git commit where cropseg lies in a repository."""
    found = {name: metadata.version(name) for name in ("cropseg", *packages)}
    found["python"] = platform.python_version()
    found["commit"] = _git("rev-parse", "HEAD") or "unknown"
    return found


def git_state() -> dict[str, str]:
    """The ``commit`` that cropseg runs from, and whether its files differ from it: ``dirty`` is yes, no or unknown."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": "unknown", "dirty": "unknown"}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": "unknown" if changes is None else "yes" if changes else "no"}


def _git(*words: str) -> str | None:
    try:
        git = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
