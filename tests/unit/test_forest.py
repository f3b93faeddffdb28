"""Sampling, learning, storing and predicting with forests."""

import dataclasses
import json
import weakref
import zipfile

import numpy as np
import pytest
import skops.io
from factory import make_dataset
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from torch import nn

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import Dataset, open_dataset
from cropseg.data.few_labels import with_few_labels
from cropseg.evaluate import EvaluationSet, examine
from cropseg.learners.forest import ForestPredictor, load
from cropseg.learners.forest_learner import ForestLearner
from cropseg.metrics import scores
from cropseg.models.forest import Features, Sampling, draw
from cropseg.predictor import ModelSpec

SPATIAL = {"context": ("B04", "B08", "B11", "B12"), "windows": (5, 11)}


class Data:
    """What a learner is given, without a loader."""

    def __init__(self, dataset, split="location"):
        self.root, self.split = dataset.root, split

    def setup(self, stage=None):
        self.dataset = open_dataset(self.root)
        self.parts = self.dataset.parts(self.split)

    def train_weights(self):
        return None


class Tracker(Logger):
    name, version = "mine", ""

    def __init__(self):
        super().__init__()
        self.seen, self.status, self.told = [], None, None

    def log_hyperparams(self, params):
        self.told = params

    def log_metrics(self, metrics, step=None):
        self.seen.append((metrics, step))

    def finalize(self, status):
        self.status = status


def learner(seed=0, *, trees=8, jobs=2, per_class=2000, per_patch=200, **options):
    forest = RandomForestClassifier(
        trees, bootstrap=True, max_samples=0.8, max_depth=12, n_jobs=jobs, random_state=seed
    )
    return ForestLearner(forest, Sampling(per_class, per_patch, seed), **options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("forest") / "data", n=10, size=24, nodata=True, ignored=True)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return learner(**SPATIAL).fit(Data(dataset), folder), folder


def images(dataset):
    return np.stack([dataset.image(row) for row in range(len(dataset))])


def test_draw_keeps_both_caps_and_takes_what_there_is(dataset):
    rows = np.arange(len(dataset))
    samples = draw(dataset, rows, Features(dataset.spec.bands), Sampling(60, 25, 0))
    usable = np.zeros((len(dataset), 11), int)
    for row in rows:
        mask, valid = dataset.mask(row), (dataset.image(row) != 0).all(axis=0)
        usable[row] = np.bincount(mask[valid & (mask != 255)], minlength=11)
    expected = np.minimum(np.minimum(usable, 25).sum(axis=0), 60)
    assert samples.pixels == tuple(expected)
    assert tuple(np.bincount(samples.y, minlength=11)) == samples.pixels
    assert all(n * 25 >= p for n, p in zip(samples.patches, samples.pixels, strict=True))


def test_each_drawn_pixel_is_a_labelled_one_with_data_and_none_comes_twice(tmp_path):
    dataset = make_dataset(tmp_path, n=4, size=16, nodata=True, ignored=True, noise=200)
    features = Features(dataset.spec.bands)
    samples = draw(dataset, np.arange(4), features, Sampling(10_000, 10_000, 3))
    known = []
    for row in range(4):
        x, mask = features.compute(dataset.image(row)), dataset.mask(row).ravel()
        keep = (mask != 255) & (dataset.image(row) != 0).all(axis=0).ravel()
        known += [(int(label), *pixel) for label, pixel in zip(mask[keep], x[keep].tolist(), strict=True)]
    drawn = [(int(label), *pixel) for label, pixel in zip(samples.y, samples.x.tolist(), strict=True)]
    assert sorted(drawn) == sorted(known)


def test_the_order_of_rows_and_manifest_does_not_matter(dataset):
    features, sampling = Features(dataset.spec.bands), Sampling(50, 10, 5)
    rows = np.array([0, 2, 3, 7, 8])
    first = draw(dataset, rows, features, sampling)
    order = np.random.default_rng(0).permutation(len(dataset))
    turned = dataclasses.replace(dataset, manifest=dataset.manifest.take(order))
    second = draw(turned, np.flatnonzero(np.isin(order, rows))[::-1], features, sampling)
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.y, second.y)
    other = draw(dataset, rows, features, Sampling(50, 10, 6))
    assert not np.array_equal(first.x, other.x)


