"""Losses as sums that can be added up over batches and devices, so that their value over a set is exact.

A loss is not a mean of batch losses: weighted cross-entropy is Σ w·nll / Σ w over all pixels, Dice a ratio of soft
counts over all pixels. So each loss says two things: which sums a batch contributes (:meth:`Loss.sums`), and what
value the sums have (:meth:`Loss.value`). A training step takes the value of one batch's sums; validation adds the sums
of all batches first (:class:`RunningLoss`) and does not depend on the batch size.

Pixels whose target is 255 enter no sum. A batch without any labelled pixel has value 0 and gradient 0.
"""

from cropseg.losses.base import Loss, RunningLoss, Sums, WeightedSum
from cropseg.losses.pixel import CrossEntropy, Focal
from cropseg.losses.region import Dice, Lovasz, Tversky
from cropseg.losses.weights import (
    effective_number,
    inverse_frequency,
    inverse_sqrt_frequency,
    median_frequency,
)

__all__ = [
    "CrossEntropy",
    "Dice",
    "Focal",
    "Loss",
    "Lovasz",
    "RunningLoss",
    "Sums",
    "Tversky",
    "WeightedSum",
    "effective_number",
    "inverse_frequency",
    "inverse_sqrt_frequency",
    "median_frequency",
]
