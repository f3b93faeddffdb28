import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from factory import make_dataset, spectra
from fakes import Nearest, make_run, spec_for
from omegaconf import OmegaConf
from onnx import TensorProto, helper, numpy_helper

from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.evaluate import EvaluationSet, evaluate, evaluate_runs
from cropseg.export import export_run
from cropseg.external import Checked, OnnxPredictor, open_models
from cropseg.learners.network import NeuralPredictor, build_net
from cropseg.runs import open_run

TEST_ONLY = {"train": 0.0, "val": 0.0, "test": 1.0}
SPEC = spec_for(patch_size=24, simulated=False)
TOLD = {
    "bands": json.dumps(list(SPEC.bands)),
    "classes": json.dumps(list(SPEC.taxonomy.names)),
    "taxonomy": "eurocrops10",
    "colors": json.dumps([one.color for one in SPEC.taxonomy.classes]),
    "resolution": "10.0",
    "training_window": "24",
    "simulated": "false",
    "dataset": "elsewhere",
    "manifest_digest": "1" * 64,
    "split": "location",
    "versions": "{}",
}


def write_onnx(path, told=TOLD, shape=("n", 10, "h", "w"), classes=11, divisor=1.0):
    """A convolution of one pixel: logits of the class whose spectrum is nearest, by squared distance."""
    known = spectra(11, 10)[:classes] / 1000
    weight = (2 * known / 1000 * divisor)[:, :, None, None].astype(np.float32)
    bias = -(known**2).sum(axis=1).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weight", "bias"], ["logits"])],
        "nearest",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (shape[0], classes, *shape[2:]))],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, told)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), n=5, size=24, nodata=True, ignored=True, parts=TEST_ONLY)


def chosen(dataset, **changes):
    return EvaluationSet(**{"name": "x", "root": str(dataset.root), "split": "location", **changes})


class Squared(Nearest):
    """The same model as the file, without ONNX."""

    def probabilities(self, images):
        known = spectra(11, 10) / 1000
        pixels = np.moveaxis(images.astype(np.float64) / 1000, 1, -1)
        logits = 2 * pixels @ known.T - (known**2).sum(axis=1)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.moveaxis(shares / shares.sum(axis=-1, keepdims=True), -1, 1).astype(np.float32)


def test_an_onnx_file_scores_as_its_model_and_is_stored_beside_it(dataset, tmp_path, capsys):
    path = write_onnx(tmp_path / "model.onnx")
    (run,) = open_models(str(path), tmp_path)
    assert run.spec.bands == SPEC.bands
    assert run.spec.taxonomy.colors == SPEC.taxonomy.colors
    (result,) = evaluate_runs([run], [chosen(dataset)], batch_size=3)
    np.testing.assert_array_equal(result.confusion, evaluate(Squared(SPEC), chosen(dataset)).confusion)
    assert result.scores("all")["pixel_accuracy"] > 0.99
    stored = json.loads((tmp_path / "model.evaluation" / "x.json").read_text())
    assert stored["confusion"] == result.confusion.tolist()
    assert stored["shared_ground"] is None
    assert "leakage cannot be told" in stored["note"]
    assert "leakage cannot be told" in " ".join(capsys.readouterr().out.split())
    (again,) = open_models([str(path)], tmp_path)
    assert set(again.evaluations) == {"x"}


def test_probabilities_and_fixed_sizes(dataset, tmp_path):
    images = np.stack([dataset.image(row) for row in range(5)])
    open_axes = OnnxPredictor(write_onnx(tmp_path / "a.onnx")).probabilities(images)
    np.testing.assert_allclose(open_axes, Squared(SPEC).probabilities(images), atol=2e-3)
    fixed = OnnxPredictor(write_onnx(tmp_path / "b.onnx", shape=(2, 10, 24, 24)))
    np.testing.assert_allclose(fixed.probabilities(images), open_axes, atol=1e-6)
    with pytest.raises(MismatchError, match="takes windows of"):
        fixed.labels(images[:, :, :20])
    divided = write_onnx(tmp_path / "c.onnx", divisor=10000)
    np.testing.assert_allclose(OnnxPredictor(divided, divisor=10000).probabilities(images), open_axes, atol=2e-3)


def test_a_file_that_tells_nothing_can_be_told_of(dataset, tmp_path):
    path = write_onnx(tmp_path / "foreign.onnx", told={})
    with pytest.raises(InputError, match=r"does not tell: \['bands', 'classes', 'resolution', 'training_window'\]"):
        open_models(str(path), tmp_path)
    config = {"_target_": "cropseg.external.OnnxPredictor", "path": str(path), "bands": list(SPEC.bands)}
    config |= {"taxonomy": "eurocrops10", "resolution": 10, "window": 24}
    (run,) = open_models(OmegaConf.create(config), tmp_path, tmp_path / "there")
    assert evaluate_runs([run], [chosen(dataset)])[0].scores("all")["pixel_accuracy"] > 0.99
    assert (tmp_path / "there" / "x.json").is_file()
    with pytest.raises(MismatchError, match="10 bands"):
        OnnxPredictor(path, bands=SPEC.bands[:3], taxonomy="eurocrops10", resolution=10, window=24)


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ({"bands": json.dumps([*SPEC.bands[1:], SPEC.bands[0]])}, MismatchError, "other bands than dataset"),
        ({"classes": json.dumps([*SPEC.taxonomy.names[:-1], "grass"])}, MismatchError, "other classes than dataset"),
        ({"resolution": "20.0"}, MismatchError, "other resolution"),
        ({"classes": json.dumps(["background", "maize"])}, MismatchError, "11 classes"),
        ({"bands": "B02,B03"}, InputError, "metadata"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_differs(dataset, tmp_path, told, error, message):
    path = write_onnx(tmp_path / "m.onnx", told={**TOLD, **told})
    with pytest.raises(error, match=message):
        evaluate_runs(open_models(str(path), tmp_path), [chosen(dataset)])


def test_broken_files_are_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_models(str(tmp_path / "gone.onnx"), tmp_path)
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match="no ONNX model"):
        open_models(str(tmp_path / "junk.onnx"), tmp_path)


