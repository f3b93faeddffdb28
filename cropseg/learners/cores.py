"""A network on a processor: each core takes images of a batch through it by itself.

Layers split over the cores wait for the slowest core at every layer, and leave the last ones of a deep network little
to split. And a batch that goes through at once asks the system for arrays so large that each layer's are fetched
anew. One image at a time a core avoids both.
"""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, TypeVar

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

    Args:
        net: In evaluation mode, on the CPU. Threads have modules of their own, with these weights, for some networks
            keep in themselves what they have just seen.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._free: SimpleQueue[nn.Module] = SimpleQueue()
        self._free.put(net)
        self._made = 1

    def side_by_side(self) -> SideBySide | None:
        """Threads for :meth:`spread` to be called on, as many as PyTorch may use, each of which keeps to one core.

        None if that is one, or if the network is none that can be copied.
        """
        threads = torch.get_num_threads()
        return SideBySide(_pool(threads), threads, AT_ONCE) if threads > 1 and self._make(threads) else None

    def spread(self, ask: Callable[[nn.Module, UInt16Array], Found], images: UInt16Array) -> list[Found]:
        """Answers for all parts of the batch, in its order.

        Args:
            ask: Asks a network about images; called on other threads.
            images: uint16 (n, bands, height, width).
        """
        each = max(1, AT_ONCE // max(1, images.shape[-2] * images.shape[-1]))
        parts = np.array_split(images, max(1, -(-len(images) // each)))
        many = self.side_by_side() if len(parts) >= torch.get_num_threads() else None

        def on_free(part: UInt16Array) -> Found:
            net = self._free.get()
            try:
                return ask(net, part)
            finally:
                self._free.put(net)

        return [on_free(part) for part in parts] if many is None else list(many.pool.map(on_free, parts))

    def _make(self, threads: int) -> bool:
        """Make a module for each thread; False if the network is none that can be copied."""
        # A copy that finds each weight copied already takes the weight itself.
        weights = [*self.net.parameters(), *self.net.buffers()]
        while self._made < threads:
            try:
                self._free.put(copy.deepcopy(self.net, {id(one): one for one in weights}))
            except (RuntimeError, TypeError, copy.Error):
                return False
            self._made += 1
        return True


@functools.cache
def _pool(threads: int) -> Executor:
    """Threads that each keep PyTorch to one core, for the life of the process."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cores")
    started = threading.Barrier(threads + 1)

    def alone() -> None:
        # The number is a thread's own, but it takes it from what any thread said last when it is first asked.
        torch.set_num_threads(1)
        torch.get_num_threads()
        started.wait()

    for _ in range(threads):
        pool.submit(alone)
    started.wait()
    torch.set_num_threads(threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not live on in a forked process
