"""Networks of segmentation-models-pytorch: sizes, batches of one, and pretrained weights."""

import functools

import pytest
import torch
from torch import nn

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError, SourceError
from cropseg.models.smp import SmpNet, widen

ARCHS = [
    ("unet", "resnet18"),
    ("unetplusplus", "resnet18"),
    ("deeplabv3plus", "resnet18"),
    ("upernet", "resnet18"),
    ("segformer", "mit_b0"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "encoder"), ARCHS)
def test_learns_one_step_and_answers_windows_of_any_size(arch, encoder):
    torch.manual_seed(0)
    net = SmpNet(arch, encoder, in_channels=10, num_classes=5)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    loss = net(torch.rand(1, 10, 64, 64)).mean()  # a batch of one, as the last of an epoch may be
    loss.backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    net.eval()
    with torch.inference_mode():
        for height, width in ((16, 16), (33, 50), (64, 97)):
            assert net(torch.rand(1, 10, height, width)).shape == (1, 5, height, width)


@pytest.mark.parametrize("arch", ["deeplabv3plus", "upernet"])
def test_a_batch_of_one_may_be_learned_from_where_a_layer_sees_one_value(arch):
    net = SmpNet(arch, in_channels=4, num_classes=3)
    names = set(net.state_dict())
    assert net(torch.rand(1, 4, 64, 64)).shape == (1, 3, 64, 64)
    spared = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d) and type(m) is not nn.BatchNorm2d]
    assert len(spared) == 1
    assert torch.equal(spared[0].running_mean, torch.zeros_like(spared[0].running_mean))
    net(torch.rand(2, 4, 64, 64))  # of two, it learns like any other
    assert not torch.equal(spared[0].running_mean, torch.zeros_like(spared[0].running_mean))
    assert names == set(net.state_dict())


def test_windows_that_are_too_small_are_a_typed_error():
    net = SmpNet(in_channels=4, num_classes=3)
    with pytest.raises(InputError, match="16"):
        net(torch.rand(2, 4, 15, 64))
    with pytest.raises(InputError, match="batch_size=2"):
        net(torch.rand(1, 4, 32, 32))
    assert net(torch.rand(2, 4, 32, 32)).shape == (2, 3, 32, 32)


def test_bands_find_the_weights_of_their_colour_by_name():
    weight = torch.rand(8, 3, 3, 3)
    wide = widen(weight, 10, PAPER_BANDS)
    for color, band in enumerate(("B04", "B03", "B02")):
        torch.testing.assert_close(wide[:, PAPER_BANDS.index(band)], weight[:, color] * 0.3)
    torch.testing.assert_close(wide[:, PAPER_BANDS.index("B11")], weight.mean(dim=1) * 0.3)
    torch.testing.assert_close(widen(weight, 3, ("B04", "B03", "B02")), weight)
    torch.testing.assert_close(widen(weight, 5), weight.mean(dim=1, keepdim=True).expand(-1, 5, -1, -1) * 0.6)


def test_equal_bands_give_what_they_gave_in_three():
    weight, grey = torch.rand(8, 3, 3, 3), torch.rand(1, 1, 9, 9)
    three = torch.conv2d(grey.expand(-1, 3, -1, -1), weight)
    ten = torch.conv2d(grey.expand(-1, 10, -1, -1), widen(weight, 10, PAPER_BANDS))
    torch.testing.assert_close(ten, three)


@functools.cache
def rgb_encoder():
    import segmentation_models_pytorch as smp

    torch.manual_seed(5)
    return smp.encoders.get_encoder("resnet18", in_channels=3, weights=None)


def test_weights_from_a_file_are_widened(tmp_path):
    path = tmp_path / "resnet18.pt"
    torch.save(rgb_encoder().state_dict(), path)
    net = SmpNet("unet", "resnet18", str(path), 10, 4, bands=PAPER_BANDS)
    own, given = net.net.encoder.state_dict(), rgb_encoder().state_dict()
    torch.testing.assert_close(own["conv1.weight"], widen(given["conv1.weight"], 10, PAPER_BANDS))
    assert all(torch.equal(own[key], value) for key, value in given.items() if key != "conv1.weight")
    # Weights of as many bands as the dataset has are taken as they are.
    torch.save(own, path)
    again = SmpNet("unet", "resnet18", str(path), 10, 4).net.encoder.state_dict()
    assert torch.equal(again["conv1.weight"], own["conv1.weight"])


@pytest.mark.parametrize("content", [None, b"", b"none", "other", "list"])
def test_a_file_that_holds_no_such_weights_is_a_typed_error(tmp_path, content):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save({"conv9.weight": torch.zeros(3)} if content == "other" else [1, 2], path)
    with pytest.raises(InputError, match="weights"):
        SmpNet("unet", "resnet18", str(path), 10, 4)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the weights' hub that nothing can be added to: there is no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_asked_for_by_name_come_from_the_hub_and_are_widened(hub):
    import segmentation_models_pytorch as smp
    from safetensors.torch import save_file

    place = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    folder = hub / f"models--{place['repo_id'].replace('/', '--')}" / "snapshots" / place["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    given = rgb_encoder().state_dict()
    save_file(given, folder / "model.safetensors")
    own = SmpNet("unet", "resnet18", "imagenet", 10, 4, bands=PAPER_BANDS).net.encoder.state_dict()
    torch.testing.assert_close(own["conv1.weight"], widen(given["conv1.weight"], 10, PAPER_BANDS))
    assert all(torch.equal(own[key], value) for key, value in given.items() if key != "conv1.weight")


def test_weights_that_cannot_be_fetched_are_a_typed_error_with_the_way_round(hub):
    with pytest.raises(SourceError, match=r"cannot fetch weights of resnet18.*encoder_weights=<file>"):
        SmpNet("unet", "resnet18", "imagenet", 10, 4)


def test_what_the_library_does_not_know_is_a_typed_error():
    with pytest.raises(ConfigError, match="no such weights"):
        SmpNet("unet", "resnet18", "of_nowhere")
    with pytest.raises(ConfigError, match="cannot combine"):
        SmpNet("unetplusplus", "mit_b0")
    with pytest.raises(ConfigError, match="bands are"):
        SmpNet("unet", "resnet18", in_channels=3, bands=("B02",))


@pytest.mark.parametrize("name", [5, None, True])
def test_architecture_and_encoder_are_names(name):
    for option in ("arch", "encoder_name"):
        with pytest.raises(ConfigError, match=rf"model\.net\.{option} must be a name: "):
            SmpNet(**{option: name})