def test_full_classes_are_not_read_further(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path, n=12, size=16)
    opened = []
    real = Dataset.image
    monkeypatch.setattr(Dataset, "image", lambda self, row: opened.append(row) or real(self, row))
    draw(dataset, np.arange(12), Features(dataset.spec.bands), Sampling(1, 1, 0))
    assert 0 < len(opened) < 12
    assert len(set(opened)) == len(opened)


def test_drawing_and_validating_hold_one_patch_at_a_time(tmp_path, monkeypatch):
    dataset = make_dataset(tmp_path, n=12, size=16)
    features, alive, most = Features(dataset.spec.bands, **SPATIAL), [], []
    real = Dataset.image

    def image(self, row):
        most.append(sum(ref() is not None for ref in alive))
        found = real(self, row)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Dataset, "image", image)
    draw(dataset, np.arange(12), features, Sampling(10_000, 10_000, 0))
    assert len(most) == 12
    assert max(most) <= 1  # the one before, until the next has taken its name
    alive.clear()
    most.clear()
    learner(trees=2).fit(Data(dataset), tmp_path / "run")
    assert max(most) <= 1


def test_a_share_of_the_parcels_is_what_a_forest_draws_from(dataset):
    rows = dataset.parts("location")["train"]
    fewer, left = with_few_labels(dataset, rows, 0.5, seed=1)
    caps = Sampling(10_000, 10_000, 0)
    features = Features(dataset.spec.bands)
    few, whole = draw(fewer, left, features, caps), draw(dataset, rows, features, caps)
    expected = np.zeros(11, int)
    for row in left:
        labels = fewer.mask(row)[(dataset.image(row) != 0).all(axis=0)]
        expected += np.bincount(labels[labels != 255], minlength=11)
    assert few.pixels == tuple(expected)
    assert all(a <= b for a, b in zip(few.pixels, whole.pixels, strict=True))
    assert sum(few.pixels) < sum(whole.pixels)


def test_a_run_on_a_share_of_the_parcels_says_so(dataset, tmp_path):
    data = Data(dataset)
    data.setup()
    data.setup = lambda stage=None: None
    data.dataset, data.parts["train"] = with_few_labels(data.dataset, data.parts["train"], 0.5, seed=1)
    predictor = learner(trees=2).fit(data, tmp_path)
    assert predictor.spec.labels["fraction"] == 0.5
    assert ModelSpec.from_dict(json.loads((tmp_path / "spec.json").read_text())).labels == predictor.spec.labels


def test_fewer_than_two_classes_are_refused(tmp_path):
    dataset = make_dataset(tmp_path, n=3, size=8, parts={"train": 0.4, "val": 0.3, "test": 0.3})
    for row in range(3):
        path = dataset.root / dataset.manifest["mask"][row].as_py()
        np.save(path, np.where(dataset.mask(row) == 0, 0, 255).astype(np.uint8))
    with pytest.raises(InputError, match="fewer than two classes"):
        draw(dataset, np.arange(3), Features(dataset.spec.bands), Sampling(10, 10, 0))


@pytest.mark.parametrize("caps", [(0, 1), (1, 0)])
def test_caps_are_at_least_one(caps):
    with pytest.raises(ConfigError, match="sampling"):
        Sampling(*caps, 0)


def test_a_run_folder_is_complete_and_loads_to_the_same_predictor(run, dataset):
    predictor, folder = run
    names = {
        "forest.skops",
        "spec.json",
        "validation.json",
        "importances.json",
        "metrics.csv",
        "hardware.json",
        "panels",
    }
    assert {path.name for path in folder.iterdir()} == names
    spec = ModelSpec.from_dict(json.loads((folder / "spec.json").read_text()))
    assert spec.loader == "cropseg.learners.forest.load"
    assert spec.manifest_digest == dataset.digest
    assert spec.simulated
    again = load(folder, spec)
    np.testing.assert_array_equal(again.labels(images(dataset)), predictor.labels(images(dataset)))
    assert again.validation_score == predictor.validation_score
    importances = json.loads((folder / "importances.json").read_text())["features"]
    assert [entry["name"] for entry in importances] == list(predictor.features.names)
    assert sum(entry["importance"] for entry in importances) == pytest.approx(1)
    header, row, *rest = (folder / "metrics.csv").read_text().splitlines()
    assert rest == []
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(values["val_miou_present"]) == predictor.validation_score


