import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from factory import make_patch
from fakes import ArrayScene, Nearest, spec_for
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pyproj import Transformer
from rasterio.transform import from_origin

from cropseg import map_file
from cropseg.area_points import read_sample
from cropseg.area_report import report_areas
from cropseg.core import taxonomy
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.tiling import Window
from cropseg.draw import Design, draw, draw_sample
from cropseg.map_file import open_map, read_legend
from cropseg.maps import count, score_map
from cropseg.predict import predict_scene
from cropseg.scores import SIMULATED_NOTE, Evaluation
from data_prep.truth import ParcelTruth

CONF = Path(__file__).resolve().parents[2] / "conf"
CLASSES = taxonomy.load("eurocrops10_corrected")
LEFT, TOP = 4_321_000.0, 3_210_000.0
NAMES = ("Maize", "Winter Wheat", "Permanent Pasture", "Kale")


def write_map(path, values, *, crs="EPSG:3035", transform=None, nodata=None, tags=None):
    profile = {"driver": "GTiff", "count": 1, "height": values.shape[0], "width": values.shape[1], "crs": crs}
    transform = transform or from_origin(LEFT, TOP, 10, 10)
    with rasterio.open(path, "w", dtype=values.dtype, transform=transform, nodata=nodata, **profile) as dataset:
        dataset.write(values, 1)
        dataset.update_tags(**(tags or {}))
    return path


def own_tags(classes=CLASSES, **more):
    return {"TAXONOMY": classes.name, **{f"CLASS_{i}": name for i, name in enumerate(classes.names)}, **more}


def write_parcels(path, side=137.31, n=5, names=NAMES, crs="EPSG:3035"):
    """A chess board of n by n fields with gaps, whose edges fall between pixels."""
    cells = [(i, j) for i in range(n) for j in range(n)]
    boxes = [
        shapely.box(LEFT + 23.7 + side * j, TOP - 31 - side * (i + 1), LEFT + 3 + side * (j + 1), TOP - 41 - side * i)
        for i, j in cells
    ]
    crops = [names[(i * 2 + j) % len(names)] for i, j in cells]
    frame = gpd.GeoDataFrame({"crop_name": crops}, geometry=boxes, crs="EPSG:3035").to_crs(crs)
    frame.to_file(path)
    return path


def by_definition(path, parcels, labels):
    """Truth of each pixel of a map, centre by centre, for parcels that do not overlap; 0 outside, 255 unknown."""
    with rasterio.open(path) as dataset:
        rows, cols = np.indices(dataset.shape)
        x, y = rasterio.transform.xy(dataset.transform, rows.ravel(), cols.ravel())
        back = Transformer.from_crs(dataset.crs, "EPSG:3035", always_xy=True)
        x, y = back.transform(np.array(x), np.array(y))
        shape = dataset.shape
    frame = gpd.read_file(parcels).to_crs("EPSG:3035")
    left, bottom, right, top = frame.total_bounds
    truth = np.where((x > left) & (x < right) & (y > bottom) & (y < top), 0, 255)
    numbers = np.zeros(len(x), dtype=int)
    for number, (shape_, crop) in enumerate(zip(frame.geometry, frame["crop_name"], strict=True), start=1):
        inside = shapely.contains_xy(shape_, x, y)
        truth[inside], numbers[inside] = labels[crop], number
    return truth.reshape(shape), numbers.reshape(shape)


