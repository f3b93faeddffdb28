import json
import os
import pkgutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from factory import make_dataset
from fakes import make_run, spec_for
from omegaconf import OmegaConf

from cropseg import metrics
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import open_dataset
from cropseg.predictor import ModelSpec
from cropseg.runs import MOVED, _loader, label, latest_run, open_one, open_run, open_runs, read_history, seed_groups
from cropseg.scores import SIMULATED_NOTE, Evaluation


def evaluation(**changes):
    random = np.random.default_rng(1)
    values = {
        "set": "internal",
        "dataset": "tiny",
        "root": "data/tiny",
        "split": "location",
        "part": "test",
        "manifest_digest": "0" * 64,
        "simulated": True,
        "trained_on_simulated": True,
        "protocol": "all",
        "patches": 3,
        "patch_size": 32,
        "training_patch_size": 32,
        "classes": tuple(f"c{i}" for i in range(11)),
        "confusion": random.integers(0, 2**40, (11, 11)),
    }
    return Evaluation(**{**values, **changes})


def test_a_run_opens_with_all_that_its_folder_holds(tmp_path):
    path = make_run(tmp_path / "a", spec_for(), model="rf_spectral", seed=3)
    run = open_run(path)
    run.store(evaluation())
    run = open_run(path)
    assert run.spec == spec_for()
    assert (run.name, run.model, run.config.seed) == ("a", "rf_spectral", 3)
    assert run.validation["miou_present"] == 0.5
    assert list(run.evaluations) == ["internal"]
    assert run.history["train_loss"].tolist() == [2.5, 1.6]
    assert run.history["val_miou_present"].tolist() == [0.1, 0.2]


def test_a_run_needs_its_spec_alone(tmp_path):
    storage.write_json(tmp_path / "r" / "spec.json", spec_for().to_dict())
    run = open_run(tmp_path / "r")
    assert (run.history, run.validation, run.evaluations, run.model, run.dataset_root) == ({}, {}, {}, "r", None)


@pytest.mark.parametrize(("make", "text"), [(False, "no such run"), (True, "spec.json is missing")])
def test_a_folder_that_is_no_run_is_refused(tmp_path, make, text):
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=text):
        open_run(tmp_path / "x")


@pytest.mark.parametrize("content", ["{", '{"loader": "cropseg.x"}', "[]"])
def test_a_broken_spec_is_one_clear_error(tmp_path, content):
    storage.write_bytes(tmp_path / "r" / "spec.json", content.encode())
    with pytest.raises(InputError, match=r"spec\.json"):
        open_run(tmp_path / "r")


@pytest.mark.parametrize(
    "loader",
    [
        "os.system",
        "cropseg_evil.load",
        "cropseg.core.storage.os.system",
        "cropseg.runs.storage.json.loads",
        "cropseg.nothing.load",
        "cropseg.runs.nothing",
        "cropseg.runs.NOT_OF_A_MODEL",
        "cropseg.learners.folder.clear",
        "cropseg.",
        "",
    ],
)
def test_only_loaders_of_cropseg_are_called(tmp_path, loader):
    run = open_run(make_run(tmp_path / "r", spec_for(loader=loader)))
    with pytest.raises(InputError, match="loader"):
        _ = run.predictor


def test_runs_of_earlier_versions_find_their_loader(tmp_path):
    for name, now in MOVED.items():
        assert open_run(make_run(tmp_path / name, spec_for(loader=name))).loader == now
        assert _loader(now, Path("r")) is pkgutil.resolve_name(now)


def test_latest_is_the_run_that_finished_last_sweeps_included(tmp_path):
    for age, name in enumerate(("old", "sweep/0", "older")):
        spec = make_run(tmp_path / name, spec_for()) / "spec.json"
        os.utime(spec, (1000 - age, 1000 - age if name != "sweep/0" else 2000))
    (tmp_path / "unfinished").mkdir()
    assert latest_run(tmp_path) == tmp_path / "sweep" / "0"
    assert open_one("latest", tmp_path).name == "0"
    with pytest.raises(InputError, match="no finished run"):
        latest_run(tmp_path / "unfinished")


def test_run_may_be_a_path_or_a_list(tmp_path):
    a, b = (str(make_run(tmp_path / name, spec_for())) for name in "ab")
    assert [run.name for run in open_runs(OmegaConf.create([a, b, a]), tmp_path)] == ["a", "b"]
    assert [run.name for run in open_runs(b, tmp_path)] == ["b"]
    for nothing in (None, []):
        with pytest.raises(ConfigError, match="run"):
            open_runs(nothing, tmp_path)
    with pytest.raises(ConfigError, match="one run"):
        open_one([a, b], tmp_path)


