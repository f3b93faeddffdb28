"""A trained network as a predictor, and how a network is built from its class's name."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cropseg.core import storage
from cropseg.core.bands import NODATA
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.data.fill import model_input
from cropseg.learners.cores import Cores
from cropseg.metrics import Confusion, scores
from cropseg.predictor import ModelSpec, SideBySide, read_validation

Found = TypeVar("Found")

WEIGHTS: Final = "weights.pt"
VALIDATION: Final = "validation.json"

KNOWN: Final = ("cropseg", "segmentation_models_pytorch", "timm", "torch", "torchvision")
"""Packages whose networks a finished run may name; importing another one could run a stranger's code."""

TRUST: Final = "CROPSEG_TRUSTED_MODULES"
"""Environment variable that names further ones, with commas between."""


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
        self._cores: Cores | None = None

    @property
    def validation_score(self) -> float:
        """``miou_present`` on the validation part at the chosen checkpoint."""
        return float(scores(self.confusion, self.protocol)["miou_present"])

    def to(self, device: str) -> Self:
        """Move the network to a device, such as ``cuda``."""
        self.net.to(device)
        self._cores = None
        return self

    def copies(self, devices: int | None) -> tuple[Self, ...]:
        """Itself and copies, each on a device of its own; on a CPU all on that, one a core at most.

        Args:
            devices: How many; None for all GPUs, or for itself alone where it lies on none.

        Raises:
            ConfigError: There are fewer GPUs, or cores.
        """
        mine = next(self.net.parameters()).device
        on_gpu = mine.type == "cuda"
        there = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
        wanted = devices or (there if on_gpu else 1)
        if wanted > there:
            what = "GPUs" if on_gpu else "cores and no GPU"
            raise ConfigError(f"there are {there} {what}, fewer than devices", wanted, "give devices=auto")
        others = [f"cuda:{i}" for i in range(there) if i != (mine.index or 0)] if on_gpu else ["cpu"] * wanted
        return (self, *(replace(self, net=copy.deepcopy(self.net)).to(name) for name in others[: wanted - 1]))

    def probabilities(self, images: UInt16Array) -> npt.NDArray[np.float32]:
        """Class probabilities, float32 (n, classes, height, width)."""
        return np.concatenate(self._each(_probabilities, images))

    def labels(self, images: UInt16Array) -> UInt8Array:
        """The most probable class of each pixel, uint8 (n, height, width)."""
        return np.concatenate(self._each(_labels, images))

    def classify(self, images: UInt16Array) -> tuple[UInt8Array, npt.NDArray[np.float32]]:
        """What :meth:`labels` gives and its probability, float32 (n, height, width); both found on the device."""
        labels, confidence = zip(*self._each(_classify, images), strict=True)
        return np.concatenate(labels), np.concatenate(confidence)

    def _each(self, read: Callable[[Tensor], Found], images: UInt16Array) -> list[Found]:
        """What ``read`` finds in the logits of each part of the images."""
        if images.ndim != 4 or images.shape[1] != len(self.spec.bands):
            raise InputError(
                f"images must be (n, {len(self.spec.bands)}, height, width), bands {', '.join(self.spec.bands)}",
                images.shape,
                "read them with the run's bands",
            )
        device = next(self.net.parameters()).device

        @torch.inference_mode()
        def ask(net: nn.Module, part: UInt16Array) -> Found:
            complete = bool(part.min(initial=NODATA + 1) > NODATA)  # numpy is fast at it, and no device is asked
            pixels = torch.from_numpy(np.ascontiguousarray(part)).to(device)
            x, _ = model_input(pixels, self.spec.model["nodata"], complete)
            return read(net(x))

        return self._on_cores().spread(ask, images) if device.type == "cpu" else [ask(self.net, images)]

    def side_by_side(self, images: int) -> SideBySide | None:
        """Threads that may ask it about so many images at the same time, on a CPU; None where one has all there is."""
        return self._on_cores().side_by_side(images) if next(self.net.parameters()).device.type == "cpu" else None

    def _on_cores(self) -> Cores:
        cores = self._cores
        if cores is None or not cores.fits(self.net):
            cores = self._cores = Cores(self.net)
        return cores

    def __getstate__(self) -> dict[str, Any]:
        """All but its threads, which are this process's."""
        return {**self.__dict__, "_cores": None}

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


