"""Networks of segmentation-models-pytorch, for any number of bands and any window size."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from cropseg.core.errors import ConfigError, InputError, SourceError

SMALLEST: Final = 16
"""Least height and width of a window, as of the paper's network."""

RGB: Final = ("B04", "B03", "B02")
"""Bands that red, green and blue of pretrained weights stand for, in the order of the weights."""


class SmpNet(nn.Module):
    """One of the library's architectures on one of its encoders.

    Windows that the encoder's stride does not divide are continued at their right and lower border by the last pixel,
    and the logits cut back.

    Args:
        arch: Architecture, such as ``unet``, ``unetplusplus``, ``deeplabv3plus``, ``upernet``, ``segformer``.
        encoder_name: Encoder, such as ``resnet18``.
        encoder_weights: Pretrained weights of the encoder: a name that the library fetches, such as ``imagenet``
            (``True`` for encoders called ``tu-…``), or the path of a state dict on this disk; None starts from random
            ones. Weights of three bands are widened by :func:`widen`.
        in_channels: Bands.
        num_classes: Classes, background included.
        bands: Names of the bands, by which pretrained weights find theirs.

    Raises:
        ConfigError: The library does not know the architecture, the encoder or the weights, or cannot combine them.
        InputError: A file of weights is missing, broken, or of another encoder.
        SourceError: Weights cannot be fetched.
    """

    def __init__(
        self,
        arch: str = "unet",
        encoder_name: str = "resnet18",
        encoder_weights: str | bool | None = None,
        in_channels: int = 10,
        num_classes: int = 11,
        bands: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        for option, value in (("arch", arch), ("encoder_name", encoder_name)):
            if not isinstance(value, str):
                shown = "null" if value is None else value
                raise ConfigError(f"model.net.{option} must be a name", shown, "see conf/model/smp_unet.yaml")
        # Imported here: it brings torchvision and timm, which the paper's network does without.
        import segmentation_models_pytorch as smp

        if bands is not None and len(bands) != in_channels:
            raise ConfigError(f"in_channels is {in_channels}, but bands are", list(bands), "name each channel once")
        try:
            net = smp.create_model(arch, encoder_name, None, in_channels, num_classes)
        except (KeyError, ValueError, RuntimeError) as error:
            remedy = f"the library says: {' '.join(str(error).split())[:300]}"
            raise ConfigError(
                "segmentation-models-pytorch knows no such architecture or encoder, or cannot combine them",
                (arch, encoder_name),
                remedy,
            ) from error
        if encoder_weights is not None and encoder_weights is not False:
            _load(net.encoder, encoder_name, encoder_weights, in_channels, bands)
        _spare_single_values(net)
        self.net: Any = net
        self.stride = int(net.encoder.output_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits of each pixel.

        Args:
            x: Reflectance, float (N, bands, H, W), H and W at least 16.

        Returns:
            Logits, float (N, classes, H, W).

        Raises:
            InputError: The window is too small, or too small to train on alone.
        """
        height, width = x.shape[-2:]
        if min(height, width) < SMALLEST:
            remedy = "use larger windows"
            raise InputError(f"a network takes windows of at least {SMALLEST} × {SMALLEST}", tuple(x.shape), remedy)
        # Rounded up without a negative number: ONNX divides those towards zero, and a file would take multiples alone.
        rows, columns = ((size + self.stride - 1) // self.stride * self.stride for size in (height, width))
        if self.training and len(x) == 1 and rows == columns == self.stride:
            remedy = (
                f"use windows above {self.stride} pixels, or a batch size that leaves no patch alone at the end of an "
                "epoch (dataset.batch_size=2 or more)"
            )
            raise InputError("batch normalisation cannot learn from one patch this small", tuple(x.shape), remedy)
        if torch.compiler.is_exporting():  # the same without a branch on the size, so that the size can stay open
            padded = functional.pad(x, (0, columns - width, 0, rows - height), mode="replicate")
            whole: Tensor = self.net(padded)
            down, right = (torch.arange(size, device=x.device) for size in (height, width))
            return whole.index_select(2, down).index_select(3, right)
        if rows != height or columns != width:
            x = functional.pad(x, (0, columns - width, 0, rows - height), mode="replicate")
        logits: Tensor = self.net(x)
        return torch.narrow(torch.narrow(logits, 2, 0, height), 3, 0, width)


def widen(weight: Tensor, channels: int, bands: Sequence[str] | None = None) -> Tensor:
    """Extend a first convolution of red, green and blue to any bands.

    B04, B03 and B02 take the weights of red, green and blue by name; every other band takes their mean; all are
    multiplied by 3 / ``channels``. So a window whose bands are all equal gives what it gave in three bands, and
    activations keep their size. Without names, each band takes the mean.

    Args:
        weight: (out, 3, height, width), input in the order red, green, blue.
        channels: Bands.
        bands: Their names.

    Returns:
        (out, ``channels``, height, width).
    """
    mean = weight.mean(dim=1)
    names = list(bands) if bands is not None else [""] * channels
    found = [weight[:, RGB.index(name)] if name in RGB else mean for name in names]
    return torch.stack(found, dim=1) * (weight.shape[1] / channels)


def _load(encoder: Any, name: str, weights: str | bool, channels: int, bands: Sequence[str] | None) -> None:
    """Put pretrained weights into ``encoder``, the first convolution widened to its bands."""
    given = _read(Path(str(weights))) if _is_path(weights) else _fetch(name, weights)
    state = {}
    own = encoder.state_dict()
    for key, value in given.items():
        wanted = own[key].shape if key in own else value.shape
        if value.ndim == 4 and value.shape[1] == len(RGB) and wanted == (len(value), channels, *value.shape[2:]):
            value = widen(value, channels, bands)
        state[key] = value
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        remedy = "give a state dict of this encoder with three bands, or with as many as the dataset has"
        raise InputError(f"these are no weights of {name}: {weights} ({reason})", None, remedy) from error


def _is_path(weights: str | bool) -> bool:
    return isinstance(weights, str) and (Path(weights).suffix in {".pt", ".pth"} or Path(weights).exists())


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"no such file of encoder weights: {path}", None, "check model.net.encoder_weights") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} holds no plain weights", first, "store it with torch.save(encoder.state_dict())"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is no state dict", type(state).__name__, "store torch.save(encoder.state_dict())")
    return state


def _fetch(name: str, weights: str | bool) -> Mapping[str, Tensor]:
    import segmentation_models_pytorch as smp

    try:
        encoder = smp.encoders.get_encoder(name, in_channels=len(RGB), weights=weights)
    except KeyError as error:
        raise ConfigError(f"no such weights of encoder {name}", weights, str(error.args[0])) from error
    except OSError as error:
        remedy = "fetch them where there is a network, and give encoder_weights=<file>, a state dict"
        raise SourceError(f"cannot fetch weights of {name}: {str(error)[:200]}", weights, remedy) from error
    state: Mapping[str, Tensor] = encoder.state_dict()
    return state


class _SparingBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that takes its running statistics where a batch holds one value a channel."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            # Nothing can be learned from one value: it is its own mean.
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def _spare_single_values(net: nn.Module) -> None:
    """Let the layers behind a pooling to 1 × 1 (DeepLabV3+, UPerNet) train on a batch of one patch too.

    The last batch of an epoch may well hold one; PyTorch would raise there.
    """
    for branch in list(net.modules()):
        pooled = [pool for pool in branch.children() if isinstance(pool, nn.AdaptiveAvgPool2d)]
        if pooled and pooled[0].output_size in (1, (1, 1)):
            for layer in branch.modules():
                if type(layer) is nn.BatchNorm2d:
                    layer.__class__ = _SparingBatchNorm  # the same layer, state and names
