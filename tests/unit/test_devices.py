import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factory import make_dataset
from fakes import Hashed, make_run, spec_for, with_predictor

from cropseg.core.errors import ConfigError
from cropseg.devices import Shared, shared
from cropseg.evaluate import EvaluationSet, evaluate_runs, examine
from cropseg.learners.network import NeuralPredictor, build_net
from cropseg.runs import open_run

TEST_ONLY = {"train": 0.0, "val": 0.0, "test": 1.0}


def network():
    torch.manual_seed(3)
    net = build_net({"_target_": "cropseg.models.unet4gn.UNet4LevelsGN", "base": 4, "groups": 2}, 10, 11)
    return NeuralPredictor(net, spec_for(model={"nodata": "fill"}), np.eye(11, dtype=np.int64), 0)


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def images(n):
    return np.random.default_rng(0).integers(1, 9000, (n, 10, 16, 16), dtype=np.uint16)


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_copies_answer_in_the_order_of_the_images(devices, n):
    alone = network()
    together, batch = shared(alone, devices), images(n)
    assert isinstance(together, Shared)
    np.testing.assert_allclose(together.probabilities(batch), alone.probabilities(batch), atol=1e-6)
    np.testing.assert_array_equal(together.labels(batch), alone.labels(batch))
    labels, confidence = together.classify(batch)
    np.testing.assert_array_equal(labels, alone.labels(batch))
    np.testing.assert_allclose(confidence, alone.classify(batch)[1], atol=1e-6)
    assert (together.spec, together.validation_score) == (alone.spec, alone.validation_score)


def test_each_copy_has_its_share_and_weights_of_its_own():
    copies = network().copies(3)
    assert len({id(copy.net) for copy in copies}) == 3
    seen = [Hashed(spec_for()) for _ in copies]
    assert Shared(seen).labels(images(5)).shape == (5, 16, 16)
    assert [[shape[0] for shape in one.seen] for one in seen] == [[2], [2], [1]]


@pytest.mark.parametrize("tta", [None, "d4"])
def test_scores_do_not_depend_on_the_number_of_devices(tmp_path, tta):
    data = make_dataset(tmp_path, n=7, size=16, nodata=True, ignored=True, parts=TEST_ONLY)
    chosen = EvaluationSet("x", str(data.root), "location")
    (one, details), *others = (examine(shared(network(), n), chosen, 3, tta) for n in (1, 2, 4))
    for other, beside in others:
        np.testing.assert_array_equal(other.confusion, one.confusion)
        assert beside.patches["confusion"].equals(details.patches["confusion"])
        np.testing.assert_array_equal(beside.boundary[0].confusion, details.boundary[0].confusion)


def test_what_cannot_be_shared_is_refused():
    forest = Hashed(spec_for())
    assert shared(forest, 1) is forest
    assert shared(forest, "auto") is forest
    with pytest.raises(ConfigError, match="only a network of ours"):
        shared(forest, 2)
    for wrong in (0, -1, True, 1.5, "all", None):
        with pytest.raises(ConfigError, match="devices"):
            shared(forest, wrong)


def test_as_many_gpus_as_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    net = network()
    assert shared(net, "auto") is net  # it lies on the CPU
    monkeypatch.setattr(net.net, "parameters", lambda: iter([SimpleNamespace(device=torch.device("cuda:1"))]))
    with pytest.raises(ConfigError, match="there are 2 GPUs, fewer than devices: 3"):
        shared(net, 3)
    placed = []
    monkeypatch.setattr(NeuralPredictor, "to", lambda self, name: placed.append(name) or self)
    assert len(net.copies(None)) == len(net.copies(2)) == 2
    assert placed == ["cuda:0", "cuda:0"]  # the other one


def test_a_processor_holds_no_more_copies_than_it_has_cores():
    with pytest.raises(ConfigError, match="there are 4 cores and no GPU, fewer than devices: 1000"):
        shared(network(), 1000)


def test_the_option_is_looked_at_before_a_patch_is_read(tmp_path):
    data = make_dataset(tmp_path / "data", n=3, size=16, parts=TEST_ONLY)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for(), data)), Hashed(spec_for()))
    with pytest.raises(ConfigError, match="devices"):
        evaluate_runs([run], [EvaluationSet("x", str(data.root), "location")], devices="all")
    assert run.predictor.seen == []