LABELS = {"Maize": 1, "Winter Wheat": 3, "Permanent Pasture": 10, "Kale": 255}


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:3035", None),
        ("EPSG:3035", from_origin(LEFT - 55, TOP + 44, 20, 20)),
        ("EPSG:32632", None),
        ("EPSG:4326", None),
    ],
)
def test_any_grid_is_scored_by_pixel_centres_in_blocks(tmp_path, monkeypatch, crs, transform):
    parcels = write_parcels(tmp_path / "fields.gpkg")
    if crs != "EPSG:3035":
        to = Transformer.from_crs("EPSG:3035", crs, always_xy=True)
        x, y = to.transform(LEFT - 50, TOP + 50)
        step = 1e-4 if crs == "EPSG:4326" else 10
        transform = from_origin(x - 3 * step, y + 3 * step, step, step)
    values = np.random.default_rng(0).choice([0, 1, 3, 10, 255], (90, 130)).astype(np.uint8)
    path = write_map(tmp_path / "map.tif", values, crs=crs, transform=transform, nodata=255, tags=own_tags())
    monkeypatch.setattr(map_file, "BLOCK", 32)
    truth = ParcelTruth(str(parcels), CLASSES)
    result = score_map(path, truth)
    expected, numbers = by_definition(path, parcels, LABELS)
    keep = (expected != 255) & (values != 255)
    matrix = np.zeros((11, 11), dtype=np.int64)
    np.add.at(matrix, (expected[keep], values[keep]), 1)
    # The border of the known ground is a line in degrees, so background may differ in the outermost pixels.
    np.testing.assert_array_equal(result.evaluation.confusion[1:], matrix[1:])
    assert abs(result.evaluation.confusion[0] - matrix[0]).sum() <= 0.02 * matrix[0].sum()
    votes = np.zeros((11, 11), dtype=np.int64)
    for number in range(1, 26):
        inside = (numbers == number) & keep
        if inside.any():
            majority = np.bincount(values[inside], minlength=11).argmax()
            votes[expected[inside][0], majority] += 1
    np.testing.assert_array_equal(result.parcels, votes)
    stored = json.loads((tmp_path / "map.evaluation" / "fields.json").read_text())
    assert Evaluation.from_dict(stored).confusion.tolist() == result.evaluation.confusion.tolist()
    assert stored["parcels"]["confusion"] == votes.tolist()
    assert stored["protocol"] == "all"


def test_a_map_of_predict_needs_no_legend(tmp_path, capsys):
    image, mask = make_patch(np.random.default_rng(0), 64, 10, 11, noise=50.0, nodata=True, ignored=False)
    predict_scene(Nearest(spec_for()), ArrayScene(image), tmp_path / "map.tif", window=64)
    fields = shapely.box(500_003, 5_399_363, 500_637, 5_399_997)
    frame = gpd.GeoDataFrame({"crop_name": ["Maize"]}, geometry=[fields], crs="EPSG:32633")
    frame.to_file(tmp_path / "fields.gpkg")
    result = score_map(tmp_path / "map.tif", ParcelTruth(str(tmp_path / "fields.gpkg"), CLASSES))
    seen = (image != 0).all(axis=0)
    counts = np.bincount(mask[seen], minlength=11)
    np.testing.assert_array_equal(result.evaluation.confusion[1], counts)
    assert result.evaluation.without_data == (~seen).sum()
    assert SIMULATED_NOTE in " ".join(capsys.readouterr().err.split())


def test_memory_does_not_grow_with_the_map(tmp_path, monkeypatch):
    monkeypatch.setattr(map_file, "BLOCK", 128)
    peaks = []
    for side in (256, 1024):
        path = write_map(tmp_path / f"{side}.tif", np.ones((side, side), np.uint8), tags=own_tags())
        field = shapely.box(LEFT, TOP - 10 * side, LEFT + 10 * side, TOP)
        frame = gpd.GeoDataFrame({"crop_name": ["Maize"]}, geometry=[field], crs="EPSG:3035")
        frame.to_file(tmp_path / f"{side}.gpkg")
        truth = ParcelTruth(str(tmp_path / f"{side}.gpkg"), CLASSES, fields={"coverage": "sparse"})
        with open_map(path, CLASSES) as opened:
            tracemalloc.start()
            score = count(opened, truth)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert score.evaluation.confusion[1, 1] == side * side
    assert peaks[1] < 2 * peaks[0]  # sixteen times as many pixels


