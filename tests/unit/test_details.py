import math
import threading
import tracemalloc
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from details import evaluation_of
from factory import make_dataset
from fakes import Hashed, Nearest, make_run, spec_for, with_predictor
from foreign import DACIA5_ORDER, run_importer, stack, write_dacia5
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import Erratic, cut, make_scene
from scipy.ndimage import distance_transform_edt

from cropseg import details, evidence
from cropseg.calibration import BINS
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, MismatchError
from cropseg.core.manifest import open_dataset
from cropseg.counting import parcel_runs
from cropseg.edges import BANDS_PX, squared_edge_distance
from cropseg.evaluate import EvaluationSet, evaluate_runs, examine
from cropseg.overlaps import neighbours, owned
from cropseg.runs import open_run
from cropseg.streaming import run_through
from cropseg.tally import BANDS_HA, FROM_PARCELS, FROM_TRUTH, PARCEL_YEAR, PLACE

CLASSES = 11
SIZE = 8


def pixels_of(dataset, predictor=None):
    """Every pixel of every patch, patch by patch in the order of their ids, as plain Python."""
    predictor = predictor or Erratic()
    ids = dataset.manifest["id"].to_pylist()
    for row in sorted(range(len(dataset)), key=lambda row: ids[row]):
        product, line, col = dataset.spots[row]
        image, mask = dataset.image(row), dataset.mask(row)
        parcels = None if dataset.scenes[product][2] is None else dataset.parcels(row)
        labels, sure = predictor.classify(image[None])
        distance = brute_distance(mask if parcels is None else parcels)
        for y in range(SIZE):
            for x in range(SIZE):
                yield {
                    "id": ids[row], "corner": (line, col),
                    "product": product, "ground": (product, line + y, col + x), "truth": mask[y, x],
                    "predicted": labels[0, y, x], "sure": float(sure[0, y, x]), "distance": distance[y][x],
                    "parcel": 0 if parcels is None else int(parcels[y, x]), "known": parcels is not None,
                    "depth": min(y, x, SIZE - 1 - y, SIZE - 1 - x),
                    "counted": mask[y, x] != 255 and bool((image[:, y, x] != 0).all()),
                }  # fmt: skip


def brute_distance(labels):
    h, w = labels.shape
    near = [(y, x) for y in range(h) for x in range(w) if any(
        0 <= y + a < h and 0 <= x + b < w and labels[y + a, x + b] != labels[y, x]
        for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))]  # fmt: skip
    return [[min((math.hypot(y - a, x - b) for a, b in near), default=math.inf) for x in range(w)] for y in range(h)]


def matrix(pixels):
    found = np.zeros((CLASSES, CLASSES), np.int64)
    for one in pixels:
        if one["counted"]:
            found[one["truth"], one["predicted"]] += 1
    return found


def owners(pixels):
    """The pixels that count where each pixel of the ground counts once."""
    best = {}
    for one in pixels:
        rank = (one["depth"], -one["corner"][0], -one["corner"][1])
        if one["ground"] not in best or rank > best[one["ground"]][0]:
            best[one["ground"]] = rank, one
    return [one for _, one in best.values()]


@st.composite
def windows(draw, parcels=True):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scenes = {
        f"p{i}": make_scene(random, 24, CLASSES, parcels=parcels, field_size=draw(st.sampled_from([2, 4, 24])))
        for i in range(draw(st.integers(1, 2)))
    }
    spot = st.tuples(st.sampled_from(sorted(scenes)), st.integers(0, 16), st.integers(0, 16))
    return cut(scenes, draw(st.lists(spot, min_size=1, max_size=5, unique=True)), SIZE)


