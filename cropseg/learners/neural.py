"""A neural network as a learner, and the predictor that it becomes."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch import Tensor, nn

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.progress import say
from cropseg.core.scene import UInt8Array, UInt16Array
from cropseg.data.datamodule import CropDataModule
from cropseg.data.fill import NODATA_RULES, NoData, model_input
from cropseg.learners.folder import clear
from cropseg.learners.module import SegmentationModule
from cropseg.learners.options import options_of
from cropseg.learners.versions import versions
from cropseg.losses import Loss
from cropseg.metrics import Confusion, scores
from cropseg.predictor import ModelSpec, read_validation

WEIGHTS: Final = "weights.pt"
VALIDATION: Final = "validation.json"

NetMaker = Callable[..., nn.Module]


class NeuralLearner:
    """Learns a segmentation network.

    Args:
        net: Class of the network with its own arguments bound (``functools.partial``); bands and classes are added at
            ``fit`` as ``in_channels`` and ``num_classes`` (or ``classes``, whichever it takes).
        loss: What is minimised.
        optimizer: Makes the optimiser of given parameters.
        trainer: Makes Lightning's Trainer.
        scheduler: Makes the schedule of a given optimiser; None keeps the rate.
        callbacks: Lightning callbacks, by name.
        logger: Lightning loggers, by name.
        nodata: What the network sees where there is no data, :func:`cropseg.data.fill.model_input`.
        note: Said when training starts, such as that this is not the paper's size.
        seed: Of the weights and of dropout.
    """

    def __init__(
        self,
        net: functools.partial[nn.Module],
        loss: Loss,
        optimizer: Callable[..., torch.optim.Optimizer],
        trainer: Callable[..., L.Trainer],
        scheduler: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        callbacks: Mapping[str, Callback] | None = None,
        logger: Mapping[str, Logger] | None = None,
        nodata: NoData = "fill",
        note: str | None = None,
        seed: int = 0,
    ) -> None:
        if nodata not in NODATA_RULES:
            raise ConfigError("unknown rule for pixels without data", nodata, f"choose from {', '.join(NODATA_RULES)}")
        if not isinstance(loss, Loss):
            raise ConfigError(
                "a loss must say its sums (cropseg.losses.Loss)", type(loss).__name__, "choose one from conf/loss"
            )
        self.net = net
        self.loss = loss
        self.optimizer = optimizer
        self.trainer = trainer
        self.scheduler = scheduler
        self.callbacks = callbacks or {}
        self.logger = logger or {}
        self.nodata: NoData = nodata
        self.note = note
        self.seed = seed

    def fit(self, data: CropDataModule, run_dir: Path) -> NeuralPredictor:
        """Train, choose the best checkpoint, and leave a finished run in ``run_dir``.

        Args:
            data: The dataset and the parts of its split.
            run_dir: Gets ``weights.pt``, ``spec.json``, ``validation.json`` and what the trackers write.

        Returns:
            The predictor at the chosen checkpoint (the last epoch, if no callback keeps checkpoints), on the processor
            or the GPU, wherever Lightning would train.

        Raises:
            InputError: The dataset or a part of it is missing.
            ConfigError: Network, loss and dataset do not fit together.
        """
        run_dir = Path(run_dir)
        if self.note:
            say(self.note)
        data.setup("fit")
        clear(run_dir)
        dataset = data.dataset
        recipe = _recipe(self.net)
        torch.manual_seed(self.seed)
        net = build_net(recipe, len(dataset.spec.bands), len(dataset.spec.taxonomy))
        module = SegmentationModule(
            net,
            self.loss,
            dataset.spec.taxonomy,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            protocol=dataset.spec.protocol,
            nodata=self.nodata,
            seed=self.seed,
        )
        size = sum(p.numel() for p in net.parameters() if p.requires_grad)
        say(
            f"training {type(net).__name__} ({size:,} parameters) on {len(data.parts['train'])} patches of "
            f"{dataset.spec.name}, validating on {len(data.parts['val'])}"
        )
        with _quiet():
            trainer = self._trainer(run_dir)
            try:
                trainer.fit(module, data.train_dataloader(), data.val_dataloader())
            except SystemExit as error:  # Lightning's answer to Ctrl-C, without a word
                raise KeyboardInterrupt(f"training starts anew next time; what it left is in {run_dir}") from error
        confusion, epoch = _choose(trainer, module)
        predictor = NeuralPredictor(
            net=net,
            spec=ModelSpec.of(
                dataset,
                data.split,
                loader="cropseg.learners.neural.load",
                model={"net": recipe, "nodata": self.nodata, "train_crop": data.train_crop},
                versions=versions("torch", "lightning", "numpy"),
                patch_size=data.train_crop,
            ),
            confusion=confusion,
            epoch=epoch,
            protocol=dataset.spec.protocol,
        ).to(str(trainer.strategy.root_device))
        predictor.save(run_dir)
        say(f"validation miou_present {predictor.validation_score:.4f} at epoch {epoch + 1}; the run is in {run_dir}")
        return predictor

    def _trainer(self, run_dir: Path) -> L.Trainer:
        options: dict[str, Any] = {}
        bound = getattr(self.trainer, "keywords", {})
        if bound.get("enable_progress_bar") is None:
            options["enable_progress_bar"] = sys.stderr.isatty()
        with options_of("trainer", MisconfigurationException):
            trainer = self.trainer(
                callbacks=list(self.callbacks.values()),
                logger=list(self.logger.values()),
                default_root_dir=run_dir,
                enable_checkpointing=any(hasattr(c, "best_model_path") for c in self.callbacks.values()),
                **options,
            )
        if trainer.max_epochs is not None and not isinstance(trainer.max_epochs, int):
            raise ConfigError("epochs must be a whole number", trainer.max_epochs, "set epochs=24, say")
        return trainer


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


def _recipe(net: functools.partial[nn.Module]) -> dict[str, Any]:
    """The dotted name and plain arguments of a bound class: what ``spec.json`` keeps of it."""
    if not isinstance(net, functools.partial) or net.args:
        raise ConfigError("net must be a class with arguments by name", repr(net), "set net._partial_: true")
    plain = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in net.keywords.items()}
    return {"_target_": f"{net.func.__module__}.{net.func.__qualname__}", **plain}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back Lightning's advertising, and warnings about what is meant so."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # CropDataModule chooses the number of loader processes on purpose.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # A run into the folder of an earlier one writes over its checkpoints.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            # Lightning 2.6 uses what torch 2.15 deprecates.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        log.setLevel(level)


def _choose(trainer: L.Trainer, module: SegmentationModule) -> tuple[Confusion, int]:
    """Put the best checkpoint's weights into the module; its validation matrix and epoch."""
    best: Sequence[str] = [
        str(path) for c in trainer.checkpoint_callbacks if (path := getattr(c, "best_model_path", "")) != ""
    ]
    if best:
        checkpoint = torch.load(best[0], map_location="cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])
        return checkpoint["val_confusion"].numpy(), int(checkpoint["epoch"])
    if module.validation is None:
        raise ConfigError("training ended without a validation", trainer.max_epochs, "set trainer.max_epochs above 0")
    return module.validation, trainer.current_epoch - 1