def test_the_validation_score_is_read_off_the_confusion_of_the_validation_part(run, dataset):
    predictor, folder = run
    stored = json.loads((folder / "validation.json").read_text())
    truth, guess = [], []
    for row in dataset.parts("location")["val"]:
        keep = (dataset.image(row) != 0).all(axis=0) & (dataset.mask(row) != 255)
        truth.append(dataset.mask(row)[keep])
        guess.append(predictor.labels(dataset.image(row)[None])[0][keep])
    expected = np.zeros((11, 11), int)
    np.add.at(expected, (np.concatenate(truth), np.concatenate(guess)), 1)
    assert stored["confusion"] == expected.tolist()
    assert stored["miou_present"] == scores(expected, "all")["miou_present"] == predictor.validation_score


def test_predictions_are_scikit_learns_and_do_not_hang_on_cores_or_batches(run, dataset, monkeypatch):
    predictor, _ = run
    pixels = images(dataset)
    x = np.concatenate([predictor.features.compute(image) for image in pixels])
    alone = RandomForestClassifier().set_params(**predictor.forest.get_params())
    alone.__dict__.update(predictor.forest.__dict__, n_jobs=1)
    votes = alone.predict_proba(x).reshape(len(pixels), 24, 24, -1)
    labels = predictor.labels(pixels)
    np.testing.assert_array_equal(labels.ravel(), alone.predict(x))
    found = predictor.probabilities(pixels)
    np.testing.assert_array_equal(found[:, alone.classes_], np.moveaxis(votes, 3, 1).astype(np.float32))
    for block, batch, jobs in ((7, 24 * 24 * 3, 3), (10**6, 1, 1)):
        monkeypatch.setattr("cropseg.learners.forest.BLOCK", block)
        monkeypatch.setattr("cropseg.learners.forest.BATCH", batch)
        monkeypatch.setattr(predictor.forest, "n_jobs", jobs)
        np.testing.assert_array_equal(predictor.probabilities(pixels[:4]), found[:4])
        np.testing.assert_array_equal(predictor.labels(pixels[:4]), labels[:4])


def test_a_set_is_scored_the_same_on_any_number_of_cores(run, dataset, monkeypatch):
    predictor, _ = run
    chosen, found = EvaluationSet("x", str(dataset.root), "location"), []
    for jobs, batch_size in ((1, 3), (2, 1), (3, 7), (2, 2)):
        monkeypatch.setattr(predictor.forest, "n_jobs", jobs)
        offered = predictor.side_by_side(batch_size)
        assert (offered and offered.threads) == (jobs if jobs > 1 and batch_size >= jobs else None)
        found.append(examine(predictor, chosen, batch_size))
    for one, details in found[1:]:
        np.testing.assert_array_equal(one.confusion, found[0][0].confusion)
        assert details.patches["confusion"].equals(found[0][1].patches["confusion"])
        np.testing.assert_array_equal(details.reliability["all"].confidence, found[0][1].reliability["all"].confidence)