@settings(max_examples=15, deadline=None)
@given(windows())
def test_every_part_equals_a_count_pixel_by_pixel(dataset):
    found = run_through(Erratic(), dataset, range(len(dataset)), 2, "x").details
    pixels = list(pixels_of(dataset))
    found.check(matrix(pixels))
    by_patch = dict(zip(found.patches["id"].to_pylist(), details.matrices(found.patches), strict=True))
    for name in by_patch:
        np.testing.assert_array_equal(by_patch[name], matrix(one for one in pixels if one["id"] == name))
    for band in found.boundary:
        inside = [one for one in pixels if band.from_px <= one["distance"] < band.to_px]
        far = [one for one in pixels if band.to_px == math.inf and one["distance"] == math.inf]
        np.testing.assert_array_equal(band.confusion, matrix([*inside, *far]))

    once = owners(pixels)
    votes, areas = defaultdict(lambda: np.zeros((2, CLASSES), int)), defaultdict(int)
    for one in once:
        key = one["product"], one["parcel"]
        areas[key] += 1
        if one["counted"] and one["parcel"]:
            votes[key][0, one["truth"]] += 1
            votes[key][1, one["predicted"]] += 1
    majority = np.zeros((CLASSES, CLASSES), np.int64)
    for truth, predicted in votes.values():
        majority[truth.argmax(), predicted.argmax()] += 1
    np.testing.assert_array_equal(found.parcel_majority, majority)
    for band in found.parcel_areas:
        here = {key for key, area in areas.items() if key[1] and band.from_ha <= area * 0.01 < band.to_ha}
        assert band.parcels == len(here & votes.keys())
        np.testing.assert_array_equal(
            band.confusion, matrix(one for one in pixels if (one["product"], one["parcel"]) in here)
        )
    if len(once) == len(pixels):
        assert found.once is None
    else:
        np.testing.assert_array_equal(found.once, matrix(once))

    for protocol, reliability in found.reliability.items():
        counted = [one for one in pixels if one["counted"] and (protocol == "all" or one["truth"] != 0)]
        place = [math.ceil(one["sure"] * BINS) - 1 for one in counted]
        right = [one["truth"] == one["predicted"] for one in counted]
        for array, weights in (
            (reliability.pixels, None),
            (reliability.correct, right),
            (reliability.confidence, [one["sure"] for one in counted]),
        ):
            expected = np.bincount(np.array(place, int), None if weights is None else np.array(weights, float), BINS)
            np.testing.assert_allclose(array, expected, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(windows(), st.integers(1, 6), st.randoms(use_true_random=False))
def test_neither_batches_nor_order_change_anything(dataset, batch_size, random):
    first = run_through(Erratic(), dataset, range(len(dataset)), 1, "x", PARCEL_YEAR)
    rows = list(range(len(dataset)))
    random.shuffle(rows)
    second = run_through(Erratic(), dataset, rows, batch_size, "x", PARCEL_YEAR)
    assert first.details.to_dict() == second.details.to_dict()
    assert first.details.patches.drop(["cloud"]).equals(second.details.patches.drop(["cloud"]))
    assert (first.without_label, first.without_data) == (second.without_label, second.without_data)
    names = first.details.clusters.keys()
    assert names == second.details.clusters.keys()
    for name in names:
        np.testing.assert_array_equal(first.details.clusters[name], second.details.clusters[name])


@settings(max_examples=10, deadline=None)
@given(windows())
def test_clusters_by_parcel_and_year_and_by_place(dataset):
    pixels = list(pixels_of(dataset))
    by_parcel, by_place = (run_through(Erratic(), dataset, range(len(dataset)), 2, "x", of).details.clusters
                           for of in (PARCEL_YEAR, PLACE))  # fmt: skip
    for number in {one["parcel"] for one in pixels} - {0}:
        expected = matrix(one for one in pixels if one["parcel"] == number)
        if expected.any():
            np.testing.assert_array_equal(by_parcel[f"s_2021 2021 parcel {number}"], expected)
    outside = sum((m for name, m in by_parcel.items() if name.endswith("outside parcels")), np.zeros((11, 11), int))
    np.testing.assert_array_equal(outside, matrix(one for one in pixels if one["parcel"] == 0))
    np.testing.assert_array_equal(sum(by_place.values()), matrix(pixels))
    # Both dates of a window, and windows that overlap, are one place.
    assert len(by_place) <= len({spot[1:] for spot in dataset.spots})


@settings(max_examples=5, deadline=None)
@given(windows(parcels=False))
def test_without_parcels_edges_are_those_of_the_truth(dataset):
    found = run_through(Erratic(), dataset, range(len(dataset)), 2, "x").details
    pixels = list(pixels_of(dataset))
    assert found.boundary_from == FROM_TRUTH
    assert found.parcel_majority is None
    assert "parcels" in found.without
    near = found.boundary[0].confusion
    np.testing.assert_array_equal(near, matrix(one for one in pixels if one["distance"] < BANDS_PX[1]))


def test_where_only_some_patches_know_parcels_both_are_told():
    random = np.random.default_rng(0)
    scenes = {"p0": make_scene(random, 16, CLASSES), "p1": make_scene(random, 16, CLASSES, parcels=False)}
    data = cut(scenes, [("p0", 0, 0), ("p1", 0, 0), ("p1", 8, 8)], SIZE)
    found = run_through(Erratic(), data, range(3), 2, "x").details
    found.check(found.confusion)
    assert found.boundary_from == f"{FROM_PARCELS} in 1 patches, {FROM_TRUTH} in 2"


def test_an_edge_has_two_sides_and_the_border_of_a_patch_is_none():
    labels = np.zeros((6, 9), np.uint32)
    labels[:, 4:] = 7
    expected = np.array([3, 2, 1, 0, 0, 1, 2, 3, 4]) ** 2
    np.testing.assert_array_equal(squared_edge_distance(labels), np.tile(expected, (6, 1)))
    assert (squared_edge_distance(np.full((3, 3), 5, np.uint32)) == 64).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.001, 0.01, 0.1]))
