"""The two label values with a meaning of their own."""

from typing import Final

BACKGROUND: Final = 0
"""Ground that carries none of the taxonomy's crops."""

IGNORE: Final = 255
"""Ground whose label is unknown or not comparable: in no loss, in no score, never a model's output."""
