"""Options that only a library can judge: what it says of a wrong one becomes a line that the user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Final

import lightning
import torch

from cropseg.core.errors import ConfigError

PACKAGE: Final = Path(__file__).parents[1]
LIBRARIES: Final = (Path(lightning.__file__).parent, Path(torch.__file__).parent)


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


def refused_by_library(error: BaseException, caller: str) -> bool:
    """Whether an error arose in a library that ``caller`` called, with no line of ours in between.

    Lightning and optimisers take options as they are and work with them later, so what is wrong with one shows there.

    Args:
        error: As it was caught.
        caller: File of the module that called the library.
    """
    files = [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)]
    own = [file for file in files if file.is_relative_to(PACKAGE)]
    return own[-1:] == [Path(caller)] and any(files[-1].is_relative_to(library) for library in LIBRARIES)