def test_sparse_parcels_have_no_background(tmp_path, capsys):
    parcels = write_parcels(tmp_path / "fields.gpkg")
    path = write_map(tmp_path / "map.tif", np.full((70, 70), 3, np.uint8), tags=own_tags())
    truth = ParcelTruth(str(parcels), CLASSES, fields={"coverage": "sparse"})
    result = score_map(path, truth, out=tmp_path / "there")
    assert result.evaluation.protocol == "crop"
    assert result.evaluation.confusion[0].sum() == 0
    assert result.evaluation.confusion[3, 3] > 0
    assert (tmp_path / "there" / "fields.json").is_file()
    out = capsys.readouterr().out
    assert "all valid pixels" not in out
    assert "ask who made it" in out


def test_eucropmap_needs_nothing_but_its_name(tmp_path):
    parcels = write_parcels(tmp_path / "fields.gpkg")
    values = np.random.default_rng(1).choice([0, 100, 211, 214, 216, 240, 500], (70, 70)).astype(np.uint16)
    truth = ParcelTruth(str(parcels), CLASSES)
    with open_map(write_map(tmp_path / "map.tif", values), CLASSES, "eucropmap") as opened:
        found = opened.read(Window(0, 0, 70, 70))
        score = count(opened, truth)
    table = {0: 255, 100: 0, 211: 3, 214: 3, 216: 1, 240: 0, 500: 10}
    np.testing.assert_array_equal(found, np.vectorize(table.get)(values))
    assert score.evaluation.confusion[3, 0] > 0  # dry pulses on wheat are an error, not unknown
    assert score.evaluation.without_data > 0


def test_a_map_of_one_question_folds_the_truth(tmp_path, capsys):
    parcels = write_parcels(tmp_path / "fields.gpkg")
    values = np.random.default_rng(1).choice([0, 100, 255], (70, 70)).astype(np.uint8)
    path = write_map(tmp_path / "map.tif", values)
    result = score_map(path, ParcelTruth(str(parcels), CLASSES), "worldcereal_wintercereals")
    assert result.evaluation.classes == ("other", "cereals")
    expected, _ = by_definition(path, parcels, LABELS)
    keep = values != 255
    cereals = (expected == 3) & keep
    assert result.evaluation.confusion[1].tolist() == [(values[cereals] == k).sum() for k in (0, 100)]
    assert "labelled crop pixels" not in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(map_file.__file__).parent.glob("legends/*.yaml")))
