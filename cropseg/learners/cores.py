"""A network on a processor: each core takes images of a batch through it by itself.

Layers split over the cores wait for the slowest core at every layer, and leave the last ones of a deep network little
to split. And a batch that goes through at once asks the system for arrays so large that each layer's are fetched
anew. One image at a time a core avoids both.
"""

from __future__ import annotations

import copy
import functools
import operator
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import nn

from cropseg.core.scene import UInt16Array
from cropseg.predictor import SideBySide

Found = TypeVar("Found")

AT_ONCE: Final = 256 * 256
"""Pixels that go through a network together, if a single image has no more."""


class Cores:
    """A network that answers parts of a batch, or several threads, on all cores at once.

    Threads have modules and buffers of their own, for some networks keep in themselves what they have just seen; the
    weights are the network's.

    Args:
        net: In evaluation mode, on the CPU.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._process = os.getpid()
        self._made_of = _parts_of(net)
        self._twins: SimpleQueue[nn.Module] = SimpleQueue()
        self._made = 0
        self._alike = True

    def fits(self, net: nn.Module) -> bool:
        """Whether this is that very network as it was, in this process: what was copied of it is still true."""
        objects, marks = _parts_of(net)
        same = len(objects) == len(self._made_of[0]) and all(map(operator.is_, objects, self._made_of[0]))
        return same and marks == self._made_of[1] and self._process == os.getpid()

    def side_by_side(self) -> SideBySide | None:
        """Threads for :meth:`spread` to be called on, as many as PyTorch may use, each of which keeps to one core.

        None if that is one, or if the network is none that can be copied.
        """
        threads = torch.get_num_threads()
        if threads < 2:
            return None
        with _LOCK:
            return SideBySide(_pool(threads), threads, AT_ONCE) if self._make(threads) else None

    def spread(self, ask: Callable[[nn.Module, UInt16Array], Found], images: UInt16Array) -> list[Found]:
        """Answers for all parts of the batch, in its order.

        Args:
            ask: Asks a network about images; called on other threads.
            images: uint16 (n, bands, height, width).
        """
        each = max(1, AT_ONCE // max(1, images.shape[-2] * images.shape[-1]))
        parts = np.array_split(images, max(1, -(-len(images) // each)))
        enough = len(parts) >= torch.get_num_threads()
        many = self.side_by_side() if enough and not torch.is_autocast_enabled("cpu") else None  # it is a thread's own

        def on_twin(part: UInt16Array) -> Found:
            twin = self._twins.get()
            try:
                return ask(twin, part)
            finally:
                self._twins.put(twin)

        if many is not None:
            return list(many.pool.map(on_twin, parts))
        if getattr(_here, "alone", False) and self._made:  # others of its kind ask at the same time
            return [on_twin(part) for part in parts]
        return [ask(self._net, part) for part in parts]

    def _make(self, threads: int) -> bool:
        """Make a twin for each thread; False if the network is none that can be copied."""
        weights = list(self._net.parameters())
        while self._made < threads and self._alike:
            try:
                # A copy that finds a weight copied already takes the weight itself.
                twin = copy.deepcopy(self._net, {id(one): one for one in weights})
            except Exception:  # it may fail in any way, and can be asked all the same
                twin = None
            if twin is None or not all(map(operator.is_, weights, twin.parameters())):
                self._alike = False
            else:
                self._twins.put(twin)
                self._made += 1
        return self._alike


def _parts_of(net: nn.Module) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a network consists of, and what may change in it without any of that being replaced, but for its weights."""
    modules, buffers = tuple(net.modules()), tuple(net.buffers())
    versions = tuple(0 if one.is_inference() else one._version for one in buffers)
    return (*modules, *net.parameters(), *buffers), (tuple(one.training for one in modules), versions)


_LOCK = threading.Lock()
"""Held while threads or twins are made."""

_here = threading.local()
"""Tells a thread that it is one of :func:`_pool`."""


@functools.cache
def _pool(threads: int) -> Executor:
    """Threads that each keep PyTorch to one core, for the life of the process."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cores")
    started = threading.Barrier(threads + 1)

    def alone() -> None:
        # PyTorch gives a thread its number of cores when it is first asked for it; from then on it is the thread's own.
        torch.get_num_threads()
        torch.set_num_threads(1)
        _here.alone = True
        started.wait()

    try:
        for _ in range(threads):
            pool.submit(alone)
        started.wait()
    except BaseException:
        started.abort()  # or those that wait would never end
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        torch.set_num_threads(threads)  # new threads begin with what was said last
    return pool


def _forked() -> None:
    """Threads do not live on in a forked process, nor does who held the lock."""
    global _LOCK
    _pool.cache_clear()
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_forked)
