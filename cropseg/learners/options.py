"""Options that only a library can judge: what it says of a wrong one becomes a line that the user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from traceback import walk_tb

from cropseg.core.errors import ConfigError


@contextmanager
def options_of(group: str, *others: type[Exception]) -> Iterator[None]:
    """Turn a library's refusal of its arguments into a :class:`ConfigError` that names the config group.

    Args:
        group: The group of ``conf/`` whose values are passed on, or a part of it such as ``model.forest``.
        others: What the library raises besides ``ValueError``, ``TypeError`` and ``LookupError``.
    """
    refusals: tuple[type[Exception], ...] = (ValueError, TypeError, LookupError, *others)
    try:
        yield
    except refusals as error:
        remedy = f"see conf/{group.partition('.')[0]} for its options"
        raise ConfigError(f"{group} is refused", str(error), remedy) from error


def refused_by_library(error: BaseException) -> bool:
    """Whether an error arose in Lightning's or an optimiser's own code, on whose way no line of ours stands in between.

    Those take options as they are and work with them later, so what is wrong with one shows there.
    """
    frames = [PurePath(frame.f_code.co_filename).parts for frame, _ in walk_tb(error.__traceback__)]
    last = frames[-1] if frames else ()
    return "lightning" in last or ("torch" in last and "optim" in last)
