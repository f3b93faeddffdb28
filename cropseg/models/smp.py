"""Networks of segmentation-models-pytorch, for any number of bands and any window size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cropseg.core.errors import ConfigError


class SmpNet(nn.Module):
    """One of the library's architectures on one of its encoders.

    Windows that the encoder's stride does not divide are continued at their right and lower border by the last pixel,
    and the logits cut back.

    Args:
        arch: Architecture, such as ``unet``, ``unetplusplus``, ``deeplabv3plus``, ``upernet``, ``segformer``.
        encoder_name: Encoder, such as ``resnet18``.
        encoder_weights: Pretrained weights to fetch, such as ``imagenet``; None starts from random ones.
        in_channels: Bands.
        num_classes: Classes, background included.

    Raises:
        ConfigError: The library does not know the architecture or the encoder.
    """

    def __init__(
        self,
        arch: str = "unet",
        encoder_name: str = "resnet18",
        encoder_weights: str | None = None,
        in_channels: int = 10,
        num_classes: int = 11,
    ) -> None:
        super().__init__()
        # Imported here: it brings torchvision and timm, which the paper's network does without.
        import segmentation_models_pytorch as smp

        try:
            net = smp.create_model(arch, encoder_name, encoder_weights, in_channels, num_classes)
        except KeyError as error:
            raise ConfigError(
                "segmentation-models-pytorch knows no such architecture or encoder",
                (arch, encoder_name),
                "see its documentation for the names",
            ) from error
        self.net: Any = net
        self.stride = int(net.encoder.output_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (N, classes, H, W) of reflectance (N, bands, H, W)."""
        height, width = x.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        if below or right:
            x = functional.pad(x, (0, right, 0, below), mode="replicate")
        logits: Tensor = self.net(x)
        return torch.narrow(torch.narrow(logits, 2, 0, height), 3, 0, width)
