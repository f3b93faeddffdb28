"""Work over several processes, without holding all of it in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

from cropseg.core.errors import StorageError

T = TypeVar("T")


@contextmanager
def mapping(workers: int) -> Iterator[Callable[[Callable[[Any], None], Iterable[Any]], Iterator[None]]]:
    """``map``, in this process or over a pool of fresh ones (a forked one would share GDAL's open files).

    Raises:
        StorageError: A process of the pool was killed, as a system that runs out of memory does.
    """
    if workers == 1:
        yield map
        return
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield partial(map_ahead, pool, workers + 1)
    except BrokenProcessPool as error:
        raise StorageError(
            f"one of {workers} worker processes was killed, most likely for want of memory", None,
            "give fewer workers= and run the same command again; what is finished is kept",
        ) from error  # fmt: skip


def map_ahead(
    pool: Executor, ahead: int, function: Callable[[T], None], tasks: Iterable[T]
) -> Iterator[None]:  # fmt: skip
    """``pool.map`` that takes no task before there is room for it: a country's parcels do not fit in memory at once.

    Args:
        pool: Does the work.
        ahead: How many tasks are in work or waiting at most.
        function: The work.
        tasks: Taken one by one, in order.

    Yields:
        None for each task, in order.
    """
    running: deque[Future[None]] = deque()
    try:
        for task in tasks:
            running.append(pool.submit(function, task))
            if len(running) >= ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
