"""What long work shows a person: progress, plain lines and tables, on a terminal and in a log alike.

``rich`` is imported when first used, so that training runs where it is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from cropseg.core import processes

T = TypeVar("T")
_log = logging.getLogger("cropseg")


def say(message: str) -> None:
    """Tell the user one line on standard output; of several processes of one run, the first speaks for all."""
    if not processes.is_first():
        return
    console = _console(stderr=False)
    if console is None:
        _log.info("%s", message)
    else:
        console.print(message, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Tell the user one line on standard error."""
    console = _console(stderr=True)
    if console is None:
        _log.warning("%s", message)
    else:
        console.print(message, highlight=False, soft_wrap=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` behind a progress bar on standard error; quiet where that is not a terminal."""
    console = _console(stderr=True)
    if console is None or not console.is_terminal:
        yield from items
        return
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total=total, console=console, transient=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output; numbers are the caller's to format."""
    console = _console(stderr=False)
    if console is None:
        _log.info("%s | %s", title, " | ".join(columns))
        for row in rows:
            _log.info("%s", " | ".join(str(cell) for cell in row))
        return
    from rich.table import Table
    from rich.text import Text

    # A title is not broken where the columns are narrow.
    grid = Table(title=title, title_justify="left", min_width=min(len(title), console.width))
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    console.print(grid)


def _console(*, stderr: bool) -> Any:
    try:
        from rich.console import Console
    except ImportError:
        return None
    # What is in brackets or between colons, as in a_module:x: …, is meant as it stands.
    console = Console(stderr=stderr, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console
