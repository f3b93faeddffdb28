import dataclasses
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import shapely
import sklearn.metrics
from factory import make_dataset
from fakes import Hashed, Majority, Nearest, make_run, spec_for, with_predictor
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from cropseg.core import storage
from cropseg.core.errors import ConfigError, CropsegError, InputError, MismatchError
from cropseg.evaluate import EvaluationSet, evaluate, evaluate_runs
from cropseg.ground import refuse_trained, shared_ground, training_parts
from cropseg.runs import open_run
from cropseg.scores import SIMULATED_NOTE

TEST_ONLY = {"train": 0.0, "val": 0.0, "test": 1.0}
RANDOM_PLACES = np.random.default_rng(3).uniform(0, 5, (2, 8, 2))


def _with_footprints(manifest, boxes):
    column = pa.array([box.wkb for box in boxes], pa.binary())
    return manifest.set_column(manifest.schema.get_field_index("geometry"), "geometry", column)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), n=9, size=24, nodata=True, ignored=True, parts=TEST_ONLY)


def chosen(dataset, **changes):
    return EvaluationSet(**{"name": "x", "root": str(dataset.root), "split": "location", **changes})


@pytest.mark.parametrize("make", [Nearest, Majority, Hashed])
def test_scores_equal_scikit_learn_on_all_pixels_at_once(dataset, make):
    predictor = make(spec_for(simulated=False, patch_size=24))
    result = evaluate(predictor, chosen(dataset), batch_size=4)
    rows = range(len(dataset))
    images = np.stack([dataset.image(row) for row in rows])
    truth = np.stack([dataset.mask(row) for row in rows])
    keep = (truth != 255) & (images != 0).all(axis=1)
    flat_truth, flat_prediction = truth[keep], predictor.labels(images)[keep]
    matrix = sklearn.metrics.confusion_matrix(flat_truth, flat_prediction, labels=range(11))
    np.testing.assert_array_equal(result.confusion, matrix)
    assert result.confusion.dtype == np.int64
    assert result.scores("all")["pixel_accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(flat_truth, flat_prediction)
    )
    assert result.scores("all")["miou_union"] == pytest.approx(
        sklearn.metrics.jaccard_score(flat_truth, flat_prediction, average="macro")
    )
    crops = flat_truth != 0
    assert result.scores("crop")["pixel_accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(flat_truth[crops], flat_prediction[crops])
    )
    assert result.without_label == (truth == 255).sum()
    assert result.without_label + result.without_data + result.confusion.sum() == truth.size


def test_the_right_answer_scores_one_and_the_majority_its_share(dataset):
    right = evaluate(Nearest(spec_for()), chosen(dataset)).scores("all")
    assert right["pixel_accuracy"] == right["miou_present"] == 1.0
    majority = evaluate(Majority(spec_for(), 3), chosen(dataset)).scores("all")
    assert majority["pixel_accuracy"] == pytest.approx(majority["support"][3] / sum(majority["support"]))


@pytest.mark.parametrize("key", ["name", "root", "split", "note", "made_by"])
def test_words_of_a_set_are_words(dataset, key):
    with pytest.raises(ConfigError, match=f"{key} of an evaluation set must be a word"):
        chosen(dataset, **{key: [1]})


@pytest.mark.parametrize("batch_size", [1, 2, 9, 100])
def test_scores_do_not_depend_on_batch_size(dataset, batch_size):
    predictor = Hashed(spec_for())
    result = evaluate(predictor, chosen(dataset), batch_size)
    np.testing.assert_array_equal(result.confusion, evaluate(Hashed(spec_for()), chosen(dataset)).confusion)
    assert max(shape[0] for shape in predictor.seen) == min(batch_size, 9)
    with pytest.raises(ConfigError, match="batch_size"):
        evaluate(predictor, chosen(dataset), 0)


