"""What a loss is, a weighted sum of losses, and the sums of many batches."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from cropseg.core.checks import finite
from cropseg.core.errors import ConfigError

Sums = dict[str, Tensor]
"""Additive statistics of a batch by name; each loss knows their meaning."""


class Loss(nn.Module, ABC):
    """A loss whose value follows from sums over pixels or images.

    A subclass keeps each argument of its constructor under the argument's name, so that :meth:`describe` finds it.
    """

    @abstractmethod
    def sums(self, logits: Tensor, target: Tensor) -> Sums:
        """What a batch contributes.

        Args:
            logits: float (N, classes, H, W).
            target: int64 (N, H, W), class ids and 255.

        Returns:
            float32 tensors (float64 of float64 logits) that may be added over batches.
        """

    @abstractmethod
    def value(self, sums: Sums) -> Tensor:
        """The loss, a scalar, of sums from any number of batches."""

    def resolve(self, counts: npt.ArrayLike) -> None:
        """Settle what the arguments left to the training part, such as class weights by a formula; once, before use.

        Args:
            counts: Labelled pixels per class, int (patches, classes), a row for each patch of the training part; or
                (classes,) of the whole part, which is then taken as one large patch.
        """

    def describe(self) -> dict[str, Any]:
        """The loss as plain data that ``hydra.utils.instantiate`` turns into an equal one; after :meth:`resolve`."""
        kind = type(self)
        names = [name for name in inspect.signature(kind).parameters if hasattr(self, name)]
        options = {name: _plain(getattr(self, name)) for name in names}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **options}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch; arguments as for :meth:`sums`."""
        return self.value(self.sums(logits, target))


def _plain(value: object) -> object:
    """Tensors, tuples, mappings and losses as JSON has them."""
    match value:
        case Loss():
            return value.describe()
        case Tensor():
            return value.tolist()
        case nn.ModuleDict() | Mapping():
            return {key: _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case None | bool() | int() | float() | str():
            return value
    return repr(value)


def single(logits: Tensor) -> Tensor:
    """Logits in float32, where sums of half-precision numbers keep their small parts; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


class WeightedSum(Loss):
    """Σ weight · term (Eq. 1).

    Args:
        terms: Losses by name.
        weights: The weight of each, by the same names.

    Raises:
        ConfigError: The names differ, there are none, PyTorch keeps one for itself, a term is no :class:`Loss`, or a
            weight is no number of at least 0, or all are 0.
    """

    def __init__(self, terms: Mapping[str, Loss], weights: Mapping[str, float]) -> None:
        super().__init__()
        wrong = {name: type(term).__name__ for name, term in terms.items() if not isinstance(term, Loss)}
        if wrong:
            raise ConfigError("a term of a loss must say its sums (cropseg.losses.Loss)", wrong, "see conf/loss")
        if not terms:
            raise ConfigError(
                "a sum of losses without a term",
                None,
                "add some, such as +loss@loss.terms.focal=focal +loss.weights.focal=1.0",
            )
        if set(terms) != set(weights):
            raise ConfigError(
                f"terms of a loss and their weights must have the same names: {sorted(terms)} against",
                sorted(weights),
                "give each term a weight, such as +loss.weights.<term>=1.0",
            )
        _check_names(terms)
        for name, weight in weights.items():
            if not finite(weight) or weight < 0:
                raise ConfigError(f"loss.weights.{name} must be a number of at least 0", weight, "set 1.0, say")
        if not any(weights.values()):
            raise ConfigError("all weights of a loss are 0", dict(weights), "give a term a weight above it")
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


def _check_names(terms: Mapping[str, Loss]) -> None:
    """Refuse names that PyTorch's table of modules has for its own use, such as ``keys``."""
    table = nn.ModuleDict()
    for name in terms:
        if not isinstance(name, str) or not name or "." in name or hasattr(table, name):
            remedy = "give it another one: PyTorch keeps this one for itself"
            raise ConfigError("a term of a loss cannot have the name", name, remedy)


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
