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
    try:
        git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        found["commit"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["commit"] = "unknown"
    return found