def test_classes_absent_from_training_keep_their_place_and_get_nothing(run, dataset, capsys):
    predictor, _ = run
    absent = sorted(set(range(11)) - set(predictor.forest.classes_.tolist()))
    assert absent  # the small dataset lacks some
    found = predictor.probabilities(images(dataset)[:2])
    assert found.shape == (2, 11, 24, 24)
    assert found.dtype == np.float32
    assert (found[:, absent] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert not np.isin(predictor.labels(images(dataset)), absent).any()
    learner(trees=2).fit(Data(dataset), run[1].parent / "absent")
    assert dataset.spec.taxonomy.names[absent[0]] in capsys.readouterr().err


def test_an_image_of_nothing_but_no_data_is_predicted_too(run):
    found = run[0].labels(np.zeros((1, 10, 5, 7), np.uint16))
    assert found.shape == (1, 5, 7)
    assert (found <= 10).all()


def test_an_empty_batch_gives_an_empty_answer(run):
    assert run[0].labels(np.zeros((0, 10, 5, 7), np.uint16)).shape == (0, 5, 7)


def test_a_seed_gives_the_same_forest_on_any_number_of_cores(dataset, tmp_path):
    first = learner(4, jobs=1).fit(Data(dataset), tmp_path / "a")
    second = learner(4, jobs=2).fit(Data(dataset), tmp_path / "b")
    other = learner(5, jobs=2).fit(Data(dataset), tmp_path / "c")
    a, b, c = (p.probabilities(images(dataset)) for p in (first, second, other))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    for name in ("validation.json", "importances.json", "metrics.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_learner_can_be_used_twice(dataset, tmp_path):
    mine = learner(1, trees=3)
    first, second = (mine.fit(Data(dataset), tmp_path / name) for name in ("a", "b"))
    assert first.forest is not second.forest
    assert first.validation_score == second.validation_score


def test_trackers_get_the_scores_and_are_closed(dataset, tmp_path):
    tracker = Tracker()
    predictor = learner(trees=3, logger={"mine": tracker}).fit(Data(dataset), tmp_path)
    ((metrics, step),) = tracker.seen
    assert step == 0
    assert metrics["val_miou_present"] == predictor.validation_score
    assert tracker.status == "success"
    assert tracker.told["data"]["manifest_digest"] == dataset.digest


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_part_is_named(part, tmp_path):
    parts = {"train": {"val": 0.5, "test": 0.5}, "val": {"train": 0.5, "test": 0.5}}[part]
    dataset = make_dataset(tmp_path / "data", n=4, size=8, parts=parts)
    with pytest.raises(InputError, match=part):
        learner(trees=2).fit(Data(dataset), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{}, SPATIAL], ids=["spectral", "spatial"])
def test_it_beats_the_majority_class_on_held_out_ground(dataset, tmp_path, options):
    predictor = learner(**options).fit(Data(dataset), tmp_path)
    support = predictor.confusion.sum(axis=1)
    assert scores(predictor.confusion)["pixel_accuracy"] > support.max() / support.sum() + 0.1


def test_shuffled_labels_score_at_chance(tmp_path):
    dataset = make_dataset(tmp_path / "data", n=10, size=24, shuffle_labels=True)
    predictor = learner(per_patch=50).fit(Data(dataset), tmp_path / "run")
    counts = predictor.confusion / predictor.confusion.sum()
    chance = float(counts.sum(axis=1) @ counts.sum(axis=0))
    assert abs(float(np.trace(counts)) - chance) < 0.03


def test_an_injected_shift_lowers_the_score(run, dataset):
    predictor, _ = run
    truth = np.stack([dataset.mask(row) for row in range(len(dataset))])
    pixels = images(dataset)
    keep = (truth != 255) & (pixels != 0).all(axis=1)
    shifted = np.where(pixels > 0, pixels + np.uint16(800), pixels).astype(np.uint16)
    right, wrong = (float((predictor.labels(x) == truth)[keep].mean()) for x in (pixels, shifted))
    assert wrong < right - 0.1


def test_images_of_other_bands_are_refused(run):
    with pytest.raises(InputError, match="images must be"):
        run[0].labels(np.ones((1, 9, 4, 4), np.uint16))


def test_a_context_that_the_dataset_lacks_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="B01"):
        learner(context=("B01",), windows=(5,)).fit(Data(dataset), tmp_path)


def copy(run, folder):
    for path in (one for one in run[1].iterdir() if one.is_file()):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", None])
def test_a_missing_or_broken_file_is_named(run, tmp_path, content):
    folder = copy(run, tmp_path)
    (folder / "forest.skops").unlink()
    if content is not None:
        (folder / "forest.skops").write_bytes(content)
    with pytest.raises(InputError, match=r"forest\.skops"):
        load(folder, run[0].spec)


def test_a_file_cut_short_is_named(run, tmp_path):
    path = copy(run, tmp_path) / "forest.skops"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"forest\.skops"):
        load(tmp_path, run[0].spec)


@pytest.mark.parametrize(
    "thing", [{"a": 1}, ExtraTreesClassifier(2).fit([[0.0], [1.0]], [0, 1])], ids=["dict", "other"]
)
def test_anything_but_a_forest_is_refused(run, tmp_path, thing):
    skops.io.dump(thing, copy(run, tmp_path) / "forest.skops")
    with pytest.raises(InputError, match="forest"):
        load(tmp_path, run[0].spec)


