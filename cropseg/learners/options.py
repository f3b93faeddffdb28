"""Options that only a library can judge: what it says of a wrong one becomes a line that the user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cropseg.core.errors import ConfigError


@contextmanager
def options_of(group: str, *others: type[Exception]) -> Iterator[None]:
    """Turn a library's refusal of its arguments into a :class:`ConfigError` that names the config group.

    Args:
        group: The group of ``conf/`` whose values are passed on, or a part of it such as ``model.forest``.
        others: What the library raises besides ``ValueError`` and ``TypeError``.
    """
    refusals: tuple[type[Exception], ...] = (ValueError, TypeError, *others)
    try:
        yield
    except refusals as error:
        remedy = f"see conf/{group.partition('.')[0]} for its options"
        raise ConfigError(f"{group} is refused", str(error), remedy) from error