def test_history_survives_gaps_and_columns_without_numbers(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,lr,note\n1,0.1,\n0,,x\n1,,\n,5,\n")
    history = read_history(path)
    assert history["epoch"].tolist() == [0, 1]
    np.testing.assert_array_equal(history["lr"], [np.nan, 0.1])
    assert "note" not in history
    assert read_history(tmp_path / "none.csv") == {}


def test_an_evaluation_is_kept_exactly_and_all_scores_come_from_its_matrix(tmp_path):
    first = evaluation(note="n", without_data=5)
    storage.write_json(tmp_path / "e.json", {**first.to_dict(), "of_a_later_version": 1})
    again = Evaluation.from_dict(json.loads((tmp_path / "e.json").read_text()))
    assert again.to_dict() == first.to_dict()
    for protocol in ("all", "crop"):
        np.testing.assert_equal(again.scores(protocol), metrics.scores(first.confusion, protocol))


@pytest.mark.parametrize("broken", [{"confusion": [[1]]}, {"confusion": "x"}, {"patches": None, "classes": None}])
def test_a_broken_evaluation_is_refused(broken):
    with pytest.raises(InputError):
        Evaluation.from_dict({**evaluation().to_dict(), **broken})


def test_what_must_stand_beside_a_score():
    assert evaluation().caveats == (SIMULATED_NOTE,)
    assert evaluation(simulated=False, trained_on_simulated=False).caveats == ()
    real = evaluation(simulated=False, patch_size=64, part="val").caveats
    assert real == (
        "model trained on simulated data, scored on real data",
        "window 64 px, trained on 32 px",
        "part val, not test",
    )


def test_jobs_of_two_sweeps_are_told_apart(tmp_path):
    for sweep in ("x_sweep", "y_sweep"):
        make_run(tmp_path / sweep / "0_unet", spec_for(), model="unet")
        (tmp_path / sweep / "multirun.yaml").write_text("")
    runs = open_runs([str(tmp_path / sweep / "0_unet") for sweep in ("x_sweep", "y_sweep")], tmp_path)
    assert [run.name for run in runs] == ["x_sweep/0_unet", "y_sweep/0_unet"]
    assert [label(run, runs) for run in runs] == ["unet (x_sweep/0_unet)", "unet (y_sweep/0_unet)"]


def test_runs_of_the_same_name_are_told_apart_by_their_path(tmp_path):
    runs = [open_run(make_run(tmp_path / place / "r", spec_for(), model="unet")) for place in "ab"]
    assert len({label(run, runs) for run in runs}) == 2


def test_a_sweep_stands_for_its_finished_jobs_by_their_number(tmp_path, capsys):
    for job in ("10_unet", "9_unet", "0_rf"):
        make_run(tmp_path / "sweep" / job, spec_for(), model=job.split("_")[1])
    (tmp_path / "sweep" / "11_unet" / ".hydra").mkdir(parents=True)
    (tmp_path / "sweep" / "curves").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text("")
    runs = open_runs(str(tmp_path / "sweep"), tmp_path)
    assert [run.path.name for run in runs] == ["0_rf", "9_unet", "10_unet"]
    assert "1 of 4 jobs have not finished and are left out: 11_unet" in " ".join(capsys.readouterr().err.split())
    again = open_runs([str(tmp_path / "sweep"), str(tmp_path / "sweep" / "9_unet")], tmp_path)
    assert [run.path.name for run in again] == ["0_rf", "9_unet", "10_unet"]
    with pytest.raises(ConfigError, match="one run"):
        open_one(str(tmp_path / "sweep"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"spec\.json is missing"):
        open_runs(str(tmp_path / "empty"), tmp_path)


def test_runs_that_differ_in_their_seed_alone_are_a_group(tmp_path):
    def one(name, seed, model="unet", spec=None, **config):
        values = {"seed": seed, "run_dir": str(tmp_path / name), "paths": {"root": name}, "epochs": 2, **config}
        return make_run(tmp_path / name, spec or spec_for(), model=model, **values)

    paths = [
        one("a", 0),
        one("forest", 0, "forest"),
        one("b", 1),
        one("longer", 2, epochs=3),
        one("other_data", 2, spec=spec_for(manifest_digest="1" * 64)),
        one("c", 7),
        one("a_again", 0),
        make_run(tmp_path / "no_seed", spec_for(), model="unet"),
    ]
    groups = seed_groups(open_runs([str(path) for path in paths], tmp_path))
    assert [[run.name for run in group] for group in groups] == [
        ["a", "b", "c"], ["forest"], ["longer"], ["other_data"], ["a_again"], ["no_seed"],
    ]  # fmt: skip


def test_a_run_in_the_present_folder_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(make_run(tmp_path / "r", spec_for()))
    assert open_run(".").name == "r"


def test_the_training_dataset_is_found_from_anywhere(tmp_path, monkeypatch):
    data = make_dataset(tmp_path / "data" / "tiny", n=3, size=16)
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec.of(open_dataset("data/tiny"), "location", loader="cropseg.x", model={}, versions={})
    path = make_run(tmp_path / "r", spec, SimpleNamespace(root="data/tiny"))
    monkeypatch.chdir(path)
    assert open_run(path).dataset_root == data.root.resolve()
    data.root.rename(tmp_path / "moved")
    run = open_run(make_run(tmp_path / "r", spec, SimpleNamespace(root=tmp_path / "moved")))
    assert run.dataset_root == tmp_path / "moved"
