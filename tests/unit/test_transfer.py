"""Weights from a finished run: copied by name, new ones by rule, the encoder frozen or not."""

import functools
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from factory import make_dataset
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from cropseg.cli import refuse_unused
from cropseg.core import storage, taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.manifest import DatasetSpec
from cropseg.core.taxonomy import CropClass, Taxonomy
from cropseg.data.datamodule import CropDataModule
from cropseg.evaluate import EvaluationSet, evaluate
from cropseg.learners.init import Init
from cropseg.learners.network import NeuralPredictor, build_net
from cropseg.learners.neural import NeuralLearner
from cropseg.losses import CrossEntropy
from cropseg.models.transfer import encoder_of, freeze_encoder
from cropseg.models.unet4gn import UNet4LevelsGN
from cropseg.predictor import ModelSpec

UNET = {"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": 8, "groups": 4}
SMP = {"_target_": "cropseg.models.smp.SmpNet", "arch": "unet", "encoder_name": "resnet18", "encoder_weights": None}


NETS = pytest.mark.parametrize(
    "recipe", [pytest.param(UNET, id="unet4gn"), pytest.param(SMP, id="smp", marks=pytest.mark.slow)]
)
QUIET = {"enable_progress_bar": False, "enable_model_summary": False}


class Linear(nn.Module):
    """Stem and head are one tensor."""

    def __init__(self, in_channels: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, num_classes, 1, bias=bias)


LINEAR = {"_target_": f"{__name__}.Linear"}


class Stem(nn.Module):
    """Bands pass ``first``, each by itself, before they are summed."""

    def __init__(self, first: nn.Module, mix: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.first, self.mix, self.head = first, mix, nn.Conv2d(8, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(self.first(x))))


class BNStem(Stem):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, 8, 3, padding=1), num_classes)


class DWStem(Stem):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        super().__init__(depthwise, nn.Conv2d(in_channels, 8, 1), num_classes)


class Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.full((1, channels, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


class ScaleStem(Stem):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(Scale(in_channels), nn.ConvTranspose2d(in_channels, 8, 3, padding=1), num_classes)


def taxonomy_of(*names):
    return Taxonomy("own", tuple(CropClass(i, name, "00ff00") for i, name in enumerate(names)))


def spec_of(bands=PAPER_BANDS, classes=("background", "maize", "wheat"), **more):
    return DatasetSpec("own", tuple(bands), taxonomy_of(*classes), 10.0, 32, False, **more)


def finished(folder, recipe, bands=PAPER_BANDS, classes=("background", "maize", "wheat"), **more):
    """A run folder with random weights; the network."""
    torch.manual_seed(5)
    net = build_net(recipe, len(bands), len(classes))
    spec = ModelSpec(
        loader="cropseg.learners.network.load",
        model={"net": recipe, "nodata": "fill"},
        bands=tuple(bands),
        taxonomy=taxonomy_of(*classes),
        resolution=10.0,
        patch_size=32,
        simulated=more.pop("simulated", True),
        dataset="source",
        manifest_digest="d" * 64,
        split="location",
        **more,
    )
    NeuralPredictor(net, spec, np.eye(len(classes), dtype=np.int64), 0).save(folder)
    return net


def fresh(recipe, spec, seed=9):
    torch.manual_seed(seed)
    return build_net(recipe, len(spec.bands), len(spec.taxonomy))


@NETS
def test_same_bands_and_classes_give_the_same_network(tmp_path, recipe):
    source = finished(tmp_path / "run", recipe)
    net = fresh(recipe, spec_of())
    found = Init(tmp_path / "run").apply(net, spec_of())
    for (name, a), b in zip(net.state_dict().items(), source.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(p.requires_grad for p in net.parameters())
    assert found["trained_on"] == [
        {"dataset": "source", "manifest_digest": "d" * 64, "split": "location", "dataset_root": ""}
    ]


@NETS
def test_bands_go_by_name_and_a_new_one_changes_nothing_at_first(tmp_path, recipe):
    source = finished(tmp_path / "run", recipe, bands=("B02", "B03", "B04", "B08"))
    spec = spec_of(bands=("B08", "B11", "B04", "B03", "B02"))
    net = fresh(recipe, spec)
    Init(tmp_path / "run").apply(net, spec)
    x = torch.rand(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = torch.stack([x[:, 3], torch.rand(1, 32, 32), x[:, 2], x[:, 1], x[:, 0]], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(moved), source.eval()(x), rtol=1e-4, atol=1e-5)
    net.train()(moved.repeat(2, 1, 1, 1)).square().mean().backward()
    stem = next(p for p in net.parameters() if p.ndim == 4)
    assert stem.grad[:, 1].abs().max() > 0  # the new band learns all the same


@NETS
def test_classes_go_by_name_and_a_new_one_starts_afresh(tmp_path, recipe, capsys):
    source = finished(tmp_path / "run", recipe, classes=("background", "maize", "wheat", "oats"))
    spec = spec_of(classes=("background", "wheat", "hops", "maize", "barley"))
    net, begun = fresh(recipe, spec), fresh(recipe, spec)
    Init(tmp_path / "run").apply(net, spec)
    x = torch.rand(1, 10, 32, 32)
    with torch.no_grad():
        ours, theirs = net.eval()(x), source.eval()(x)
    torch.testing.assert_close(ours[:, [0, 1, 3]], theirs[:, [0, 2, 1]])
    changed = [name for name, t in net.state_dict().items() if t.shape != source.state_dict()[name].shape]
    assert len(changed) == 2
    for name in changed:
        assert torch.equal(net.state_dict()[name][[2, 4]], begun.state_dict()[name][[2, 4]])
    said = " ".join(capsys.readouterr().out.split())
    assert "10 of 10 bands copied; 3 of 5 classes copied; hops, barley afresh; oats dropped" in said


def test_stem_and_head_may_be_one_tensor(tmp_path):
    source = finished(tmp_path / "run", LINEAR, bands=("B02", "B03"), classes=("background", "maize"))
    spec = spec_of(bands=("B04", "B03"), classes=("background", "oats", "maize"))
    net, begun = fresh(LINEAR, spec), fresh(LINEAR, spec)
    Init(tmp_path / "run").apply(net, spec)
    weight = net.conv.weight[..., 0, 0]
    assert torch.equal(weight[[0, 2], 1], source.conv.weight[[0, 1], 1, 0, 0])
    assert not weight[[0, 2], 0].any()
    assert torch.equal(weight[1], begun.conv.weight[1, :, 0, 0])


@pytest.mark.parametrize("kind", [BNStem, DWStem, ScaleStem])
def test_a_new_band_of_a_stem_of_several_layers_changes_nothing_at_first_and_learns(tmp_path, kind):
    recipe = {"_target_": f"{__name__}.{kind.__name__}"}
    source = finished(tmp_path / "run", recipe, bands=("B02", "B03"))
    spec = spec_of(bands=("B03", "B11", "B02"))
    net, begun = fresh(recipe, spec), fresh(recipe, spec)
    Init(tmp_path / "run").apply(net, spec)
    x, new = torch.rand(4, 2, 8, 8), torch.rand(4, 1, 8, 8)
    moved = torch.cat([x[:, 1:], new, x[:, :1]], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(moved), source.eval()(x))
    for name, tensor in net.first.state_dict().items():
        if tensor.ndim:
            axis = 1 if kind is ScaleStem else 0
            expected = begun.first.state_dict()[name].select(axis, 1)
            torch.testing.assert_close(tensor.select(axis, 1), expected, msg=name)
    if kind is BNStem:
        assert net.first.running_var[1] == 1
    start = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):  # the sum's weight first; with it what is before has a gradient
        optimizer.zero_grad()
        nn.functional.cross_entropy(net.train()(moved), torch.randint(3, (4, 8, 8))).backward()
        optimizer.step()
    of_band = {"first.weight": 0, "first.by": 1, "mix.weight": 0 if kind is ScaleStem else 1}
    for name in of_band.keys() & start.keys():
        changed = dict(net.named_parameters())[name].detach() - start[name]
        assert changed.select(of_band[name], 1).abs().max() > 0, name


def test_the_draws_of_the_run_that_begins_stay_its_own(tmp_path):
    finished(tmp_path / "run", UNET)
    net = fresh(UNET, spec_of())
    state = torch.random.get_rng_state()
    Init(tmp_path / "run").apply(net, spec_of())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.slow
def test_the_encoder_of_the_librarys_networks_is_called_so():
    assert encoder_of(build_net(SMP, 3, 2)) == ("net.encoder",)


def test_what_the_encoder_is():
    assert encoder_of(nn.ModuleDict({"backbone": nn.ModuleDict({"encoder": nn.Identity()})})) == ("backbone",)
    assert "bottleneck" in encoder_of(UNet4LevelsGN(3, 2, 8, 4))
    with pytest.raises(ConfigError, match="not known what the encoder is of network: 'Linear'"):
        encoder_of(Linear(3, 2))
    net = UNet4LevelsGN(3, 2, 8, 4)
    frozen = freeze_encoder(net)
    learning = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert learning == {"up0", "up1", "up2", "up3", "head"}
    assert frozen == sum(p.numel() for p in net.parameters() if not p.requires_grad)
    assert not net.bottleneck_dropout.training
    assert net.up0.training


def learner(init, **options):
    return NeuralLearner(
        net=functools.partial(UNet4LevelsGN, base=8, groups=4),
        loss=CrossEntropy(),
        optimizer=functools.partial(torch.optim.Adam, lr=1e-2),
        trainer=functools.partial(L.Trainer, accelerator="cpu", max_epochs=2, log_every_n_steps=1, **QUIET),
        init=init,
        **options,
    )


def test_a_frozen_encoder_stays_as_it_was_and_the_run_remembers_where_it_began(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = taxonomy.load("eurocrops10").names
    source = finished(tmp_path / "run", UNET, classes=names)
    make_dataset(tmp_path / "data", n=5, size=16, simulated=False)
    steps = []
    original = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self, *a, **k: (steps.append(self), original(self, *a, **k))[1]
    )
    seen = []
    watched = UNet4LevelsGN.forward
    monkeypatch.setattr(
        UNet4LevelsGN,
        "forward",
        lambda self, x: (seen.append((self.training, self.bottleneck_dropout.training)), watched(self, x))[1],
    )
    data = CropDataModule(tmp_path / "data", num_workers=0)
    found = learner(Init("latest", freeze_encoder=True, runs=tmp_path)).fit(data, tmp_path / "new")
    encoder = encoder_of(source)
    for name, tensor in found.net.state_dict().items():
        same = torch.equal(tensor.cpu(), source.state_dict()[name])
        assert same == (name.split(".")[0] in encoder), name
    assert len(steps[0].state) == sum(p.requires_grad for p in found.net.parameters())
    assert (True, False) in seen  # dropout of the frozen part is off in training
    assert all(not dropout for _, dropout in seen)
    spec = ModelSpec.from_dict(found.spec.to_dict())
    assert (spec.init_from["run"], spec.init_from["frozen"]) == ("run", True)
    assert [one["manifest_digest"] for one in spec.trained_on] == [data.dataset.digest, "d" * 64]
    assert spec.simulated  # its first weights are of simulated pixels


def test_a_new_band_of_a_frozen_encoder_is_learned(tmp_path):
    finished(tmp_path / "run", UNET, bands=PAPER_BANDS[:9])
    net = fresh(UNET, spec_of())
    Init(tmp_path / "run", freeze_encoder=True).apply(net, spec_of())
    learning = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name for name in learning if name.startswith("down")} == {"down0.0.weight"}


def test_pixels_that_were_read_otherwise_are_told_of(tmp_path, capsys):
    finished(tmp_path / "run", UNET, reading={"boa_offset": "apply", "resampling": "bilinear"})
    for grid, told in (({"boa_offset": "ignore", "resampling": "bilinear"}, True), ({"boa_offset": "apply"}, False)):
        spec = spec_of(provenance={"config": {"grid": grid}})
        Init(tmp_path / "run").apply(fresh(UNET, spec), spec)
        said = " ".join(capsys.readouterr().out.split())
        assert ("boa_offset=ignore instead of apply" in said) == told


def test_runs_are_a_chain(tmp_path):
    earlier = {"dataset": "first", "manifest_digest": "e" * 64, "split": "random", "dataset_root": ""}
    finished(tmp_path / "run", UNET, init_from={"run": "older", "trained_on": [earlier]})
    found = Init(tmp_path / "run").apply(fresh(UNET, spec_of()), spec_of())
    assert [one["dataset"] for one in found["trained_on"]] == ["source", "first"]


def test_what_does_not_fit_is_named(tmp_path):
    finished(tmp_path / "run", UNET)
    spec = spec_of()
    wide = {**UNET, "base": 16}
    with pytest.raises(MismatchError, match=r"other widths.*down0\.0\.weight has \(8, 10, 3, 3\)"):
        Init(tmp_path / "run").apply(fresh(wide, spec), spec)
    with pytest.raises(MismatchError, match=r"is a run of cropseg\.models\.unet4gn.*Linear"):
        Init(tmp_path / "run").apply(fresh(LINEAR, spec), spec)
    finished(tmp_path / "unbiased", {**LINEAR, "bias": False})
    with pytest.raises(MismatchError, match=r"run unbiased lacks 1 weights of this network.*conv\.bias"):
        Init(tmp_path / "unbiased").apply(fresh(LINEAR, spec), spec)
    with pytest.raises(MismatchError, match="shares no band"):
        Init(tmp_path / "run").apply(fresh(UNET, spec_of(bands=("B01",))), spec_of(bands=("B01",)))
    with pytest.raises(InputError, match="no finished run"):
        Init(tmp_path / "nowhere").apply(fresh(UNET, spec), spec)
    with pytest.raises(InputError, match="no finished run in"):
        Init("latest", runs=tmp_path / "nowhere").apply(fresh(UNET, spec), spec)
    with pytest.raises(ConfigError, match="freeze_encoder without init_from"):
        Init(None, freeze_encoder=True).apply(fresh(UNET, spec), spec)
    assert Init(None).apply(fresh(UNET, spec), spec) == {}
    forest = {**storage.read_json(tmp_path / "run" / "spec.json"), "model": {}}
    storage.write_json(tmp_path / "forest" / "spec.json", {**forest, "loader": "cropseg.learners.forest.load"})
    with pytest.raises(MismatchError, match=r"forest is a run of cropseg\.learners\.forest"):
        Init(tmp_path / "forest").apply(fresh(UNET, spec), spec)


def test_what_the_first_run_learned_from_is_no_evaluation_set_of_the_second(tmp_path):
    first = make_dataset(tmp_path / "first", n=5, size=16)
    second = make_dataset(tmp_path / "second", n=5, size=16, seed=1)
    of = {"loader": "cropseg.learners.network.load", "model": {"net": UNET, "nodata": "fill"}, "versions": {}}
    earlier = [dict(one) for one in ModelSpec.of(first, "location", **of).trained_on]
    spec = ModelSpec.of(second, "location", **of, init_from={"run": "first", "trained_on": earlier})
    net = fresh(UNET, first.spec)
    predictor = NeuralPredictor(net, spec, np.eye(11, dtype=np.int64), 0)
    with pytest.raises(MismatchError, match="3 patches that the model was trained on"):
        evaluate(predictor, EvaluationSet("leak", str(tmp_path / "first"), "location", "train"))
    evaluate(predictor, EvaluationSet("fair", str(tmp_path / "first"), "location", "test"))


def composed(*overrides):
    with initialize_config_dir(str(Path(__file__).resolve().parents[2] / "conf"), version_base="1.3"):
        return compose("train", list(overrides))


def test_a_forest_refuses_to_start_from_another_run_by_name():
    for option in ("init_from=latest", "freeze_encoder=true"):
        with pytest.raises(ConfigError, match=f"{option.split('=')[0]} is set but model does not use it"):
            refuse_unused(composed("model=rf_spectral", option), "model", ("init_from", "freeze_encoder"))
    refuse_unused(composed("model=rf_spectral"), "model", ("init_from", "freeze_encoder"))
    cfg = composed("init_from=some/run", "freeze_encoder=true", "paths.runs=elsewhere")
    refuse_unused(cfg, "model", ("init_from", "freeze_encoder"))
    assert instantiate(cfg.model.init) == Init("some/run", freeze_encoder=True, runs="elsewhere")
    assert instantiate(composed().model.init).run is None
