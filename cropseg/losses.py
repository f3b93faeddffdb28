"""Losses as sums that can be added up over batches and devices, so that their value over a set is exact.

A loss is not a mean of batch losses: weighted cross-entropy is Σ w·nll / Σ w over all pixels, Dice a ratio of soft
counts over all pixels. So each loss says two things: which sums a batch contributes (:meth:`Loss.sums`), and what
value the sums have (:meth:`Loss.value`). A training step takes the value of one batch's sums; validation adds the sums
of all batches first (:class:`RunningLoss`) and does not depend on the batch size.

Pixels whose target is 255 enter no sum. A batch without any labelled pixel has value 0 and gradient 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from cropseg.core.errors import ConfigError
from cropseg.core.labels import BACKGROUND, IGNORE

Sums = dict[str, Tensor]
"""Additive statistics of a batch by name; each loss knows their meaning."""


class Loss(nn.Module, ABC):
    """A loss whose value follows from sums over pixels."""

    @abstractmethod
    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """What a batch contributes.

        Args:
            logits: float (N, classes, H, W).
            target: int64 (N, H, W), class ids and 255.

        Returns:
            float32 tensors that may be added over batches.
        """

    @abstractmethod
    def value(self, sums: Sums) -> Tensor:
        """The loss, a scalar, of sums from any number of batches."""

    def resolve(self, counts: npt.ArrayLike) -> None:  # noqa: B027 - most losses leave nothing open
        """Settle what the arguments left to the training part, such as class weights by a formula; once, before use.

        Args:
            counts: Labelled pixels of the training part per class, int (classes,), or of each of its patches,
                int (patches, classes).
        """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch; arguments as for :meth:`sums`."""
        return self.value(self.sums(logits, target))


class CrossEntropy(Loss):
    """Class-weighted cross-entropy, Σ w·nll / Σ w over labelled pixels (PyTorch's ``reduction="mean"``).

    Args:
        weights: A weight ≥ 0 for each class (Table 4); None weighs all alike.

    Raises:
        ConfigError: A weight is negative, or all are 0.
    """

    weights: Tensor | None

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if weights is not None and (min(weights) < 0 or max(weights) == 0):
            raise ConfigError("class weights must be at least 0, one above it", list(weights), "see conf/loss")
        values = None if weights is None else torch.tensor(list(weights), dtype=torch.float32)
        self.register_buffer("weights", values, persistent=False)

    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """``nll`` = Σ w·nll and ``weight`` = Σ w, scalars."""
        weights = self.weights
        if weights is None:
            weights = torch.ones(logits.shape[1], device=logits.device)
        elif len(weights) != logits.shape[1]:
            raise ConfigError(
                f"the loss has class weights for {len(weights)} classes, the dataset has",
                logits.shape[1],
                "give one weight a class in loss, or weights=null",
            )
        nll = functional.cross_entropy(logits.float(), target, weights, ignore_index=IGNORE, reduction="sum")
        labelled = target != IGNORE
        return {"nll": nll, "weight": (weights[torch.where(labelled, target, 0)] * labelled).sum()}

    def value(self, sums: Sums) -> Tensor:
        """Σ w·nll / Σ w, 0 without labelled pixels."""
        return sums["nll"] / torch.where(sums["weight"] > 0, sums["weight"], 1.0)


