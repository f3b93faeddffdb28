"""The paper's network: a U-Net of four levels with group normalisation (§3.1, Table 5).

    x0 48  ────────────────────────────────────────► cat 48+96   → u0 48  → head 11
     ↓ pool                                             ↑ up
    x1 96  ──────────────────────────────► cat 96+192  → u1 96
     ↓ pool                                    ↑ up
    x2 192 ────────────────────► cat 192+384 → u2 192
     ↓ pool                         ↑ up
    x3 384 ──────────► cat 384+768 → u3 384
     ↓ pool               ↑ up
    x4 768 (bottleneck, dropout)

What the paper leaves open, and what stands here: 8 groups (32 does not divide 48); bilinear upsampling with
``align_corners=False``; channel-wise dropout after the bottleneck's and each decoder's block; 3×3 convolutions
initialised by He et al. (2015), normal, fan-in; the head likewise but with gain 1, since no ReLU follows, and bias 0.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cropseg.core.errors import ConfigError, InputError

SMALLEST = 16
"""Least height and width in pixels: four poolings leave one pixel."""


class Block(nn.Sequential):
    """Two 3×3 convolutions without bias, each followed by group norm and ReLU; keeps height and width.

    Args:
        inputs: Input channels.
        outputs: Output channels, divisible by ``groups``.
        groups: Groups of the normalisation.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(groups, outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(groups, outputs),
            nn.ReLU(inplace=True),
        )


class UNet4LevelsGN(nn.Module):
    """U-Net of four levels and a bottleneck; 17,660,027 parameters with its defaults.

    Args:
        in_channels: Bands.
        num_classes: Classes, background included.
        base: Channels of the first level; each next one has twice as many.
        groups: Groups of every normalisation; must divide ``base``.
        bottleneck_dropout: Probability that a channel of the bottleneck is dropped in training.
        decoder_dropout: The same for each level of the decoder.

    Raises:
        ConfigError: ``groups`` does not divide ``base``, or a number is out of range.
    """

    encoder_parts: ClassVar[tuple[str, ...]] = ("down0", "down1", "down2", "down3", "bottleneck", "bottleneck_dropout")
    """Modules that ``freeze_encoder`` takes out of training, see :mod:`cropseg.models.transfer`."""

    def __init__(
        self,
        in_channels: int = 10,
        num_classes: int = 11,
        base: int = 48,
        groups: int = 8,
        bottleneck_dropout: float = 0.1,
        decoder_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(in_channels, num_classes, base, groups) < 1:
            raise ConfigError(
                "channels, classes, base and groups of UNet4LevelsGN must be at least 1",
                (in_channels, num_classes, base, groups),
                "see conf/model/unet4gn.yaml",
            )
        if base % groups:
            raise ConfigError(f"base of UNet4LevelsGN must be a multiple of groups={groups}", base, "use 8, 16, 24, 48")
        for name, rate in (("bottleneck_dropout", bottleneck_dropout), ("decoder_dropout", decoder_dropout)):
            if not 0 <= rate < 1:
                raise ConfigError(f"{name} of UNet4LevelsGN must be in 0 … 1 (1 excluded)", rate, "use 0.1")
        c0, c1, c2, c3, c4 = (base * 2**level for level in range(5))
        self.down0 = Block(in_channels, c0, groups)
        self.down1 = Block(c0, c1, groups)
        self.down2 = Block(c1, c2, groups)
        self.down3 = Block(c2, c3, groups)
        self.bottleneck = Block(c3, c4, groups)
        self.up3 = Block(c4 + c3, c3, groups)
        self.up2 = Block(c3 + c2, c2, groups)
        self.up1 = Block(c2 + c1, c1, groups)
        self.up0 = Block(c1 + c0, c0, groups)
        self.head = nn.Conv2d(c0, num_classes, 1)
        self.pool = nn.MaxPool2d(2)
        self.bottleneck_dropout = nn.Dropout2d(bottleneck_dropout)
        self.decoder_dropout = nn.Dropout2d(decoder_dropout)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if module is self.head else "relu")
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits of each pixel.

        Args:
            x: Reflectance, float (N, bands, H, W), H and W at least 16, odd ones too.

        Returns:
            Logits, float (N, classes, H, W).

        Raises:
            InputError: The input is smaller than 16 × 16 or has another number of axes.
        """
        if x.ndim != 4 or min(x.shape[-2:]) < SMALLEST:
            raise InputError(
                f"UNet4LevelsGN takes (n, bands, height, width) of at least {SMALLEST} × {SMALLEST} pixels",
                tuple(x.shape),
                "use larger windows",
            )
        # With base 48; odd sizes are rounded down by the pooling and restored from the skip's own size.
        x0 = self.down0(x)  # (N, 48, H, W)
        x1 = self.down1(self.pool(x0))  # (N, 96, H/2, W/2)
        x2 = self.down2(self.pool(x1))  # (N, 192, H/4, W/4)
        x3 = self.down3(self.pool(x2))  # (N, 384, H/8, W/8)
        x4 = self.bottleneck_dropout(self.bottleneck(self.pool(x3)))  # (N, 768, H/16, W/16)
        u3 = self.decoder_dropout(self.up3(_join(x4, x3)))  # (N, 384, H/8, W/8)
        u2 = self.decoder_dropout(self.up2(_join(u3, x2)))  # (N, 192, H/4, W/4)
        u1 = self.decoder_dropout(self.up1(_join(u2, x1)))  # (N, 96, H/2, W/2)
        u0 = self.decoder_dropout(self.up0(_join(u1, x0)))  # (N, 48, H, W)
        logits: Tensor = self.head(u0)  # (N, 11, H, W)
        return logits


def _join(below: Tensor, skip: Tensor) -> Tensor:
    """Upsample ``below`` to the skip's size (×2 where that is even) and put the skip beside it."""
    up = functional.interpolate(below, size=skip.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat((up, skip), dim=1)