@pytest.mark.parametrize("classes", ["eurocrops10", "eurocrops10_corrected"])
def test_shipped_legends_are_whole(name, classes):
    legend = read_legend(name, taxonomy.load(classes))
    assert legend.name == name
    assert set(legend.values.values()) <= {*range(len(legend.classes)), 255}
    assert len(legend.fold) == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("values: {1: mais}", "entry of no meaning"),
        ("values: {one: maize}", "entry of no meaning"),
        ("name: x", "must hold"),
        ("values: {1: a}\nclasses: {a: [maize], b: [wheat]}", "leave out"),
        ("values: {1: a}\nclasses: {a: [maize], b: [maize]}", "named twice"),
        ("values: {1: a}\nclasses: {a: [mais], b: '*'}", "unknown, or named twice"),
        ("values: [", "not valid YAML"),
        ("values: {2024-13-45: maize}", "not valid YAML"),
        ("values: {}", "must hold"),
        ("values: {true: maize}", "entry of no meaning"),
        ("values: {99999999999999999999: maize}", "entry of no meaning.*9999.*64 bits"),
        ("values: {1: a}\nclasses: {a: 5, b: '*'}", "class a of legend .*: 5. give a list"),
        ("values: {1: a}\nclasses: {a: wheat, b: '*'}", "class a of legend .*: 'wheat'. give a list"),
        ("values: {1: a}\nclasses: {a: [[wheat]], b: '*'}", r"unknown, or named twice: \['wheat'\]"),
    ],
)
def test_broken_legends_are_told(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_legend(str(tmp_path / "own.yaml"), CLASSES)


@pytest.mark.parametrize("legend", [3, 0, ["a"]])
def test_a_legend_that_is_no_name_is_told(tmp_path, legend):
    path = write_map(tmp_path / "map.tif", np.ones((9, 9), np.uint8), tags=own_tags())
    with pytest.raises(ConfigError, match=r"no such legend: .*give eucropmap"), open_map(path, CLASSES, legend):
        pass


def test_a_map_given_as_a_legend_is_told(tmp_path):
    path = write_map(tmp_path / "map.tif", np.full((9, 9), 200, np.uint8), tags=own_tags())
    with (
        pytest.raises(ConfigError, match=r"a legend is a YAML file, not: .*map.tif"),
        open_map(path, CLASSES, str(path)),
    ):
        pass


def test_maps_that_cannot_be_scored(tmp_path):
    truth = ParcelTruth(str(write_parcels(tmp_path / "fields.gpkg")), CLASSES)
    values = np.full((70, 70), 7, np.uint8)
    plain = write_map(tmp_path / "plain.tif", values)
    with pytest.raises(ConfigError, match="does not say what its values mean"):
        score_map(plain, truth)
    with pytest.raises(InputError, match=r"values that legend eucropmap does not tell: \[7\]"):
        score_map(plain, truth, "eucropmap")
    with pytest.raises(ConfigError, match="no such legend"):
        score_map(plain, truth, "eurocropmap")
    other = own_tags(taxonomy.Taxonomy("two", CLASSES.classes[:2]))
    with pytest.raises(ConfigError, match="other classes than taxonomy"):
        score_map(write_map(tmp_path / "two.tif", values, tags=other), truth)
    far = write_map(tmp_path / "far.tif", values, transform=from_origin(LEFT + 1e6, TOP, 10, 10), tags=own_tags())
    with pytest.raises(InputError, match="no ground in common"):
        score_map(far, truth)
    with pytest.raises(InputError, match="no classes but"):
        score_map(write_map(tmp_path / "f.tif", values.astype(np.float32)), truth)
    upside = rasterio.Affine(10, 0, LEFT, 0, 10, TOP - 700)
    with pytest.raises(InputError, match="north up"):
        score_map(write_map(tmp_path / "u.tif", values, transform=upside, tags=own_tags()), truth)
    with pytest.raises(InputError, match="cannot be opened"):
        score_map(tmp_path / "gone.tif", truth)
    with pytest.raises(ConfigError, match="parcels="):
        ParcelTruth(None, CLASSES)
    with pytest.raises(InputError, match="no parcel"):
        ParcelTruth(str(write_parcels(tmp_path / "k.gpkg", names=("Kale",))), CLASSES)


def test_the_command_composes_its_truth(tmp_path):
    parcels = write_parcels(tmp_path / "fields.gpkg")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [f"parcels={parcels}", "map=x.tif", "truth.fields.extent=[9,40,10,60]"])
        truth = instantiate(cfg.truth)
        design = instantiate(compose("sample", ["map=x.tif", "per_class=7"]).design)
    assert truth.exhaustive
    assert truth.name == "fields"
    assert design == Design(per_class=7)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sample.py map=map.tif per_class=abc", "error: option per_class: 'abc'. give"),
        ("sample.py map=map.tif per_class=2.5", "error: per_class must be a whole number of at least 2: 2.5. give"),
        ("sample.py map=map.tif seed=null", "error: option seed: 'null'. give"),
        ("sample.py map=map.tif legend=[a]", "error: option legend: ['a']. give"),
        ("area.py sample=[a]", "error: option sample: ['a']. give"),
    ],
)
def test_the_commands_tell_wrong_options_in_one_line(tmp_path, repo, command, message):
    patchy(tmp_path)
    script, *options = command.split()
    words = [sys.executable, repo / script, *options, "paths.root=root"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(message)
    assert {one.name for one in tmp_path.iterdir()} - {"root"} == {"map.tif"}


def patchy(folder, tags=None):
    values = np.random.default_rng(3).choice([0, 1, 3, 255], (120, 150), p=[0.5, 0.4, 0.02, 0.08]).astype(np.uint8)
    return write_map(folder / "map.tif", values, nodata=255, tags=tags or own_tags()), values


def test_points_come_from_their_stratum_with_the_stated_probability(tmp_path, monkeypatch):
    path, values = patchy(tmp_path)
    monkeypatch.setattr(map_file, "BLOCK", 50)
    with open_map(path, CLASSES) as opened:
        drawn = draw(opened, Design(per_class=20, total=200, seed=1))
        again = draw(opened, Design(per_class=20, total=200, seed=1))
        other = draw(opened, Design(per_class=20, total=200, seed=2))
    assert drawn.strata == ("background", "maize", "wheat")
    assert drawn.pixels == tuple((values == k).sum() for k in (0, 1, 3))
    assert drawn.points[2] == 20
    assert sum(drawn.points) == pytest.approx(200, abs=2)
    np.testing.assert_array_equal(values[drawn.rows, drawn.cols], drawn.mapped)
    np.testing.assert_array_equal(np.bincount(drawn.stratum), drawn.points)
    assert len({*zip(drawn.rows.tolist(), drawn.cols.tolist(), strict=True)}) == sum(drawn.points)
    np.testing.assert_array_equal(drawn.rows, again.rows)
    assert (drawn.rows != other.rows).any()


def test_every_pixel_of_a_stratum_is_drawn_as_often(tmp_path, monkeypatch):
    path, values = patchy(tmp_path)
    monkeypatch.setattr(map_file, "BLOCK", 64)
    hits = np.zeros(values.shape)
    with open_map(path, CLASSES) as opened:
        for seed in range(60):
            drawn = draw(opened, Design(per_class=100, seed=seed))
            hits[drawn.rows, drawn.cols] += 1
    wheat = hits[values == 3]
    assert wheat.mean() == pytest.approx(60 * 100 / len(wheat))
    left, right = hits[:, :75][values[:, :75] == 1].mean(), hits[:, 75:][values[:, 75:] == 1].mean()
    assert left == pytest.approx(right, rel=0.08)


def test_a_sample_is_filled_in_and_gives_areas(tmp_path, capsys):
    path, values = patchy(tmp_path)
    points = draw_sample(path, None, Design(total=400, per_class=30), CLASSES)
    assert points == tmp_path / "map.sample.gpkg"
    frame = gpd.read_file(points, layer="points")
    assert frame["reference"].isna().all()
    with rasterio.open(path) as dataset:
        seen = [int(v[0]) for v in dataset.sample([(p.x, p.y) for p in frame.geometry])]
    assert [CLASSES.names[v] for v in seen] == frame["map_class"].tolist()
    with pytest.raises(InputError, match="points without a reference"):
        read_sample(points)
    with pytest.raises(ConfigError, match="exists already"):
        draw_sample(path, None, Design(), CLASSES)
    # Somebody finds that half of the maize is oats, a class that the map never gives.
    half = (np.arange(len(frame)) % 2 == 0) & (frame["map_class"] == "maize")
    frame["reference"] = frame["map_class"].where(~half, "oats")
    frame.to_file(points, layer="points")
    capsys.readouterr()
    found = report_areas(points)
    area = dict(zip(found.classes, found.area_ha, strict=True))
    maize = (values == 1).sum() / 100
    assert area["oats"].low < maize / 2 < area["oats"].high
    assert sum(one.value for one in found.area_ha) == pytest.approx((values != 255).sum() / 100)
    frame.loc[0, "reference"] = "wheet"
    frame.to_file(points, layer="points")
    with pytest.raises(InputError, match="wheet"):
        read_sample(points)


def test_simple_samples_need_no_strata(tmp_path):
    path, values = patchy(tmp_path)
    points = draw_sample(path, tmp_path / "s.gpkg", Design("simple", total=300), CLASSES)
    frame = gpd.read_file(points, layer="points")
    assert set(frame["stratum"]) == {"map"}
    assert frame["inclusion"].iloc[0] == pytest.approx(300 / (values != 255).sum())
    frame.assign(reference=frame["map_class"]).to_file(points, layer="points")
    assert report_areas(points).overall.value == 1


def test_a_simple_sample_tells_the_areas_that_were_counted_on_the_map(tmp_path, capsys):
    path, values = patchy(tmp_path)
    points = draw_sample(path, None, Design("simple", total=8, seed=1), CLASSES)
    frame = gpd.read_file(points, layer="points")
    assert "wheat" not in set(frame["map_class"])  # mapped on 3.5 ha that no point hit
    frame.assign(reference=frame["map_class"]).to_file(points, layer="points")
    found = report_areas(points)
    counted = {name: (values == i).sum() / 100 for i, name in enumerate(CLASSES.names)}
    assert dict(zip(found.classes, found.mapped_ha, strict=True)) == pytest.approx(counted)
    assert json.loads((tmp_path / "map.sample.area.json").read_text())["mapped_ha"] == list(found.mapped_ha)
    assert f"{counted['wheat']:,.1f}" in capsys.readouterr().out
    frame.assign(reference="wheat", map_class=["maiz", *frame["map_class"][1:]]).to_file(points, layer="points")
    with pytest.raises(InputError, match=r"map classes that the layer design does not list: \['maiz'\]"):
        read_sample(points)


def exchanged(frame, columns):
    """The second maize point given the first one's values in ``columns``."""
    first, second = np.flatnonzero(frame["map_class"] == "maize")[:2]
    frame.loc[second, columns] = frame.loc[first, columns].to_numpy()
    return frame


def shifted(frame, metres):
    places = frame.geometry.to_list()
    places[4] = shapely.Point(places[4].x + metres, places[4].y)
    return frame.set_geometry(gpd.GeoSeries(places, index=frame.index, crs=frame.crs))


@pytest.mark.parametrize(
    ("change", "message", "older"),
    [
        (lambda f: exchanged(f, list(f.columns)), r"more than once, by point: \[\d+, \d+\]", True),
        (lambda f: exchanged(f, ["pixel_row", "pixel_col"]), r"more than once, by pixel_row and pixel_col: \[", True),
        (lambda f: f.assign(point=f["point"].replace(3, 903)), r"points that were not drawn: \[903\]", True),
        (lambda f: f.assign(point=f["point"].where(f["point"] != 3)), r"points that were not drawn: \[nan\]", True),
        (lambda f: f.assign(pixel_row=f["pixel_row"].where(f["point"] != 3, 999)), r"pixel_row is .*: \[3\]", False),
        (lambda f: f.assign(map_class=f["reference"]), r"map_class is not the one that was drawn: \[1, 3, 5", False),
        (lambda f: f.drop(columns=["point", "pixel_col"]), r"lacks columns: \['pixel_col', 'point'\]", False),
        (lambda f: shifted(f, 20), r"lie in another place than where they were drawn: \[5\]", False),
        (
            lambda f: shifted(f, 20).to_crs("EPSG:4326"),
            r"lie in another place than where they were drawn: \[5\]",
            False,
        ),
        (lambda f: f.set_geometry(f.geometry.where(f["point"] != 2)), r"lie in another place .*: \[2\]", False),
    ],
)
def test_points_other_than_those_drawn_are_refused_by_name(tmp_path, change, message, older):
    path, _ = patchy(tmp_path)
    points = draw_sample(path, None, Design(per_class=20), CLASSES)
    frame = gpd.read_file(points, layer="points")
    frame["reference"] = frame["map_class"].where(frame["point"] % 2 == 0, "oats")
    frame.to_file(points, layer="points")
    bare = tmp_path / "older.gpkg"  # as samples were written before they listed what was drawn
    for layer in ("points", "design"):
        pyogrio.write_dataframe(gpd.read_file(points, layer=layer), bare, layer=layer, driver="GPKG")
    assert len(read_sample(points).mapped) == len(read_sample(bare).mapped) == len(frame)
    changed = change(frame)
    for file in (points, bare) if older else (points,):
        changed.to_file(file, layer="points")
        with pytest.raises(InputError, match=message):
            read_sample(file)


def test_points_may_be_kept_in_another_crs_and_order(tmp_path):
    path, _ = patchy(tmp_path)
    points = draw_sample(path, None, Design(per_class=20), CLASSES)
    frame = gpd.read_file(points, layer="points").sort_values("pixel_col", ignore_index=True)
    frame = shifted(frame.assign(reference=frame["map_class"]), 4)  # within its pixel of 10 m
    frame.to_crs("EPSG:4326").to_file(points, layer="points")
    assert len(read_sample(points).mapped) == len(frame)


def test_designs_and_maps_that_do_not_fit(tmp_path):
    for values, message in (
        ({"strategy": "best"}, "strategy"),
        ({"per_class": 1}, "per_class"),
        ({"total": 5, "target_se": 0.1}, "total and target_se"),
        ({"strategy": None}, "strategy: null. choose from"),
        ({"per_class": 2.5}, r"per_class must be a whole number .*: 2\.5"),
        ({"per_class": "abc"}, "per_class must be a whole number .*: 'abc'"),
        ({"per_class": None}, "per_class must be a whole number .*: null"),
        ({"per_class": True}, "per_class must be a whole number .*: True"),
        ({"total": 2.5}, r"total must be a whole number .*: 2\.5"),
        ({"total": "abc"}, "total must be a whole number .*: 'abc'"),
        ({"seed": -1}, "seed must be a whole number .*: -1. give seed=0"),
        ({"seed": "abc"}, "seed must be a whole number .*: 'abc'"),
        ({"seed": 1.5}, r"seed must be a whole number .*: 1\.5"),
        ({"seed": None}, "seed must be a whole number .*: null"),
        ({"target_se": "abc"}, "target_se must lie between 0 and 1: 'abc'. give target_se=0.01"),
        ({"target_se": 1}, "target_se must lie between 0 and 1: 1"),
        ({"expected_accuracy": 2}, "expected_accuracy must lie from 0 to 1: 2"),
        ({"expected_accuracy": "abc"}, "expected_accuracy must lie from 0 to 1: 'abc'"),
        ({"expected_accuracy": None}, "expected_accuracy must lie from 0 to 1: null"),
        ({"expected_accuracy": {"a": 0.9, "b": "high"}}, "expected_accuracy of b must lie from 0 to 1: 'high'"),
    ):
        with pytest.raises(ConfigError, match=message):
            Design(**values)
    assert Design("simple", target_se=0.01, expected_accuracy=1).points(["a"], [9]) == [2]
    assert Design(target_se=1e-300).points(["a"], [9]) == [9]
    assert sum(Design(target_se=0.01).points(["a", "b"], [10**6, 10**6])) == 1600
    with pytest.raises(ConfigError, match="expected_accuracy lacks"):
        Design(target_se=0.01, expected_accuracy={"a": 0.9}).points(["a", "b"], [1, 1])
    degrees = write_map(
        tmp_path / "d.tif", np.ones((9, 9), np.uint8), crs="EPSG:4326", transform=from_origin(15, 48, 1e-4, 1e-4),
        tags=own_tags(),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="gdalwarp"):
        draw_sample(degrees, None, Design(), CLASSES)
    empty = write_map(tmp_path / "e.tif", np.full((9, 9), 255, np.uint8), tags=own_tags())
    with pytest.raises(InputError, match="tells nothing"):
        draw_sample(empty, None, Design(), CLASSES)
    with pytest.raises(ConfigError, match="gpkg"):
        draw_sample(empty, tmp_path / "x.shp", Design(), CLASSES)
    with pytest.raises(ConfigError, match=r"out must be a path: 5\. give"):
        draw_sample(empty, 5, Design(), CLASSES)