class Theirs:
    """What somebody else wrote: a spec and two methods, nothing of ours inherited."""

    def __init__(self, wrong=""):
        self.spec = dataclasses.replace(SPEC, dataset="", manifest_digest="", split="")
        self._wrong = wrong

    def probabilities(self, images):
        found = Squared(self.spec).probabilities(images)
        if self._wrong == "nan":
            found[0, 0, 0, 0] = np.nan
        return found[:, :5] if self._wrong == "shape" else found

    def labels(self, images):
        labels = self.probabilities(images).argmax(axis=1)
        return {"float": labels * 1.0, "range": labels + 9, "size": labels[:, 1:]}.get(self._wrong, labels)


def test_any_target_that_predicts_is_scored(dataset, tmp_path, capsys):
    config = {"_target_": f"{__name__}.Theirs"}
    with pytest.raises(ConfigError, match="out=<folder>"):
        open_models(config, tmp_path)
    (run,) = open_models(config, tmp_path, tmp_path / "out")
    results = evaluate_runs([run], [chosen(dataset)], tta="d4")
    assert results[0].scores("all")["pixel_accuracy"] > 0.99
    assert (tmp_path / "out" / "x+d4.json").is_file()
    assert run.name == "Theirs"
    run.release()
    assert run.predictor.labels(np.ones((1, 10, 8, 8), np.uint16)).shape == (1, 8, 8)
    assert "leakage cannot be told" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigError, match="does not tell where its dataset lies"):
        evaluate_runs([run], [chosen(dataset, root=None)])


@pytest.mark.parametrize("wrong", ["float", "range", "size", "shape", "nan"])
def test_answers_of_others_are_looked_at(wrong):
    images = np.ones((2, 10, 8, 8), np.uint16)
    model = Checked(Theirs(wrong), "theirs")
    with pytest.raises(MismatchError, match="theirs gives"):
        model.probabilities(images) if wrong in ("shape", "nan") else model.labels(images)


def test_what_is_no_predictor_is_refused(tmp_path):
    for config, message in (
        ({"_target_": "builtins.dict"}, "is no predictor"),
        ({"path": "x"}, "needs _target_"),
        ({"_target_": f"{__name__}.Unsaid"}, "must be a ModelSpec"),
        ([], "run names nothing"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_models(config, tmp_path, tmp_path)


class Unsaid(Theirs):
    def __init__(self):
        self.spec = {"bands": 10}


def test_runs_files_and_targets_stand_in_one_list(dataset, tmp_path):
    folder = make_run(tmp_path / "run", SPEC, dataset)
    path = write_onnx(tmp_path / "m.onnx")
    found = open_models([str(folder), str(path)], tmp_path)
    assert [run.name for run in found] == ["run", "m.onnx"]
    assert found[0].results == folder / "evaluation"
    with pytest.raises(ConfigError, match="out= holds the results of one model"):
        open_models([str(folder), str(path)], tmp_path, tmp_path / "out")
    (moved,) = open_models(str(folder), tmp_path, tmp_path / "out")
    assert moved.results == tmp_path / "out"
    assert open_run(folder).results_in is None


@pytest.mark.slow
def test_an_exported_network_scores_as_its_run(tmp_path):
    torch.manual_seed(0)
    data = make_dataset(tmp_path / "data", n=10, size=32, nodata=True)
    recipe = {"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": 4, "groups": 2}
    settings = {"loader": "cropseg.learners.network.load", "model": {"net": recipe, "nodata": "fill"}}
    net = build_net(recipe, data.spec.bands, len(data.spec.taxonomy)).eval()
    NeuralPredictor(net, spec_for(data, **settings), np.eye(11, dtype=np.int64), 0).save(tmp_path / "run")
    run = open_run(tmp_path / "run")
    export_run(run, format="onnx")
    (file,) = open_models(str(tmp_path / "run" / "export" / "model.onnx"), tmp_path)
    here = chosen(data)
    mine, theirs = evaluate(run.predictor, here), evaluate(file.predictor, here)
    assert np.abs(mine.confusion - theirs.confusion).sum() <= 0.002 * mine.confusion.sum()
    assert file.spec.split == run.spec.split
    # The file carries the digest of its dataset, so its own training patches are refused.
    with pytest.raises(MismatchError, match="that the model was trained on"):
        evaluate(file.predictor, chosen(data, part="train"))