def test_distances_to_the_edge_equal_the_whole_transform(seed, height, width, share):
    labels = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    touches = np.array([[d == 0 for d in row] for row in brute_distance(labels)])
    whole = distance_transform_edt(~touches) if touches.any() else np.full(labels.shape, np.inf)
    np.testing.assert_allclose(np.sqrt(squared_edge_distance(labels).astype(float)), np.minimum(whole, 8), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9))
def test_parcels_are_numbered_like_numpy_does(seed, height, width):
    parcels = np.random.default_rng(seed).choice(np.array([0, 3, 2**32 - 1], np.uint32), (height, width))
    numbers, which, lengths = parcel_runs(parcels)
    expected, inverse = np.unique(parcels, return_inverse=True)
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(np.repeat(which, lengths), inverse.ravel())


def test_windows_overlap_only_on_the_same_image_and_grid():
    scenes = {name: make_scene(np.random.default_rng(0), 24, CLASSES) for name in ("p0", "p1")}
    data = cut(scenes, [("p0", 0, 0), ("p0", 0, 7), ("p0", 8, 0), ("p1", 0, 0)], SIZE)
    assert neighbours(data, range(4)) == {0: [(0, 7, False)], 1: [(0, -7, True)]}
    first, second = owned(SIZE, [(0, 7, False)]), owned(SIZE, [(0, -7, True)])
    # One column in common: as deep in both, so it is the first window's.
    assert first.all()
    assert not second[:, 0].any()
    assert second[:, 1:].all()
    moved = data.manifest.to_pylist()
    moved[1]["transform"][2] += 5.0
    half = cut(scenes, data.spots, SIZE)
    object.__setattr__(half, "manifest", pa.Table.from_pylist(moved, schema=data.manifest.schema))
    assert neighbours(half, range(4)) == {}


def test_once_per_pixel_is_what_the_dacia5_importer_labels_once(repo, tmp_path, capsys):
    random = np.random.default_rng(0)
    codes = random.choice(18, (5, 9)).repeat(8, 0).repeat(8, 1)
    scenes = {stamp: stack(DACIA5_ORDER, 40, 72, seed=i) for i, stamp in enumerate(("20200601", "20200701"))}
    source, out = str(write_dacia5(tmp_path / "in", scenes, {2020: codes})), str(tmp_path)
    run_importer(repo, "dacia5", source=source, out=out, size=32, stride=20, min_crop=10)
    every, once = (
        EvaluationSet(name, str(tmp_path / name), "test", protocol="crop", clusters="parcel_year")
        for name in ("dacia5", "dacia5_once")
    )
    spec = spec_for(open_dataset(tmp_path / "dacia5"), manifest_digest="1" * 64)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec)), Erratic(spec))
    evaluation, expected = evaluate_runs([run], [every, once], calibration=False)
    found = run.details("dacia5")
    assert found.once.sum() < evaluation.confusion.sum()
    np.testing.assert_array_equal(found.once, expected.confusion)
    assert "Windows overlap here" in capsys.readouterr().out


