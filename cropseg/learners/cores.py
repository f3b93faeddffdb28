"""A network on a processor: each core takes images of a batch through it by itself.

Layers split over the cores wait for the slowest core at every layer, and leave the last ones of a deep network little
to split. And a batch that goes through at once asks the system for arrays so large that each layer's are fetched
anew. One image at a time a core avoids both.
"""

from __future__ import annotations

import copy
import operator
import os
import pickle
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import nn

from cropseg.core import cores
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
        self._making = threading.Lock()
        self._twins: SimpleQueue[nn.Module] = SimpleQueue()
        self._made = 0
        self._alike = True

    def fits(self, net: nn.Module) -> bool:
        """Whether this is that very network as it was, in this process: what was copied of it is still true."""
        objects, marks = _parts_of(net)
        same = len(objects) == len(self._made_of[0]) and all(map(operator.is_, objects, self._made_of[0]))
        return same and marks == self._made_of[1] and self._process == os.getpid()

    def side_by_side(self, parts: int) -> SideBySide | None:
        """Threads for :meth:`spread` to be called on about so many parts, which divide PyTorch's cores between them.

        None if one would have them all, or if the network is none that can be copied.
        """
        all_cores = torch.get_num_threads()
        threads = cores.number(parts, all_cores)
        # Autocast is a thread's own, and so would be lost on another.
        if threads < 2 or cores.share() or torch.is_autocast_enabled("cpu") or not self._make(threads):
            return None
        return SideBySide(cores.threads(threads, all_cores, _limit), threads, AT_ONCE)

    def spread(self, ask: Callable[[nn.Module, UInt16Array], Found], images: UInt16Array) -> list[Found]:
        """Answers for all parts of the batch, in its order.

        Args:
            ask: Asks a network about images; called on other threads.
            images: uint16 (n, bands, height, width).
        """
        each = max(1, AT_ONCE // max(1, images.shape[-2] * images.shape[-1]))
        parts = np.array_split(images, max(1, -(-len(images) // each)))

        def on_twin(part: UInt16Array) -> Found:
            twin = self._twins.get()
            try:
                return ask(twin, part)
            finally:
                self._twins.put(twin)

        beside = self.side_by_side(len(parts))
        if beside is not None:
            return list(beside.pool.map(on_twin, parts))
        if cores.share() and self._made:  # others of its kind ask at the same time
            return [on_twin(part) for part in parts]
        return [ask(self._net, part) for part in parts]

    def _make(self, threads: int) -> bool:
        """Make a twin for each thread; False if the network is none that can be copied."""
        weights = list(self._net.parameters())
        with self._making:
            while self._made < threads and self._alike:
                try:
                    # A copy that finds a weight copied already takes the weight itself.
                    twin = copy.deepcopy(self._net, {id(one): one for one in weights})
                except NOT_COPIED:
                    self._alike = False
                    break
                self._alike = all(map(operator.is_, weights, twin.parameters()))
                if self._alike:
                    self._twins.put(twin)
                    self._made += 1
            return self._alike


NOT_COPIED: Final = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, pickle.PickleError, copy.Error)
"""What a module that cannot be copied may raise."""


def _parts_of(net: nn.Module) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a network consists of, and what may change in it without any of that being replaced, but for its weights."""
    modules, buffers = tuple(net.modules()), tuple(net.buffers())
    versions = tuple(0 if one.is_inference() else one._version for one in buffers)
    return (*modules, *net.parameters(), *buffers), (tuple(one.training for one in modules), versions)


def _limit(cores: int) -> None:
    """Let PyTorch use so many cores in this thread."""
    torch.get_num_threads()  # when it first asks, a thread takes what any said last; from then on the number is its own
    torch.set_num_threads(cores)
