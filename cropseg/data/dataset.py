"""Patches as torch sees them: what is read, cropped and drawn in a loader's worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

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
    """

    image: Tensor
    mask: Tensor
    symmetry: Tensor
    row: Tensor


Key = tuple[int, int]
"""(row of the manifest, epoch): the index travels with its epoch, so that workers that live on know it too."""


def random_of(seed: int, epoch: int, row: int) -> np.random.Generator:
    """The generator of one patch in one epoch.

    Keyed, not advanced: what a patch undergoes depends on nothing but these three, whatever the order of loading, the
    number of workers, or where a run was taken up again.
    """
    return _random(seed, epoch, row)


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
        row, epoch = key
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
        random = random_of(self.seed, epoch, row)
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
        }


class EpochSampler(Sampler[Key]):
    """Each row once an epoch, in an order drawn from (seed, epoch), or ascending.

    Lightning calls :meth:`set_epoch` before each epoch.

    Args:
        rows: Rows of the manifest.
        shuffle: Whether to draw the order.
        seed: Of the order.
    """

    def __init__(self, rows: Sequence[int] | npt.NDArray[np.int64], *, shuffle: bool, seed: int) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Key]:
        rows = _random(self.seed, self.epoch).permutation(self.rows) if self.shuffle else self.rows
        return iter([(int(row), self.epoch) for row in rows])
