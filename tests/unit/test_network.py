"""How a network is built from a name: anybody's own, and a stranger's only with leave."""

import sys
import textwrap

import pytest
import torch
from torch import nn

from cropseg.core.errors import ConfigError
from cropseg.learners.network import TRUST, build_net

BANDS = ("B02", "B03", "B04")


class Mine(nn.Module):
    """A network as a user may write it."""

    def __init__(self, in_channels: int, classes: int, answer: str = "logits") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, classes, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.answer = answer

    def forward(self, x):
        logits = self.drop(self.conv(x))
        if self.answer == "halved":
            return logits[..., ::2, ::2]
        if self.answer == "mapping":
            return {"out": logits}
        if self.answer == "fussy":
            raise RuntimeError("sizes must be divisible by 32")
        return logits


class Named(Mine):
    """One that wants to know its bands."""

    def __init__(self, in_channels: int, num_classes: int, bands: tuple[str, ...] = ()) -> None:
        super().__init__(in_channels, num_classes)
        self.bands = bands


def recipe(cls, **options):
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}", **options}


def test_anybodys_module_is_built_by_its_name():
    net = build_net(recipe(Mine), BANDS, 4, window=24)
    assert net.training
    assert net(torch.rand(2, 3, 24, 24)).shape == (2, 4, 24, 24)
    assert build_net(recipe(Mine), 3, 4)(torch.rand(1, 3, 8, 8)).shape == (1, 4, 8, 8)


def test_band_names_reach_a_class_that_takes_them():
    assert build_net(recipe(Named), BANDS, 4).bands == BANDS
    assert build_net(recipe(Named), 3, 4).bands == ()


def test_trying_a_network_draws_nothing_and_changes_nothing():
    torch.manual_seed(3)
    without = build_net(recipe(Mine), BANDS, 4)
    expected = torch.rand(4)
    torch.manual_seed(3)
    tried = build_net(recipe(Mine), BANDS, 4, window=16)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(a, b) for a, b in zip(without.parameters(), tried.parameters(), strict=True))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("halved", r"\(1, 4, 16, 16\) but with: \(1, 4, 8, 8\)"),
        ("mapping", "but with: 'dict'"),
        ("fussy", "divisible by 32"),
    ],
)
def test_a_wrong_answer_is_found_before_training(answer, said):
    with pytest.raises(ConfigError, match=said):
        build_net(recipe(Mine, answer=answer), BANDS, 4, window=16)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported."""
    code = f"""
        from pathlib import Path
        from torch import nn
        Path({str(tmp_path / "imported")!r}).touch()
        class Net(nn.Module):
            def __init__(self, in_channels, num_classes):
                super().__init__()
                self.conv = nn.Conv2d(in_channels, num_classes, 1)
    """
    (tmp_path / "a_strangers_module.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "imported"
    sys.modules.pop("a_strangers_module", None)


def test_a_run_does_not_make_us_import_a_strangers_module(stranger, monkeypatch):
    named = {"_target_": "a_strangers_module.Net"}
    with pytest.raises(ConfigError, match=f"{TRUST}=a_strangers_module"):
        build_net(named, BANDS, 4, trusted=False)
    assert not stranger.exists()
    monkeypatch.setenv(TRUST, "others, a_strangers_module")
    assert isinstance(build_net(named, BANDS, 4, trusted=False), nn.Module)
    assert stranger.exists()


def test_what_is_imported_already_may_be_named_by_a_run(stranger):
    assert isinstance(build_net({"_target_": "a_strangers_module.Net"}, BANDS, 4), nn.Module)
    assert isinstance(build_net({"_target_": "a_strangers_module.Net"}, BANDS, 4, trusted=False), nn.Module)


@pytest.mark.parametrize("name", ["os.system", "this.s", "antigravity.webbrowser", "torch.nn.Nothing", "Net", ""])
def test_a_run_names_networks_only(name):
    with pytest.raises(ConfigError):
        build_net({"_target_": name}, BANDS, 4, trusted=False)
    assert "antigravity" not in sys.modules
