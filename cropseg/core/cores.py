"""Threads that divide the cores of a machine among themselves."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

_here = threading.local()
_making = threading.Lock()


def share() -> int | None:
    """How many cores this thread may use, if it is one of :func:`threads`; None elsewhere."""
    return getattr(_here, "cores", None)


def number(parts: int, cores: int) -> int:
    """How many threads work on so many parts, if all have equally many of the cores, and that is at least one."""
    return cores // -(-cores // max(1, parts))


def threads(number: int, cores: int, limit: Callable[[int], object] | None = None) -> Executor:
    """Threads that have their share of the cores each; the same ones whenever they are asked for.

    Args:
        number: How many; no more than cores.
        cores: Of all together.
        limit: Tells a library, in each thread, how many cores that may use. It is called once more, here, with all of
            them, where a library takes what it was last told for what new threads begin with.
    """
    with _making:  # functools.cache would let two make them at once
        return _started(number, cores, limit)


@functools.cache
def _started(number: int, cores: int, limit: Callable[[int], object] | None) -> Executor:
    pool = ThreadPoolExecutor(number, thread_name_prefix="cores")
    ready = threading.Barrier(number + 1)

    def start() -> None:
        _here.cores = cores // number
        if limit is not None:
            limit(_here.cores)
        ready.wait()

    try:
        for _ in range(number):
            pool.submit(start)
        ready.wait()
    except BaseException:
        ready.abort()  # or those that wait would never end
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        if limit is not None:
            limit(cores)
    return pool


def _forked() -> None:
    """Threads do not live on in a forked process, nor does who held the lock."""
    global _making
    _started.cache_clear()
    _making = threading.Lock()


os.register_at_fork(after_in_child=_forked)
