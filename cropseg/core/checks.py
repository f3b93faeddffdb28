"""What an option may be, before anyone calculates with it: YAML makes text of ``abc`` and a float of ``.nan``."""

from __future__ import annotations

import sys
from numbers import Integral, Real
from typing import Final, TypeGuard

LARGEST: Final = sys.float_info.max


def finite(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a number, neither infinite nor NaN; truth values are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(-LARGEST <= value <= LARGEST)  # type: ignore[operator]


def whole(value: object) -> TypeGuard[int]:
    """Whether ``value`` is a whole number by its type: 3, not 3.0."""
    return isinstance(value, Integral) and not isinstance(value, bool)