def test_details_are_stored_before_the_evaluation_and_read_back(tmp_path, capsys):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    spec = spec_for(data)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec, data)), Sure(spec))
    own = EvaluationSet("internal", None, None)
    (result,) = evaluate_runs([run], [own], calibration=False)
    again = open_run(run.path)
    assert list(again.evaluations) == ["internal"]
    kept = again.details("internal")
    kept.check(result.confusion)
    expected = examine(Sure(spec), own.of(run))[1]
    assert kept.to_dict() == {**expected.to_dict(), "without": {"recalibration": "it was not asked for"}}
    assert kept.patches.schema.equals(details.PATCHES)
    assert set(kept.clusters) == set(expected.clusters)
    assert kept.patches["month"].to_pylist() == [6, 6]
    assert "2 places" in " ".join(capsys.readouterr().out.split())

    # Another matrix beside, as after a kill between the two: left out, and told.
    path = run.path / "evaluation" / "internal.json"
    other = {**storage.read_json(path), "confusion": np.eye(11, dtype=int).tolist()}
    storage.write_json(path, other)
    assert again.details("internal") is None
    assert "another evaluation" in capsys.readouterr().err
    again.store(result)
    assert again.details("internal") is None
    assert not list((run.path / "evaluation").glob("*.parquet"))
    with pytest.raises(MismatchError, match="do not add up"):
        details.write(tmp_path, "x", expected, result.confusion + 1)


@pytest.mark.parametrize("files", [0, 1, 2, 3])
def test_a_kill_between_files_leaves_no_mixture(tmp_path, monkeypatch, files):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    spec = spec_for(data)
    run = open_run(make_run(tmp_path / "r", spec, data))
    own = EvaluationSet("internal", None, None).of(run)
    run.store(*examine(Sure(spec), own))
    # The same matrix, but drawn over something else: sums alone would not tell the tables apart.
    evaluation, found = examine(Sure(spec), replace(own, clusters="parcel_year"))
    written = []

    @contextmanager
    def killed(path):
        if len(written) == files:
            raise KeyboardInterrupt
        written.append(path)
        with atomic_path(path) as temporary:
            yield temporary

    atomic_path = storage.atomic_path
    monkeypatch.setattr(storage, "atomic_path", killed)
    with pytest.raises(KeyboardInterrupt):
        run.store(evaluation, found)
    kept = run.details("internal")
    assert kept is None if files < 3 else kept.to_dict() == found.to_dict()


def test_broken_details_are_typed_errors(tmp_path):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    spec = spec_for(data)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec, data)), Sure(spec))
    evaluate_runs([run], [EvaluationSet("internal", None, None)], calibration=False)
    path = run.results / "internal.detail.json"
    good = storage.read_json(path)
    for wrong in ({}, {**good, "boundary": [{"from_px": 0}]}, {**good, "reliability": {"all": {"pixels": []}}}):
        storage.write_json(path, wrong)
        with pytest.raises(InputError, match="evaluate again"):
            run.details("internal")
    storage.write_json(path, good)
    (run.results / "internal.patches.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"internal\.patches\.parquet cannot be read.*evaluate internal again"):
        run.details("internal")


@pytest.mark.parametrize("suffix", details.SUFFIXES)
def test_a_lost_file_is_a_part_that_is_missing_and_named(tmp_path, capsys, suffix):
    data = make_dataset(tmp_path / "own", n=10, size=16)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for(data), data)), Sure(spec_for(data)))
    evaluate_runs([run], [EvaluationSet("internal", None, None)], calibration=False)
    (run.results / f"internal{suffix}").unlink()
    capsys.readouterr()
    run = open_run(run.path)
    assert run.details("internal") is None
    assert run.details("internal") is None
    told = "".join(capsys.readouterr().err.split("\n"))
    if suffix != ".detail.json":  # without that one the evaluation may be an old one
        assert told.count(f"internal{suffix}") == 1
        assert str(run.results) in told
        assert "evaluate again" in told
    (row,) = evidence.interval_rows([run], ["internal"], brief=True)
    assert row[-1].startswith(evidence.NOT_STORED)


def test_clusters_by_parcel_need_parcels_and_names_must_not_clash(tmp_path):
    data = make_dataset(tmp_path, n=3, size=16, parts={"train": 0.0, "val": 0.0, "test": 1.0})
    chosen = EvaluationSet("x", str(data.root), "location", clusters="parcel_year")
    found = examine(Erratic(spec_for()), chosen)[1]
    assert found.clusters_are == PARCEL_YEAR
    assert any("parcel 1" in name for name in found.clusters)
    column = data.manifest.schema.get_field_index("parcels")
    pq.write_table(
        data.manifest.set_column(column, "parcels", pa.nulls(3, pa.string())), data.root / "manifest.parquet"
    )
    with pytest.raises(ConfigError, match="knows no parcels"):
        examine(Erratic(spec_for()), chosen)
    for wrong in ({"clusters": "field"}, {"name": "x.detail"}, {"name": "x+d4"}):
        with pytest.raises(ConfigError):
            EvaluationSet(**{"name": "x", "root": None, "split": None, **wrong})


