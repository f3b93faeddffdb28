"""Patches as torch sees them: what is read, cropped and drawn in a loader's worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from cropseg.core.bands import NODATA
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.labels import IGNORE
from cropseg.core.manifest import Dataset


class Sample(TypedDict):
    """One patch, or a batch of them with a first axis n.

    Attributes:
        image: uint16 (bands, height, width), reflectance × 10000, 0 = no data.
        mask: uint8 (height, width), class ids and 255.
        symmetry: bool (3,), see :func:`cropseg.data.augment.apply_symmetry`; all False means as it is.
        row: int64 (), row of the manifest.
        complete: bool (), whether every band of every pixel has data. Told here, on the processor: asking a GPU would
            make the processor wait for it at each step.
    """

    image: Tensor
    mask: Tensor
    symmetry: Tensor
    row: Tensor
    complete: Tensor


Key = tuple[int, ...]
"""(row of the manifest, epoch), and where a patch is drawn again in an epoch, which time it is from 1 on.

The index travels with its epoch, so that workers that live on know it too.
"""


def random_of(seed: int, epoch: int, row: int, *again: int) -> np.random.Generator:
    """The generator of one patch in one epoch.

    Keyed, not advanced: what a patch undergoes depends on nothing but these, whatever the order of loading, the number
    of workers, or where a run was taken up again.
    """
    return _random(seed, epoch, row, *again)


def _random(seed: int, *key: int) -> np.random.Generator:
    # Keys of different length make different streams; plain lists of numbers would be padded with zeros.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


class PatchDataset(TorchDataset[Sample]):
    """Patches of a dataset folder, indexed by (row, epoch).

    Args:
        dataset: The opened folder.
        crop: Side in pixels of a square drawn at random from each patch; None takes the whole patch.
        augment: Whether one of the eight symmetries of the square is drawn for each patch.
        seed: Of both draws.

    Raises:
        ConfigError: ``crop`` is not between 1 and the patch size.
    """

    def __init__(self, dataset: Dataset, *, crop: int | None = None, augment: bool = False, seed: int = 0) -> None:
        if crop is not None and not 1 <= crop <= dataset.spec.patch_size:
            raise ConfigError(
                f"train_crop must be between 1 and the patch size {dataset.spec.patch_size} of {dataset.spec.name}",
                crop,
                "make it smaller, or null for whole patches",
            )
        self.dataset = dataset
        self.crop = crop
        self.augment = augment
        self.seed = seed

    def __getitem__(self, key: Key) -> Sample:
        """Read, crop and draw the symmetry of one patch.

        Raises:
            InputError: A file is missing or broken, image and mask differ in size, or the mask holds a label that is
                no class: a loss would read beyond its weights.
        """
        row, epoch, *again = key
        image, mask = self.dataset.image(row), self.dataset.mask(row)
        if image.shape[1:] != mask.shape:
            name = self.dataset.manifest["id"][row].as_py()
            raise InputError(
                f"image and mask of patch {name} differ in size", (image.shape, mask.shape), "prepare it again"
            )
        classes = len(self.dataset.spec.taxonomy)
        unknown = np.flatnonzero(np.bincount(mask.ravel(), minlength=IGNORE + 1)[classes:IGNORE]) + classes
        if unknown.size:
            name = self.dataset.manifest["id"][row].as_py()
            raise InputError(f"mask of patch {name} has labels that are no class", unknown.tolist(), "prepare it again")
        random = random_of(self.seed, epoch, row, *again)
        if self.crop is not None:
            top, left = (int(random.integers(0, length - self.crop + 1)) for length in mask.shape)
            inside = (slice(top, top + self.crop), slice(left, left + self.crop))
            image, mask = np.ascontiguousarray(image[:, *inside]), np.ascontiguousarray(mask[inside])
        symmetry = random.integers(0, 2, 3).astype(bool) if self.augment else np.zeros(3, dtype=bool)
        return {
            "image": torch.from_numpy(image),
            "mask": torch.from_numpy(mask),
            "symmetry": torch.from_numpy(symmetry),
            "row": torch.tensor(row),
            "complete": torch.tensor(bool(image.min() > NODATA)),
        }


class EpochSampler(Sampler[Key]):
    """The rows of one process in one epoch, each with its epoch.

    Lightning calls :meth:`set_epoch` before each epoch. All processes draw the same order from (seed, epoch) and take
    every ``world``-th row of it, so that the ``k``-th batches of all of them together are the ``k``-th batch of one
    process with ``world`` times the batch size.

    * Shuffled rows (training): each process gets equally many; up to ``world - 1`` rows at the end of the order are
      left out of this epoch.
    * Rows as they stand (validation): each comes once, none twice; some processes may get one row less.

    Args:
        rows: Rows of the manifest.
        shuffle: Whether to draw the order.
        seed: Of the order.
        weights: Weight of each row, float (rows,), at least 0. As many rows as there are are then drawn with
            replacement, each with probability weight / Σ weights; None takes each row once.
        rank: Number of this process.
        world: Number of processes.

    Raises:
        ConfigError: ``weights`` are of another length, negative, not finite or all 0, or stand beside rows that are not
            shuffled.
        InputError: There are fewer rows than processes.
    """

    def __init__(
        self,
        rows: Sequence[int] | npt.NDArray[np.int64],
        *,
        shuffle: bool,
        seed: int,
        weights: npt.NDArray[np.float64] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.shuffle = shuffle
        self.seed = seed
        self.probabilities = None if weights is None else self._probabilities(np.asarray(weights, dtype=np.float64))
        self.rank = rank
        self.world = world
        self.epoch = 0
        if len(self.rows) < world:
            raise InputError(f"fewer patches than the {world} processes", len(self.rows), "use fewer devices")

    def _probabilities(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total = weights.sum()
        usable = weights.shape == self.rows.shape and np.isfinite(total) and (weights >= 0).all() and total > 0
        if not usable or not self.shuffle:
            raise ConfigError(
                "weights of patches must be finite, at least 0 and not all 0, one for each shuffled row",
                f"{weights.shape} for {len(self.rows)} rows",
                "see conf/sampling",
            )
        probabilities: npt.NDArray[np.float64] = weights / total
        return probabilities

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return len(self.rows) // self.world
        return len(range(self.rank, len(self.rows), self.world))

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys()[self.rank :: self.world][: len(self)])

    def _keys(self) -> list[Key]:
        """Keys of the whole epoch, of all processes."""
        if not self.shuffle:
            return [(int(row), self.epoch) for row in self.rows]
        random = _random(self.seed, self.epoch)
        if self.probabilities is None:
            return [(int(row), self.epoch) for row in random.permutation(self.rows)]
        times: Counter[int] = Counter()
        keys: list[Key] = []
        for row in random.choice(self.rows, size=len(self.rows), p=self.probabilities).tolist():
            # The first time is keyed as without drawing; each further one is cropped and turned anew.
            keys.append((row, self.epoch, times[row]) if times[row] else (row, self.epoch))
            times[row] += 1
        return keys
