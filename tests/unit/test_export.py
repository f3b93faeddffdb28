"""A network as a file for other programs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cropseg.core import taxonomy
from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError
from cropseg.data.fill import _nearest, _nearest_by_count, model_input
from cropseg.export import WholeModel, compare, export_run, metadata, random_images
from cropseg.learners.network import NeuralPredictor, build_net
from cropseg.predictor import ModelSpec
from cropseg.runs import open_run

TINY = {"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": 4, "groups": 2}


def make_run(folder, net=None, *, window=32, bands=PAPER_BANDS, nodata="fill", loader="cropseg.learners.network.load"):
    classes = taxonomy.load("eurocrops10")
    recipe = net or TINY
    spec = ModelSpec(
        loader=loader,
        model={"net": recipe, "nodata": nodata},
        bands=tuple(bands),
        taxonomy=classes,
        resolution=10.0,
        patch_size=window,
        simulated=True,
        dataset="tiny",
        manifest_digest="0" * 64,
        split="location",
        versions={"commit": "abc"},
    )
    torch.manual_seed(0)
    built = build_net(recipe, spec.bands, len(classes)).eval()
    NeuralPredictor(built, spec, np.eye(len(classes), dtype=np.int64), 0).save(folder)
    return open_run(folder)


def test_nearest_valid_pixel_by_counting_is_the_same():
    random = np.random.default_rng(0)
    for _ in range(200):
        width = int(random.integers(1, 12))
        valid = torch.from_numpy(random.random((2, 3, width)) < random.random())
        col = torch.arange(width).expand_as(valid)
        for one, other in zip(_nearest(valid, col), _nearest_by_count(valid, col), strict=True):
            assert torch.equal(one, other)


def test_random_images_hold_pixels_without_data():
    images = random_images((2, 3, 40, 32), 0)
    assert 0.1 < float((images == 0).any(dim=1).float().mean()) < 0.6
    assert torch.equal(images, images.round())
    assert float(images.max()) < 65535


def test_comparison_finds_a_difference():
    def net(images):
        return images / 10000

    shapes = ((1, 3, 8, 8), (2, 3, 9, 7))
    assert compare(net, net, shapes).holds
    off = compare(net, lambda images: net(images) + 0.01, shapes)
    assert off.difference == pytest.approx(0.01, rel=1e-4)
    assert not off.holds
    assert not compare(net, lambda images: net(images).flip(1), shapes).holds
    assert not compare(net, lambda images: net(images) * float("nan"), shapes).holds
    assert not compare(net, lambda images: net(images)[..., :-1], shapes).holds


@pytest.mark.parametrize("nodata", ["fill", "zero"])
def test_whole_model_is_the_predictor(tmp_path, nodata):
    run = make_run(tmp_path, nodata=nodata)
    images = random_images((2, 10, 32, 40), 1)
    with torch.inference_mode():
        logits = WholeModel(run.predictor.net, nodata)(images)
    np.testing.assert_allclose(
        logits.softmax(dim=1).numpy(), run.predictor.probabilities(images.numpy().astype(np.uint16)), atol=1e-6
    )


def test_metadata_says_what_a_caller_must_know(tmp_path):
    run = make_run(tmp_path)
    same = compare(lambda x: x, lambda x: x, ((1, 3, 8, 8),))
    about = metadata(run.spec, ("batch",), 32, same)
    assert about["bands"] == list(PAPER_BANDS)
    assert len(about["classes"]) == len(about["colors"]) == 11
    assert (about["simulated"], about["commit"], about["training_window"]) == (True, "abc", 32)
    assert about["fixed_window"] == 32
    assert metadata(run.spec, ("batch", "height", "width"), 32, same)["fixed_window"] is None
    assert "offset removed" in about["input"]
    literal = replace(run.spec, reading={"boa_offset": "ignore", "resampling": "nearest"})
    about = metadata(literal, ("batch",), 32, same)
    assert "offset left in" in about["input"]
    assert about["reading"] == {"boa_offset": "ignore", "resampling": "nearest"}


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="choose from"):
        export_run(make_run(tmp_path / "a"), format="tflite")
    forest = make_run(tmp_path / "b", loader="cropseg.learners.forest.load")
    with pytest.raises(ConfigError, match="five times as long"):
        export_run(forest)
    assert not (tmp_path / "a" / "export").exists()


def answers(path, images):
    """What a program that knows nothing of cropseg gets from an exported file, and what the file says."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        told = session.get_modelmeta().custom_metadata_map
        about = {key: json.loads(told[key]) for key in ("bands", "classes", "dynamic_axes", "training_window")}
        return session.run(None, {"images": images})[0], about
    extra = {"cropseg.json": ""}
    program = torch.export.load(path, extra_files=extra)
    with torch.inference_mode():
        return program.module()(torch.from_numpy(images)).numpy(), json.loads(extra["cropseg.json"])


def check_files(run, files, images, dynamic):
    with torch.inference_mode():
        expected = run.predictor.net(model_input(torch.from_numpy(images), run.spec.model["nodata"])[0]).numpy()
    for file in files:
        assert file.dynamic == dynamic
        assert file.check.holds
        got, about = answers(file.path, images)
        np.testing.assert_allclose(got, expected, atol=1e-3 * max(1, np.abs(expected).max()))
        assert about["bands"] == list(run.spec.bands)
        assert about["classes"] == list(run.spec.taxonomy.names)
        assert about["dynamic_axes"] == list(dynamic)
        assert about["training_window"] == run.spec.patch_size


@pytest.mark.slow
def test_papers_network_runs_elsewhere_on_windows_of_any_size(tmp_path, capsys):
    run = make_run(tmp_path, nodata="fill", loader="cropseg.learners.neural.load")  # as earlier versions name it
    files = export_run(run, format="both")
    assert [file.path.name for file in files] == ["model.onnx", "model.pt2"]
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["model.onnx", "model.pt2"]
    images = random_images((2, 10, 50, 35), 5).numpy()
    images[1] = 0  # an image with nothing in it
    check_files(run, files, images, ("batch", "height", "width"))
    assert "same class" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "encoder"),
    [
        ("unet", "resnet18"),
        ("upernet", "resnet18"),  # it cannot leave height and width open in ONNX
        ("unetplusplus", "resnet18"),
        ("deeplabv3plus", "resnet18"),
        ("segformer", "mit_b0"),
    ],
)
def test_library_networks_run_elsewhere(arch, encoder, tmp_path):
    net = {"_target_": "cropseg.models.smp.SmpNet", "arch": arch, "encoder_name": encoder}
    run = make_run(tmp_path, net, window=64)
    files = export_run(run, format="both")
    assert [file.format for file in files] == ["onnx", "torch"]
    for file in files:
        fixed = arch == "upernet" and file.format == "onnx"
        assert file.dynamic == (("batch",) if fixed else ("batch", "height", "width"))
        shape = (2, 10, 70, 45) if "height" in file.dynamic else (1, 10, 64, 64)
        check_files(run, [file], random_images(shape, 5).numpy(), file.dynamic)