def test_a_model_without_confidence_says_so(tmp_path):
    data = make_dataset(tmp_path, n=2, size=16, parts={"train": 0.0, "val": 0.0, "test": 1.0})
    found = examine(Hashed(spec_for()), EvaluationSet("x", str(data.root), "location"))[1]
    assert found.reliability == {}
    assert "without a confidence" in found.without["reliability"]


@pytest.mark.parametrize("sure", [float("nan"), -0.1, 1.5])
def test_a_confidence_that_is_no_probability_is_refused(sure):
    class Broken(Erratic):
        def classify(self, images):
            labels, confidence = super().classify(images)
            return labels, np.full_like(confidence, sure)

    data = cut({"p0": make_scene(np.random.default_rng(1), 8, CLASSES)}, [("p0", 0, 0)], SIZE)
    with pytest.raises(MismatchError, match="no probability"):
        run_through(Broken(), data, [0], 1, "x")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_stops_the_model_stops_the_threads(error):
    class Stopped(Erratic):
        asked = 0

        def classify(self, images):
            self.asked += 1
            if self.asked == 3:
                raise error
            return super().classify(images)

    scene = make_scene(np.random.default_rng(1), 40, CLASSES)
    data = cut({"p0": scene}, [("p0", 8 * (i // 5), 8 * (i % 5)) for i in range(25)], SIZE)
    with pytest.raises(error):
        run_through(Stopped(), data, range(25), 1, "x")
    assert not [one for one in threading.enumerate() if one.name.startswith("patches")]


def test_a_set_without_a_known_pixel_is_stored_and_has_no_score(tmp_path):
    image, mask, _ = make_scene(np.random.default_rng(1), 16, CLASSES, parcels=False)
    data = cut({"p0": (image, np.full_like(mask, 255), None)}, [("p0", 0, 0), ("p0", 8, 8)], SIZE)
    found = run_through(Erratic(), data, [0, 1], 1, "x")
    assert found.without_label == 2 * SIZE * SIZE
    one = evaluation_of(found.details, classes=data.spec.taxonomy.names)
    run = open_run(make_run(tmp_path, spec_for()))
    run.store(one, found.details)
    assert open_run(tmp_path).details("internal").to_dict() == found.details.to_dict()
    (row,) = evidence.interval_rows([open_run(tmp_path)], ["internal"], brief=True)
    assert row[5:] == ("n/a", "n/a", "0 places: no interval below 10")
    ((row,), _) = evidence.confidence_rows(evidence.scored([open_run(tmp_path)], "internal"))
    assert set(row[2:]) == {"n/a"}


def test_a_larger_parcel_falls_into_a_higher_band():
    scene = make_scene(np.random.default_rng(1), 16, CLASSES)
    scene[2][:] = 4
    data = cut({"p0": scene}, [("p0", 0, 0), ("p0", 0, 8), ("p0", 8, 0), ("p0", 8, 8)], SIZE)
    found = run_through(Erratic(), data, range(4), 3, "x").details
    # 256 pixels of 100 m² over four patches are one parcel of 2.56 ha.
    held = [band for band in found.parcel_areas if band.parcels]
    assert [(band.from_ha, band.parcels) for band in held] == [(2.0, 1)]
    assert BANDS_HA[3] == 2.0
    assert found.parcel_majority.sum() == 1


def test_memory_stays_flat_over_many_patches():
    scene = make_scene(np.random.default_rng(1), 40, CLASSES)
    spots = [(f"p{i // 25}", 8 * (i // 5 % 5), 8 * (i % 5)) for i in range(150)]
    scenes = {f"p{i}": scene for i in range(6)}
    run_through(Erratic(), cut(scenes, spots[:10], SIZE), range(10), 4, "x")
    peaks = {}
    for n in (50, 150):
        data = cut(scenes, spots[:n], SIZE)
        tracemalloc.start()
        run_through(Erratic(), data, range(n), 4, "x")
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # A matrix of 11 × 11 numbers a patch is kept (968 bytes), and what it is called; of its pixels nothing.
    assert peaks[150] - peaks[50] < 100 * 2500


class Sure(Nearest):
    """As Nearest, with a confidence."""

    def classify(self, images):
        p = self.probabilities(images)
        return p.argmax(axis=1).astype(np.uint8), p.max(axis=1)