def test_types_that_a_forest_does_not_have_are_refused(run, tmp_path):
    sly = RandomForestClassifier(2, max_depth=2).fit(np.eye(26, dtype=np.float32), [0, 1] * 13)
    sly.note = json.JSONEncoder()
    skops.io.dump(sly, copy(run, tmp_path) / "forest.skops")
    with pytest.raises(InputError, match="types"):
        load(tmp_path, run[0].spec)


@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
def test_a_forged_tree_is_refused_before_it_is_walked(run, tmp_path, field):
    sly = RandomForestClassifier(2, random_state=0).fit(np.random.default_rng(0).random((50, 26)), [0, 1] * 25)
    state = sly.estimators_[1].tree_.__getstate__()
    state["nodes"][field][0] = 10**6
    sly.estimators_[1].tree_.__setstate__(state)
    skops.io.dump(sly, copy(run, tmp_path) / "forest.skops", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="broken tree"):
        load(tmp_path, run[0].spec)


def test_a_forest_of_another_run_is_refused(run, dataset, tmp_path):
    spectral = learner(trees=2).fit(Data(dataset), tmp_path / "spectral")
    with pytest.raises(InputError, match="not of one run"):
        ForestPredictor(spectral.forest, run[0].spec)


@pytest.mark.parametrize(("model", "count"), [("rf_spectral", 10), ("rf_spatial", 26)])
def test_the_configs_compose_to_the_papers_forests(repo, tmp_path, model, count):
    options = [f"model={model}", f"run_dir={tmp_path}", "seed=3"]
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        cfg, silent = compose("train", options), compose("train", [*options, "logger=none"])
    assert cfg.get("loss") is None
    assert cfg.get("trainer") is None
    assert cfg.get("callbacks") is None
    assert list(cfg.model.logger) == ["csv"]
    built = instantiate(silent.model)  # without trackers, whose import takes long
    assert isinstance(built, ForestLearner)
    assert built.sampling.seed == built.forest.random_state == 3
    assert built.forest.bootstrap
    assert built.forest.max_samples == 0.8
    assert len(Features(PAPER_BANDS, built.context, built.windows).names) == count


def test_estimators_that_are_no_trees_and_classes_that_the_run_lacks_are_refused(run, tmp_path):
    folder = copy(run, tmp_path)
    x = np.random.default_rng(0).random((50, 26))
    sly = RandomForestClassifier(2, max_depth=2, random_state=0).fit(x, [0, 1] * 25)
    sly.estimators_[1] = 1
    skops.io.dump(sly, folder / "forest.skops")
    with pytest.raises(InputError, match="broken tree"):
        load(folder, run[0].spec)
    sly = RandomForestClassifier(2, max_depth=2, random_state=0).fit(x, [0, 11] * 25)
    skops.io.dump(sly, folder / "forest.skops")
    with pytest.raises(InputError, match="taxonomy lacks"):
        load(folder, run[0].spec)


def test_values_that_scikit_learn_refuses_are_named_by_their_group(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.forest is refused.*n_estimators"):
        learner(trees=0).fit(Data(dataset), tmp_path)


@pytest.mark.parametrize("value", [1.5, "abc", None, True, float("nan")])
def test_caps_are_whole_numbers(value):
    for name in ("per_class", "per_class_and_patch"):
        with pytest.raises(ConfigError, match=rf"model\.sampling\.{name} of the forest\b.*whole number"):
            Sampling(**{"per_class": 10, "per_class_and_patch": 10, "seed": 0, name: value})


@pytest.mark.parametrize("value", [5, None, "abc"])
def test_bands_and_windows_are_lists(value):
    for name in ("context", "windows"):
        with pytest.raises(ConfigError, match=rf"model\.{name} of the forest must be a list"):
            learner(**{**SPATIAL, name: value})


def test_another_kind_of_model_is_refused():
    for forest in (RandomForestRegressor(), ExtraTreesClassifier(), None):
        with pytest.raises(ConfigError, match=r"model\.forest is no forest of classes: .*RandomForestClassifier"):
            ForestLearner(forest, Sampling(10, 10, 0))


def test_what_is_no_tracker_is_refused_before_training(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"logger\.csv is no logger: 'Identity'\. choose one from conf/logger"):
        learner(logger={"csv": nn.Identity()}).fit(Data(dataset), tmp_path / "run")
    assert not (tmp_path / "run").exists()