def winners(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The highest logit of each pixel, and its class, uint8, of equal ones the lowest id; (n, height, width) each.

    The class is found by comparing all with the highest. On a CPU that takes a third of the time of ``max`` over the
    classes, and less than a tenth of that of ``argmax``, which go from class to class with every pixel.

    Args:
        logits: (n, classes, height, width), at most 255 classes.
    """
    highest, classes = logits.amax(dim=1), logits.shape[1]
    rank = torch.arange(classes, 0, -1, dtype=torch.uint8, device=logits.device)
    won = (logits == highest[:, None]).view(torch.uint8) * rank[:, None, None]
    return highest, classes - won.amax(dim=1).clamp_(min=1)  # nothing equals NaN


def _probabilities(logits: Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = logits.float().softmax(dim=1).cpu().numpy()
    return found


def _labels(logits: Tensor) -> UInt8Array:
    found: UInt8Array = winners(logits)[1].cpu().numpy()
    return found


def _classify(logits: Tensor) -> tuple[UInt8Array, npt.NDArray[np.float32]]:
    highest, best = winners(logits)
    # Of softmax the winner alone is needed: exp(best) / sum(exp) = 1 / sum(exp(logit - best)).
    confidence = (logits - highest[:, None]).float().exp_().sum(dim=1).reciprocal_()
    return best.cpu().numpy(), confidence.cpu().numpy()


def load(folder: Path, spec: ModelSpec) -> NeuralPredictor:
    """Load the network of a finished run, onto the GPU if there is one.

    Raises:
        InputError: A file is missing or broken, or does not hold weights of the network in ``spec``.
        ConfigError: ``spec`` names something that is not a network, or a module that is not imported unasked.
    """
    net = build_net(spec.model["net"], spec.bands, len(spec.taxonomy), pretrained=False, trusted=False)
    path = Path(folder) / WEIGHTS
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, "the run was not finished: train it again") from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} does not hold this network's weights", first, "copy the run again") from error
    predictor = NeuralPredictor(net, spec, *read_validation(Path(folder), len(spec.taxonomy)))
    return predictor.to("cuda" if torch.cuda.is_available() else "cpu")


def build_net(
    recipe: Mapping[str, Any],
    bands: int | Sequence[str],
    classes: int,
    *,
    pretrained: bool = True,
    trusted: bool = True,
    window: int | None = None,
) -> nn.Module:
    """Build a network from its class's dotted name and arguments.

    Args:
        recipe: ``_target_`` and arguments.
        bands: Input channels: their names, or how many. A class that takes ``bands`` is given the names.
        classes: Output channels.
        pretrained: Whether weights that the arguments name are fetched; a trained run has its own.
        trusted: Whether any module may be imported to find the class. Not so where the name comes from a file of
            somebody else's, since importing runs code: see :data:`KNOWN` and :data:`TRUST`.
        window: Side in pixels of a window to try the network on, so that a wrong one is found before training.

    Raises:
        ConfigError: The name is no ``torch.nn.Module``, or its module may not be imported, or the class does not take
            these arguments, or it does not answer a window with a logit per class and pixel.
    """
    options = dict(recipe)
    name = str(options.pop("_target_", ""))
    found = _class(name, trusted=trusted)
    takes = inspect.signature(found).parameters
    if not pretrained and "encoder_weights" in takes:
        options["encoder_weights"] = None
    channels = bands if isinstance(bands, int) else len(bands)
    if not isinstance(bands, int) and "bands" in takes:
        options["bands"] = tuple(bands)
    classes_argument = "num_classes" if "num_classes" in takes else "classes"
    try:
        net: nn.Module = found(**options, **{"in_channels": channels, classes_argument: classes})
    except (TypeError, ValueError, RuntimeError, LookupError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{name} does not take these arguments", reason, "see model.net in the config") from error
    if window is not None:
        _try(net, name, (1, channels, window, window), classes)
    return net


def _class(name: str, *, trusted: bool) -> type[nn.Module]:
    module_name, _, class_name = name.rpartition(".")
    extra = [one.strip() for one in os.environ.get(TRUST, "").split(",") if one.strip()]
    if not trusted and module_name not in sys.modules and module_name.partition(".")[0] not in (*KNOWN, *extra):
        remedy = f"if you trust it, set {TRUST}={module_name.partition('.')[0]} in the environment"
        raise ConfigError("the run's network belongs to a module that is not imported unasked", name, remedy)
    try:
        found = getattr(import_module(module_name), class_name) if module_name else None
    except (ImportError, AttributeError) as error:
        raise ConfigError("no such network class", name, "install the package that holds it") from error
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ConfigError("not a torch.nn.Module", name, "net._target_ must name a class of networks")
    return found


def _try(net: nn.Module, name: str, shape: tuple[int, int, int, int], classes: int) -> None:
    """Refuse a network that does not answer ``shape`` with logits; weights and random numbers stay as they are."""
    wanted = (shape[0], classes, *shape[2:])
    training = net.training
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            answer = net.eval()(torch.zeros(shape))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{name} cannot take {shape}", reason, "choose another window or mend the network") from error
    finally:
        net.train(training)
    got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if got != wanted:
        remedy = "its forward must return logits (n, classes, height, width), as many classes as it was told"
        raise ConfigError(f"{name} answers {shape} not with {wanted} but with", got, remedy)


def recipe_of(net: functools.partial[nn.Module]) -> dict[str, Any]:
    """The dotted name and plain arguments of a bound class: what ``spec.json`` keeps of it."""
    if not isinstance(net, functools.partial) or net.args:
        raise ConfigError("net must be a class with arguments by name", repr(net), "set net._partial_: true")
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in net.keywords.items()}
    return {"_target_": f"{net.func.__module__}.{net.func.__qualname__}", **plain}
