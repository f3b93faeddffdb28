"""A dataset folder with one of its splits, as loaders for training and validation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import Dataset, Part, open_dataset
from cropseg.data.dataset import EpochSampler, PatchDataset, Sample
from cropseg.data.few_labels import check_fraction, with_few_labels
from cropseg.data.sampling import EachOnce, PatchSampling


class CropDataModule(L.LightningDataModule):
    """Patches of one dataset folder under one split.

    Batches are :class:`cropseg.data.dataset.Sample` with a first axis n: raw uint16 pixels, so that half the bytes
    travel; the network's module divides, fills and augments on its device. Validation takes each patch once, whole and
    as it is, whatever the batch size.

    Args:
        root: The dataset folder.
        split: Name of a split in ``<root>/splits``.
        batch_size: Patches a step.
        num_workers: Loader processes; None means none on a CPU, where reading is far cheaper than a step, and half the
            cores, at most 8, beside a GPU.
        train_crop: Side in pixels of a square drawn from each training patch; None takes whole patches.
        augment: Whether training patches are turned and mirrored.
        sampling: How often each training patch is drawn; None takes each once an epoch. For networks: a forest draws
            pixels by a rule of its own.
        fraction: Share of the training part's parcels whose labels are used, :mod:`cropseg.data.few_labels`; None uses
            all and does not count them.
        seed: Of order, crops, symmetries and the choice of parcels.

    Attributes:
        dataset: The opened folder, after :meth:`setup`; with ``fraction``, only with the labels that are used.
        parts: Rows of the manifest for ``train``, ``val`` and ``test``, after :meth:`setup`; with ``fraction``,
            ``train`` lacks the patches that are left without a crop.
    """

    dataset: Dataset
    parts: dict[Part, npt.NDArray[np.int64]]

    def __init__(
        self,
        root: str | Path,
        split: str = "location",
        batch_size: int = 2,
        num_workers: int | None = None,
        train_crop: int | None = None,
        augment: bool = True,
        sampling: PatchSampling | None = None,
        fraction: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (num_workers is not None and num_workers < 0) or not 0 <= seed < 2**32:
            raise ConfigError(
                "batch_size must be at least 1, num_workers at least 0, seed in 0 … 4294967295",
                (batch_size, num_workers, seed),
                "see conf/dataset",
            )
        if fraction is not None:
            check_fraction(fraction)  # now, before a long wait for anything else
        self.root = Path(root)
        self.split = split
        self.batch_size = batch_size
        self.num_workers = _default_workers() if num_workers is None else num_workers
        self.train_crop = train_crop
        self.augment = augment
        self.sampling = sampling or EachOnce()
        self.fraction = fraction
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        """Open the folder, once.

        Raises:
            InputError: It is missing or broken, or has no such split; ``fraction`` is set and it knows no parcels.
        """
        if not hasattr(self, "parts"):
            dataset = open_dataset(self.root)
            parts = dataset.parts(self.split)
            if self.fraction is not None:
                dataset, parts["train"] = with_few_labels(dataset, parts["train"], self.fraction, self.seed)
            self.dataset, self.parts = dataset, parts

    def train_counts(self) -> npt.NDArray[np.int64]:
        """Labelled pixels of each training patch and class, int64 (patches, classes), from the manifest alone.

        Labelled pixels without data count too, though ``nodata=fill`` leaves them out of the loss: few, where
        ``quality.max_nodata`` holds.
        """
        counts = self.dataset.manifest["counts"].take(self.parts["train"]).to_pylist()
        return np.array(counts, dtype=np.int64).reshape(len(counts), len(self.dataset.spec.taxonomy))

    def train_weights(self) -> npt.NDArray[np.float64] | None:
        """Weight of each training patch, float64 (patches,); None where each comes once an epoch.

        Raises:
            InputError: The training part has no label that the rule could draw by.
        """
        weights = self.sampling.weights(self.train_counts())
        if weights is not None and not weights.any():
            remedy = "leave sampling= out, or use a larger dataset.fraction"
            raise InputError(f"{self.root} has no labelled pixel to draw patches by", None, remedy)
        return weights

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled or drawn, augmented and, if asked, cropped training patches."""
        patches = PatchDataset(self.dataset, crop=self.train_crop, augment=self.augment, seed=self.seed)
        return self._loader(patches, "train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Each validation patch once."""
        return self._loader(PatchDataset(self.dataset), "val", shuffle=False)

    def _loader(self, patches: PatchDataset, part: Part, *, shuffle: bool) -> DataLoader[Sample]:
        rows = self.parts[part]
        if not len(rows):
            raise InputError(
                f"part {part} of split {self.split} of {self.root} is empty",
                None,
                "choose another split or prepare more",
            )
        weights = self.train_weights() if part == "train" else None
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        options: dict[str, Any] = {"persistent_workers": self.num_workers > 0, "pin_memory": torch.cuda.is_available()}
        return DataLoader(
            patches,
            batch_size=self.batch_size,
            sampler=EpochSampler(rows, shuffle=shuffle, seed=self.seed, weights=weights, rank=rank, world=world),
            num_workers=self.num_workers,
            **options,
        )


def _default_workers() -> int:
    return min(8, (os.cpu_count() or 1) // 2) if torch.cuda.is_available() else 0