def test_memory_does_not_grow_with_the_number_of_patches(tmp_path):
    # More than the batches that are read ahead and wait to be counted.
    few, many = (make_dataset(tmp_path / str(n), n=n, size=32, parts=TEST_ONLY) for n in (12, 36))
    evaluate(Majority(spec_for()), chosen(few), batch_size=2)  # whatever is imported on first use
    peaks = []
    for data in (few, many):
        tracemalloc.start()
        evaluate(Majority(spec_for()), chosen(data), batch_size=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 200_000


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bands": ("B02", "B03")}, "bands"),
        ({"resolution": 20.0}, "resolution"),
        ({"taxonomy": "fewer"}, "classes"),
    ],
)
def test_a_set_that_does_not_fit_the_run_is_refused_with_what_differs(dataset, change, text):
    if "taxonomy" in change:
        mine = dataset.spec.taxonomy
        change = {"taxonomy": dataclasses.replace(mine, classes=mine.classes[:5])}
    with pytest.raises(MismatchError, match=text):
        evaluate(Nearest(spec_for(**change)), chosen(dataset))


@pytest.mark.parametrize(
    ("kind", "array", "text"),
    [
        ("mask", np.full((24, 24), 11, np.uint8), r"labels that are no class: \[11\]"),
        ("mask", np.full((24, 24), 254, np.uint8), "labels that are no class"),
        ("mask", np.zeros((24, 25), np.uint8), "24 by 24"),
        ("image", np.ones((10, 23, 24), np.uint16), "24 by 24"),
        ("image", np.ones((9, 24, 24), np.uint16), "number of bands"),
        ("image", np.ones((10, 24, 24), np.float32), "uint16"),
    ],
)
def test_a_broken_patch_is_named(tmp_path, kind, array, text):
    data = make_dataset(tmp_path, n=3, size=24, parts=TEST_ONLY)
    patch = data.manifest["id"][1].as_py()
    storage.write_array(data.root / f"shards/{patch}.{kind}.npy", array)
    with pytest.raises(InputError, match=text) as error:
        evaluate(Nearest(spec_for()), chosen(data))
    assert patch in str(error.value)


def test_training_ground_is_refused_whatever_the_split_is_called(tmp_path):
    data = make_dataset(tmp_path, n=10, size=16)
    model = Nearest(spec_for(data))
    with pytest.raises(MismatchError, match="6 patches that the model was trained on"):
        evaluate(model, chosen(data, part="train"))
    evaluate(model, chosen(data, part="val"))
    evaluate(model, chosen(data, part="test"))
    (tmp_path / "splits" / "other.parquet").write_bytes((tmp_path / "splits" / "location.parquet").read_bytes())
    with pytest.raises(MismatchError, match="trained on"):
        evaluate(model, chosen(data, split="other", part="train"))


def test_a_dataset_made_again_since_training_is_pointed_out(tmp_path, capsys):
    data = make_dataset(tmp_path, n=10, size=16)
    evaluate(Nearest(spec_for(data, manifest_digest="1" * 64)), chosen(data))
    assert "prepared again since" in capsys.readouterr().err


def test_ground_shared_with_the_training_part_is_measured_and_told(tmp_path, capsys):
    own = make_dataset(tmp_path / "own", n=10, size=16)
    later = make_dataset(tmp_path / "later", n=10, size=16, seed=9, parts=TEST_ONLY, name="later")
    spec = spec_for(own, dataset_root=str(own.root))
    run = with_predictor(open_run(make_run(tmp_path / "r", spec, own)), Nearest(spec))
    results = evaluate_runs([run], [EvaluationSet("internal", None, None), chosen(later, name="later")])
    # The later images lie where all ten patches do, six of which are in the training part; neighbours only touch.
    assert [one.shared_ground for one in results] == [0.0, 0.6]
    shown = capsys.readouterr()
    assert "r on later: 60.0% of the patches lie on ground of the training part" in " ".join(shown.err.split())
    assert "r on internal: no patch lies on ground of the training part" in shown.out
    assert "ground shared with training: 60% of the patches" in results[1].caveats
    assert evaluate(Nearest(spec_for(own)), chosen(later)).shared_ground is None


