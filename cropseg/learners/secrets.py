"""What must not reach a log, a tracker or an error."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

SECRET: Final = re.compile(r"passw|secret|token|credential|(api|access|private)_?key", re.IGNORECASE)
"""Names of options and of environment variables whose values go nowhere."""

MASK: Final = "***"


def without_login(text: str, instead: str = "") -> str:
    """Text with ``instead`` in place of the user part of addresses, up to and with its @."""
    return re.sub(r"(?<=://)[^/\s@]+@", instead, text)


def masked(values: Any) -> Any:
    """Plain data without secrets: hidden by an option's name, in an address, or as a value of the environment."""
    known = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 4}

    def hide(node: Any, secret: bool) -> Any:
        if isinstance(node, Mapping):
            return {str(key): hide(value, secret or bool(SECRET.search(str(key)))) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [hide(value, secret) for value in node]
        if node is None or (not secret and not isinstance(node, str)):
            return node
        if secret or any(value in node for value in known):
            return MASK
        return without_login(node, f"{MASK}@")

    return hide(values, secret=False)