class Dice(Loss):
    """Soft Dice loss (Milletari et al., 2016): 1 - mean over classes of (2 Σ p·t + s) / (Σ p + Σ t + s).

    The sums run over all labelled pixels of the batch, not image by image. A class without a labelled pixel in the
    batch (in the set, at validation) is left out of the mean: it has no overlap to learn from. So the ratio always
    exists and the smoothing ``s`` may be 0.

    Args:
        exclude: Class ids left out; background by default (§3.1).
        smooth: ``s``, in pixels, ≥ 0.

    Raises:
        ConfigError: ``smooth`` is negative.
    """

    def __init__(self, exclude: Sequence[int] = (BACKGROUND,), smooth: float = 0.0) -> None:
        super().__init__()
        if smooth < 0:
            raise ConfigError("smooth of Dice must be at least 0", smooth, "use 0")
        self.exclude = tuple(exclude)
        self.smooth = smooth

    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """``overlap`` = Σ p·t, ``predicted`` = Σ p and ``true`` = Σ t of each class, (classes,) each."""
        classes = logits.shape[1]
        if any(not 0 <= c < classes for c in self.exclude):
            raise ConfigError(f"Dice excludes a class that is not in 0 … {classes - 1}", self.exclude, "see conf/loss")
        p = logits.float().softmax(dim=1)
        ids = torch.arange(classes, device=target.device).view(1, -1, 1, 1)
        t = target[:, None] == ids  # bool (N, classes, H, W); 255 matches no class
        labelled = (target != IGNORE)[:, None]
        axes = (0, 2, 3)
        return {"overlap": (p * t).sum(axes), "predicted": (p * labelled).sum(axes), "true": t.sum(axes).float()}

    def value(self, sums: Sums) -> Tensor:
        """1 - mean Dice over the present classes that are not excluded, 0 if there is none."""
        overlap, predicted, true = sums["overlap"], sums["predicted"], sums["true"]
        used = true > 0
        used[list(self.exclude)] = False
        whole = predicted + true + self.smooth
        dice = (2 * overlap + self.smooth) / torch.where(used, whole, 1.0)
        return torch.where(used, 1 - dice, 0.0 * overlap).sum() / used.sum().clamp(min=1)


class WeightedSum(Loss):
    """Σ weight · term (Eq. 1).

    Args:
        terms: Losses by name.
        weights: The weight of each, by the same names.

    Raises:
        ConfigError: The names differ, there are none, or a term is no :class:`Loss`.
    """

    def __init__(self, terms: Mapping[str, Loss], weights: Mapping[str, float]) -> None:
        super().__init__()
        wrong = {name: type(term).__name__ for name, term in terms.items() if not isinstance(term, Loss)}
        if wrong:
            raise ConfigError("a term of a loss must say its sums (cropseg.losses.Loss)", wrong, "see conf/loss")
        if not terms or set(terms) != set(weights):
            raise ConfigError(
                f"terms of a loss and their weights must have the same names: {sorted(terms)} against",
                sorted(weights),
                "give each term a weight",
            )
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: float(weights[name]) for name in terms}

    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """The sums of all terms, as ``<term>.<sum>``."""
        return {
            f"{name}.{key}": part for name, term in self._named() for key, part in term.sums(logits, target).items()
        }

    def value(self, sums: Sums) -> Tensor:
        """Σ weight · value of the term."""
        values = [self.weights[name] * term.value(_below(sums, name)) for name, term in self._named()]
        return torch.stack(values).sum()

    def resolve(self, counts: npt.ArrayLike) -> None:
        """Settle every term."""
        for _, term in self._named():
            term.resolve(counts)

    def _named(self) -> list[tuple[str, Loss]]:
        return [(name, term) for name, term in self.terms.items() if isinstance(term, Loss)]


def _below(sums: Sums, name: str) -> Sums:
    prefix = f"{name}."
    return {key.removeprefix(prefix): part for key, part in sums.items() if key.startswith(prefix)}


class RunningLoss:
    """The sums of many batches, in float64 where they came from, without gradients and without waiting for a GPU.

    Args:
        loss: Whose sums they are.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.sums: Sums = {}

    def update(self, sums: Sums) -> None:
        """Add a batch's sums."""
        for key, part in sums.items():
            new = (part.detach().cpu() if part.device.type == "mps" else part.detach()).double()  # MPS has no float64
            self.sums[key] = self.sums[key] + new if key in self.sums else new

    def compute(self) -> float:
        """The loss over all that was added; NaN if nothing was."""
        return float(self.loss.value(self.sums)) if self.sums else float("nan")

    def reset(self) -> None:
        """Forget everything."""
        self.sums = {}