def test_ground_is_compared_with_shapely_one_by_one(tmp_path):
    a, b = (make_dataset(tmp_path / name, n=8, size=8) for name in "ab")
    boxes = [[shapely.box(x, y, x + 1, y + 1) for x, y in places] for places in RANDOM_PLACES]
    a, b = (
        dataclasses.replace(data, manifest=_with_footprints(data.manifest, found))
        for data, found in zip((a, b), boxes, strict=True)
    )
    expected = np.mean([any(one.intersection(other).area > 0.01 for other in boxes[1][:5]) for one in boxes[0]])
    assert 0 < expected < 1
    assert shared_ground(a, range(8), [(b, range(5))]) == expected
    assert shared_ground(a, range(8), [(b, [0, 1]), (b, []), (b, [2, 3, 4])]) == expected
    assert shared_ground(a, range(8), [(b, [])]) == 0.0
    assert shared_ground(a, range(8), [(b, range(5)), None]) is None


def test_the_same_patches_under_another_name_are_refused(tmp_path):
    own = make_dataset(tmp_path / "own", n=10, size=16)
    copy = make_dataset(tmp_path / "copy", n=10, size=16, parts=TEST_ONLY, name="copy", protocol="crop")
    spec = spec_for(own, dataset_root=str(own.root), manifest_digest=own.digest)
    copy = dataclasses.replace(copy, digest="1" * 64)  # as if a column differed
    with pytest.raises(MismatchError, match="6 patches that the model was trained on"):
        refuse_trained("x", copy, range(10), *training_parts(spec)[0])
    refuse_trained("x", copy, own.parts("location")["test"], *training_parts(spec)[0])
    assert training_parts(spec_for(own)) == [None]
    assert training_parts(spec_for(own, dataset_root=str(own.root), manifest_digest="1" * 64)) == [None]
    assert training_parts(spec_for(own, dataset_root=str(own.root), split="other")) == [None]
    began = spec_for(copy, init_from={"trained_on": spec.trained_on})
    assert [part is None for part in training_parts(began)] == [True, False]


def test_scores_with_test_time_augmentation_lie_beside_those_without(tmp_path):
    own = make_dataset(tmp_path / "own", n=5, size=16)
    spec = spec_for(own)
    run = open_run(make_run(tmp_path / "r", spec, own))
    for tta in (None, "d4"):
        evaluate_runs([with_predictor(run, Nearest(spec))], [EvaluationSet("internal", None, None)], tta=tta)
    kept = open_run(run.path).evaluations
    assert {key: one.tta for key, one in kept.items()} == {"internal": "", "internal+d4": "d4"}
    # The stand-in looks at single pixels, so the eight views agree.
    np.testing.assert_array_equal(kept["internal"].confusion, kept["internal+d4"].confusion)
    with pytest.raises(ConfigError, match="d4 or null"):
        evaluate(Nearest(spec), chosen(own), tta="eight")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"part": "tset"}, "part"),
        ({"protocol": "some"}, "protocol"),
        ({"name": "../x"}, "name"),
        ({"name": ""}, "name"),
        ({"root": None}, "root"),
        ({"root": "no/such"}, "no dataset"),
        ({"split": "random"}, "no split"),
        ({"part": "val"}, "has no patch"),
    ],
)
def test_wrong_sets_are_typed_errors(dataset, change, text):
    with pytest.raises(CropsegError, match=text):
        evaluate(Nearest(spec_for()), chosen(dataset, **change))


def test_a_sparse_dataset_is_not_scored_as_an_exhaustive_one(tmp_path):
    data = make_dataset(tmp_path, n=2, size=16, protocol="crop", parts=TEST_ONLY)
    with pytest.raises(ConfigError, match="crop pixels only"):
        evaluate(Nearest(spec_for()), chosen(data, protocol="all"))
    assert evaluate(Nearest(spec_for()), chosen(data, protocol="crop")).protocol == "crop"


