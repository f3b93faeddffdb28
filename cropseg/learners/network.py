"""A trained network as a predictor, and how a network is built from its class's name."""

from __future__ import annotations

import functools
import inspect
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.data.fill import model_input
from cropseg.metrics import Confusion, scores
from cropseg.predictor import ModelSpec, read_validation

WEIGHTS: Final = "weights.pt"
VALIDATION: Final = "validation.json"


@dataclass
class NeuralPredictor:
    """A trained network; see :class:`cropseg.predictor.Predictor`.

    Attributes:
        net: The network, in evaluation mode.
        spec: What it learned from.
        confusion: Of the validation part at the chosen checkpoint.
        epoch: Of that checkpoint, from 0.
        protocol: Of the validation scores.
    """

    net: nn.Module
    spec: ModelSpec
    confusion: Confusion
    epoch: int
    protocol: Any = "all"

    def __post_init__(self) -> None:
        """No dropout from here on."""
        self.net.eval()

    @property
    def validation_score(self) -> float:
        """``miou_present`` on the validation part at the chosen checkpoint."""
        return float(scores(self.confusion, self.protocol)["miou_present"])

    def to(self, device: str) -> Self:
        """Move the network to a device, such as ``cuda``."""
        self.net.to(device)
        return self

    def probabilities(self, images: UInt16Array) -> npt.NDArray[np.float32]:
        """Class probabilities, float32 (n, classes, height, width)."""
        with torch.inference_mode():
            found: npt.NDArray[np.float32] = self._logits(images).float().softmax(dim=1).cpu().numpy()
        return found

    def labels(self, images: UInt16Array) -> UInt8Array:
        """The most probable class of each pixel, uint8 (n, height, width)."""
        with torch.inference_mode():
            found: UInt8Array = self._logits(images).argmax(dim=1).to(torch.uint8).cpu().numpy()
        return found

    def _logits(self, images: UInt16Array) -> Tensor:
        if images.ndim != 4 or images.shape[1] != len(self.spec.bands):
            raise InputError(
                f"images must be (n, {len(self.spec.bands)}, height, width), bands {', '.join(self.spec.bands)}",
                images.shape,
                "read them with the run's bands",
            )
        device = next(self.net.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        x, _ = model_input(pixels, self.spec.model["nodata"])
        logits: Tensor = self.net(x)
        return logits

    def save(self, folder: Path) -> None:
        """Write ``weights.pt`` (a plain state_dict), ``validation.json`` and ``spec.json``, atomically."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.net.state_dict().items()}
        # Through memory: torch's own writing to a file hides the reason when the disk is full.
        content = io.BytesIO()
        torch.save(state, content)
        storage.write_bytes(folder / WEIGHTS, content.getvalue())
        score = self.validation_score
        storage.write_json(
            folder / VALIDATION,
            {
                "miou_present": None if np.isnan(score) else score,  # JSON has no NaN
                "confusion": self.confusion.tolist(),
                "epoch": self.epoch,
                "protocol": self.protocol,
            },
        )
        storage.write_json(folder / "spec.json", self.spec.to_dict())


def load(folder: Path, spec: ModelSpec) -> NeuralPredictor:
    """Load the network of a finished run, onto the GPU if there is one.

    Raises:
        InputError: A file is missing or broken, or does not hold weights of the network in ``spec``.
        ConfigError: ``spec`` names something that is not a network.
    """
    net = build_net(spec.model["net"], len(spec.bands), len(spec.taxonomy), pretrained=False)
    path = Path(folder) / WEIGHTS
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, "the run was not finished: train it again") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} does not hold this network's weights", first, "copy the run again") from error
    predictor = NeuralPredictor(net, spec, *read_validation(Path(folder), len(spec.taxonomy)))
    return predictor.to("cuda" if torch.cuda.is_available() else "cpu")


def build_net(recipe: Mapping[str, Any], bands: int, classes: int, *, pretrained: bool = True) -> nn.Module:
    """Build a network from its class's dotted name and arguments.

    The name may come from a file of somebody else's, so it must name a subclass of ``torch.nn.Module`` before it is
    called.

    Args:
        recipe: ``_target_`` and arguments.
        bands: Input channels.
        classes: Output channels.
        pretrained: Whether weights that the arguments name are fetched; a trained run has its own.

    Raises:
        ConfigError: It does not, or the class does not take these arguments.
    """
    options = dict(recipe)
    name = str(options.pop("_target_", ""))
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(module_name), class_name) if module_name else None
    except (ImportError, AttributeError) as error:
        raise ConfigError("no such network class", name, "install the package that holds it") from error
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ConfigError("not a torch.nn.Module", name, "net._target_ must name a class of networks")
    takes = inspect.signature(found).parameters
    if not pretrained and "encoder_weights" in takes:
        options["encoder_weights"] = None
    classes_argument = "num_classes" if "num_classes" in takes else "classes"
    try:
        net: nn.Module = found(**options, **{"in_channels": bands, classes_argument: classes})
    except TypeError as error:
        raise ConfigError(f"{name} does not take these arguments", str(error), "see model.net in the config") from error
    return net


def recipe_of(net: functools.partial[nn.Module]) -> dict[str, Any]:
    """The dotted name and plain arguments of a bound class: what ``spec.json`` keeps of it."""
    if not isinstance(net, functools.partial) or net.args:
        raise ConfigError("net must be a class with arguments by name", repr(net), "set net._partial_: true")
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in net.keywords.items()}
    return {"_target_": f"{net.func.__module__}.{net.func.__qualname__}", **plain}
