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
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final, TypeVar

import numpy as np
import torch
from torch import nn

from cropseg.core.scene import UInt16Array

Found = TypeVar("Found")

AT_ONCE: Final = 256 * 256
"""Pixels that go through a network together, if a single image has no more."""


class Cores:
    """A network that answers parts of a batch on all cores at once.

    What it says of an image does not depend on the others, so neither does it on how a batch is cut.

    Args:
        net: In evaluation mode, on the CPU. Threads have modules of their own, with these weights, for some networks
            keep in themselves what they have just seen.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._twins: SimpleQueue[nn.Module] = SimpleQueue()
        self._ready = 0

    def spread(self, ask: Callable[[nn.Module, UInt16Array], Found], images: UInt16Array) -> list[Found]:
        """Answers for all parts of the batch, in its order.

        Args:
            ask: Asks a network about images; called on other threads.
            images: uint16 (n, bands, height, width).
        """
        each = max(1, AT_ONCE // max(1, images.shape[-2] * images.shape[-1]))
        parts = np.array_split(images, max(1, -(-len(images) // each)))
        threads = torch.get_num_threads()
        if not 1 < threads <= len(parts) or not self._make(threads):
            return [ask(self.net, part) for part in parts]

        def on_twin(part: UInt16Array) -> Found:
            twin = self._twins.get()
            try:
                return ask(twin, part)
            finally:
                self._twins.put(twin)

        return list(_pool(threads).map(on_twin, parts))

    def _make(self, threads: int) -> bool:
        """Make a module for each thread; False if the network is none that can be copied."""
        # A copy that finds each weight copied already takes the weight itself.
        weights = [*self.net.parameters(), *self.net.buffers()]
        while self._ready < threads:
            try:
                self._twins.put(copy.deepcopy(self.net, {id(one): one for one in weights}))
            except (RuntimeError, TypeError, copy.Error):
                return False
            self._ready += 1
        return True


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
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