def test_runs_are_scored_stored_and_shown(tmp_path, capsys):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    other = make_dataset(tmp_path / "other", n=3, size=24, seed=5, parts=TEST_ONLY, name="other", simulated=False)
    spec = spec_for(data)
    runs = [
        with_predictor(open_run(make_run(tmp_path / "runs" / name, spec, data)), make(spec))
        for name, make in (("near", Nearest), ("major", Majority))
    ]
    sets = [EvaluationSet("internal", None, None), chosen(other, name="real", note="n")]
    results = evaluate_runs(runs, sets, 2)
    assert [one.set for one in results] == ["internal", "real"] * 2
    shown = capsys.readouterr()
    assert SIMULATED_NOTE in " ".join(shown.err.split())
    # On each row of simulated data, not only once below the table.
    assert shown.out.count("simulated: measures") == 4
    assert shown.out.count("trained on simulated") == 4
    assert shown.out.count("window 24 px") == 6  # in the intervals too
    stored = open_run(tmp_path / "runs" / "near").evaluations
    assert stored["internal"].to_dict() == results[0].to_dict()
    keys = {"set", "dataset", "manifest_digest", "simulated", "protocol", "patches", "patch_size", "classes"}
    assert keys | {"confusion", "note"} <= set(storage.read_json(tmp_path / "runs/near/evaluation/real.json"))


def test_nothing_is_scored_if_one_set_is_missing(tmp_path):
    data = make_dataset(tmp_path / "own", n=5, size=16)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for(data), data)), Nearest(spec_for(data)))
    with pytest.raises(InputError, match="no dataset"):
        evaluate_runs([run], [EvaluationSet("internal", None, None), chosen(data, name="y", root="none")])
    assert not (tmp_path / "r" / "evaluation").exists()
    for wrong in ([], [chosen(data), chosen(data)]):
        with pytest.raises(ConfigError):
            evaluate_runs([run], wrong)
    orphan = with_predictor(open_run(make_run(tmp_path / "o", spec_for(data))), Nearest(spec_for(data)))
    with pytest.raises(ConfigError, match="does not tell"):
        evaluate_runs([orphan], [EvaluationSet("internal", None, None)])


def test_a_run_that_does_not_fit_is_named_with_what_differs_before_anything_is_told(dataset, tmp_path, capsys):
    fewer = dataclasses.replace(dataset.spec.taxonomy, classes=dataset.spec.taxonomy.classes[:5])
    run = with_predictor(open_run(make_run(tmp_path / "five", spec_for(taxonomy=fewer))), Nearest(spec_for()))
    with pytest.raises(MismatchError) as refused:
        evaluate_runs([run], [chosen(dataset)])
    assert refused.value.what.startswith("five: the run has other classes than dataset")
    assert refused.value.value == {"run": [], "dataset": list(dataset.spec.taxonomy.names[5:])}
    with pytest.raises(ConfigError, match="d4"):
        evaluate_runs([run], [chosen(dataset)], tta="d8")
    assert capsys.readouterr().out == ""


def test_a_missing_set_names_the_command_that_makes_it(dataset):
    missing = chosen(dataset, root="none", made_by="python prepare.py region=r")
    with pytest.raises(InputError, match=r"make it: python prepare\.py region=r"):
        evaluate(Nearest(spec_for()), missing)


def test_a_prediction_that_is_no_class_or_of_another_shape_is_refused(dataset):
    with pytest.raises(InputError, match="prediction"):
        evaluate(Majority(spec_for(), 200), chosen(dataset))

    class Small(Nearest):
        def labels(self, images):
            return super().labels(images)[:, 1:]

    with pytest.raises(MismatchError, match="shape"):
        evaluate(Small(spec_for()), chosen(dataset))


@pytest.mark.parametrize("override", ["[internal,flanders]", "unseen", "all files", None])
def test_each_set_composes_under_its_own_key(repo, override):
    files = sorted(path.stem for path in (repo / "conf" / "evaluation").glob("*.yaml"))
    value = f"[{','.join(files)}]" if override == "all files" else override
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        cfg = compose("evaluate", [] if value is None else [f"evaluation={value}"])
    names = value.strip("[]").split(",") if value else ["internal", "unseen", "unseen_sparse"]
    sets = {key: instantiate(one) for key, one in cfg.evaluation.items()}
    assert list(sets) == names
    for name, one in sets.items():
        assert one.name == name
        assert one.note
        assert one.part == "test"
