"""The paper's network: its size, and what it takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cropseg.core.errors import ConfigError, InputError
from cropseg.models.smp import SmpNet
from cropseg.models.unet4gn import UNet4LevelsGN, _join


def test_default_has_exactly_the_papers_parameters():
    net = UNet4LevelsGN()
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 17_660_027
    # Table 5's checkpoint: 70.66 MB of float32 with a little of the file format around it.
    assert sum(p.numel() * p.element_size() for p in net.parameters()) / 1e6 == pytest.approx(70.66, abs=0.03)
    assert not list(net.buffers())


def test_layers_are_those_of_the_paper():
    net = UNet4LevelsGN()
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [
        *(48, 48, 96, 96, 192, 192, 384, 384, 768, 768),
        *(384, 384, 192, 192, 96, 96, 48, 48, 11),
    ]
    assert [m.bias is not None for m in convolutions] == [False] * 18 + [True]
    assert all(m.affine for m in net.modules() if isinstance(m, torch.nn.GroupNorm))
    assert net.bottleneck_dropout.p == 0.1
    assert net.decoder_dropout.p == 0.0


@settings(max_examples=15, deadline=None)
@given(st.integers(16, 50), st.integers(16, 50), st.integers(1, 2))
def test_any_height_and_width_from_16_on(height, width, n):
    net = UNet4LevelsGN(in_channels=3, num_classes=4, base=4, groups=2)
    assert net(torch.rand(n, 3, height, width)).shape == (n, 4, height, width)


@pytest.mark.parametrize("shape", [(1, 10, 15, 64), (1, 10, 64, 15), (1, 10, 1, 1), (10, 64, 64)])
def test_smaller_windows_are_a_typed_error(shape):
    with pytest.raises(InputError, match="16"):
        UNet4LevelsGN(base=8)(torch.rand(shape))


def test_at_even_sizes_upsampling_doubles():
    below = torch.rand(1, 3, 5, 7)
    doubled = functional.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(_join(below, torch.zeros(1, 1, 10, 14))[:, :3], doubled)


def test_dropout_acts_in_training_only():
    net, x = UNet4LevelsGN(base=8, bottleneck_dropout=0.5), torch.rand(1, 10, 32, 32)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_a_fresh_net_is_near_indifference():
    torch.manual_seed(0)
    loss = functional.cross_entropy(UNet4LevelsGN(base=16)(torch.rand(2, 10, 32, 32)), torch.zeros(2, 32, 32).long())
    assert abs(loss.item() - torch.tensor(11.0).log().item()) < 1.0


@pytest.mark.parametrize("wrong", [{"base": 12}, {"base": 0}, {"num_classes": 0}, {"decoder_dropout": 1.0}])
def test_impossible_arguments_are_refused(wrong):
    with pytest.raises(ConfigError):
        UNet4LevelsGN(**wrong)


def test_library_network_takes_ten_bands_and_any_size():
    net = SmpNet("unet", "resnet18").eval()
    assert net(torch.rand(1, 10, 33, 50)).shape == (1, 11, 33, 50)
    with pytest.raises(ConfigError, match="no such"):
        SmpNet("unet", "resnet_without_end")
    with pytest.raises(ConfigError, match="no such"):
        SmpNet("no_such_net")
