import numpy as np
import pytest
import rasterio
import rasterio.shutil
from factory import make_dataset, make_patch
from fakes import ArrayScene, Hashed, Nearest, make_run, spec_for, with_predictor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cropseg.core.errors import ConfigError, InputError, MismatchError, StorageError
from cropseg.predict import find_product, map_product, predict_scene, reading_of
from cropseg.runs import open_run
from cropseg.scores import SIMULATED_NOTE
from cropseg.windows import tapers, tiles


def scene(height=70, width=93, *, hole=True, seed=0):
    image = np.random.default_rng(seed).integers(1, 9000, (10, height, width), dtype=np.uint16)
    if hole:
        image[:, : height // 2, -width // 3 :] = 0  # a swath edge
        image[4, -3, 5] = 0  # one band of one pixel
    return ArrayScene(image)


class Positional(Nearest):
    """What a window's border would do: the class is the distance of a pixel from its window's nearest border."""

    def labels(self, images):
        height, width = images.shape[2:]
        rows = np.minimum(np.arange(height), np.arange(height)[::-1])
        cols = np.minimum(np.arange(width), np.arange(width)[::-1])
        one = np.minimum(np.minimum(rows[:, None], cols[None]), 10).astype(np.uint8)
        return np.broadcast_to(one, (len(images), height, width)).copy()


@pytest.mark.parametrize(
    ("window", "overlap"), [(32, 8), (32, 0), (32, 31), (17, 5), (70, 10), (500, 100), (None, None)]
)
def test_tiled_prediction_of_a_pixelwise_model_equals_direct_prediction(tmp_path, window, overlap):
    reader = scene()
    model = Hashed(spec_for())
    result = predict_scene(model, reader, tmp_path / "m.tif", window=window, overlap=overlap, batch_size=3)
    expected = model.labels(reader.image[None])[0]
    expected[(reader.image == 0).any(axis=0)] = 255
    with rasterio.open(tmp_path / "m.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), expected)
    counts = np.bincount(expected.ravel(), minlength=256)
    assert result.pixels == tuple(counts[:11])
    assert result.without_data == counts[255]


def test_only_the_middle_of_each_window_is_kept(tmp_path):
    reader = scene(96, 96, hole=False)
    predict_scene(Positional(spec_for()), reader, tmp_path / "m.tif", window=32, overlap=16)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        labels = dataset.read(1)
    assert labels[8:-8, 8:-8].min() >= 7
    assert labels[0].max() == 0


@given(st.integers(1, 400), st.integers(1, 120), st.data())
def test_kept_parts_join_exactly(length, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    parts = tiles(length, size, overlap)
    seen = [i for _, start, end in parts for i in range(start, end)]
    assert seen == list(range(length))
    for first, start, end in parts:
        assert 0 <= first <= start < end <= first + min(size, length) <= length
        assert start in (0,) or start - first >= overlap // 2
        assert end in (length,) or first + size - end >= overlap // 2


@pytest.mark.parametrize(("window", "overlap"), [(32, 8), (32, 0), (17, 9), (500, 100), (None, None)])
def test_blending_changes_nothing_where_windows_agree(tmp_path, window, overlap):
    reader, model = scene(), Nearest(spec_for())
    options = {"window": window, "overlap": overlap, "batch_size": 3, "confidence": True}
    for name, blend in (("cut", False), ("blend", True)):
        predict_scene(model, reader, tmp_path / f"{name}.tif", blend=blend, **options)
    for file in ("cut.tif", "cut_confidence.tif"):
        with rasterio.open(tmp_path / file) as cut, rasterio.open(tmp_path / file.replace("cut", "blend")) as blend:
            difference = cut.read(1).astype(int) - blend.read(1)
        assert np.abs(difference).max() <= ("confidence" in file)  # percent: the last bit of a sum may round otherwise
    with rasterio.open(tmp_path / "blend.tif") as dataset:
        assert "blended" in dataset.tags()["WINDOW"]


def test_blending_is_the_weighted_mean_over_windows(tmp_path):
    class Leaning(Nearest):
        """The probability of class 1 grows along a window."""

        def probabilities(self, images):
            found = np.zeros((len(images), 11, *images.shape[2:]), np.float32)
            found[:, 1] = np.linspace(0, 1, images.shape[3])
            found[:, 0] = 1 - found[:, 1]
            return found

    reader, model = scene(40, 50, hole=False), Leaning(spec_for())
    predict_scene(model, reader, tmp_path / "m.tif", window=20, overlap=8, blend=True, confidence=True)
    total, weights = np.zeros(50), np.zeros(50)
    for start in (0, 12, 24, 30):
        for k in range(20):
            weight = min(k + 1, 20 - k, 9)
            total[start + k] += weight * k / 19
            weights[start + k] += weight
    share = total / weights
    with rasterio.open(tmp_path / "m.tif") as dataset:
        labels = dataset.read(1)
    with rasterio.open(tmp_path / "m_confidence.tif") as dataset:
        percent = dataset.read(1)
    clear = np.abs(share - 0.5) > 1e-5
    np.testing.assert_array_equal(labels[:, clear], np.broadcast_to(share > 0.5, (40, 50))[:, clear])
    np.testing.assert_allclose(percent, np.broadcast_to(100 * np.maximum(share, 1 - share), (40, 50)), atol=0.51)


@given(st.integers(1, 400), st.integers(1, 120), st.data())
def test_tapers_sum_to_one_and_fall_towards_the_border(length, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    total = np.zeros(length)
    for start, weight in tapers(length, size, overlap):
        assert (weight > 0).all()
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert [start for start, _ in tapers(length, size, overlap)] == [
        start for start, _, _ in tiles(length, size, overlap)
    ]


class Classified(ArrayScene):
    """A scene with scene classes."""

    def __init__(self, image, seed=0):
        super().__init__(image)
        self.classes = np.random.default_rng(seed).integers(0, 12, image.shape[1:]).astype(np.uint8)

    def scl(self, window):
        return self.classes[window.slices]


@pytest.mark.parametrize("blend", [False, True])
def test_clouds_are_masked_exactly_where_the_scene_classes_say_so(tmp_path, capsys, blend):
    reader = Classified(scene().image)
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for())), Hashed(spec_for()))
    invalid = [0, 1, 3, 8, 9, 10, 11]
    options = {"window": 32, "confidence": True, "blend": blend, "scl_invalid": invalid}
    result = map_product(run, reader, str(tmp_path / "m.tif"), tmp_path, **options)
    expected = Hashed(spec_for()).labels(reader.image[None])[0]
    empty = (reader.image == 0).any(axis=0)
    spoiled = np.isin(reader.classes, invalid)
    expected[empty | spoiled] = 255
    with rasterio.open(result.path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), expected)
        assert dataset.tags()["VALUE_255"] == "no data, or scene class (SCL) 0 1 3 8 9 10 11"
        assert dataset.tags()["TTA"] == "none"
    with rasterio.open(result.confidence) as dataset:
        np.testing.assert_array_equal(dataset.read(1) == 255, expected == 255)
    assert (result.masked, result.without_data) == ((spoiled & ~empty).sum(), empty.sum())
    share = (spoiled & ~empty).sum() / (~empty).sum()
    assert f"{result.masked:,} pixels, {share:.1%} of those with data" in " ".join(capsys.readouterr().out.split())

    mapped = map_product(run, reader, str(tmp_path / "all.tif"), tmp_path, mask_clouds=False, scl_invalid=invalid)
    assert (mapped.masked, mapped.without_data) == (0, empty.sum())
    with rasterio.open(mapped.path) as dataset:
        assert dataset.tags()["VALUE_255"] == "no data"


@pytest.mark.parametrize("wrong", [99, -1, True, 2.5])
def test_what_is_no_scene_class_is_refused(tmp_path, wrong):
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for())), Hashed(spec_for()))
    with pytest.raises(ConfigError, match="scl_invalid lists scene classes"):
        map_product(run, scene(), str(tmp_path / "m.tif"), tmp_path, scl_invalid=[8, wrong])
    assert not (tmp_path / "m.tif").exists()


def test_a_scene_without_scene_classes_is_mapped_whole_and_that_is_said(tmp_path, capsys):
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for())), Hashed(spec_for()))
    result = map_product(run, scene(), str(tmp_path / "m.tif"), tmp_path, scl_invalid=[8, 9])
    assert result.masked == 0
    assert "has no scene classes (SCL)" in " ".join(capsys.readouterr().out.split())


def test_augmentation_is_asked_for_and_told(tmp_path):
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for())), Hashed(spec_for()))
    reader = scene(40, 33)
    result = map_product(run, reader, None, tmp_path, tta="d4")
    assert result.path.name == f"{reader.name}_r_d4.tif"
    with rasterio.open(result.path) as dataset:
        assert dataset.tags()["TTA"] == "d4"
    assert len(run.predictor.seen) == 8 * len(tiles(40, 32, 8)) * -(-len(tiles(33, 32, 8)) // 4)


def test_memory_holds_one_row_of_windows_and_nothing_is_read_twice(tmp_path):
    reader = scene(200, 64)
    predict_scene(Hashed(spec_for()), reader, tmp_path / "m.tif", window=32, overlap=8)
    assert max(window.height for window in reader.reads) == 32
    assert sum(window.height for window in reader.reads) == 200


def test_windows_without_data_are_not_shown_to_the_model(tmp_path):
    reader = ArrayScene(np.zeros((10, 64, 64), np.uint16))
    model = Hashed(spec_for())
    assert predict_scene(model, reader, tmp_path / "m.tif").without_data == 64 * 64
    assert model.seen == []


def test_the_map_is_a_cloud_optimised_geotiff_in_the_taxonomys_colours(tmp_path):
    reader = scene(700, 600)
    predict_scene(Hashed(spec_for(patch_size=256)), reader, tmp_path / "deep" / "m.tif", tags={"RUN": "r1"})
    taxonomy = spec_for().taxonomy
    with rasterio.open(tmp_path / "deep" / "m.tif") as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1)
        assert dataset.block_shapes == [(256, 256)]
        assert (dataset.dtypes, dataset.nodata, dataset.count) == (("uint8",), 255, 1)
        assert dataset.crs.to_string() == reader.grid.crs
        assert tuple(dataset.transform)[:6] == reader.grid.transform
        colours = dataset.colormap(1)
        assert [colours[i][:3] for i in range(11)] == list(taxonomy.colors)
        tags = dataset.tags()
        assert tags["RUN"] == "r1"
        assert tags["PRODUCT"] == reader.name
        assert tags["NOTE"] == SIMULATED_NOTE
        assert [tags[f"CLASS_{i}"] for i in range(11)] == list(taxonomy.names)
    left = {path.name for path in (tmp_path / "deep").iterdir()}
    assert left == {"m.tif", "m.tif.aux.xml", "m.png"}


def test_gdal_reads_the_class_names(tmp_path):
    predict_scene(Hashed(spec_for()), scene(), tmp_path / "m.tif")
    # A VRT copies what GDAL knows of its source: an independent reading of the sidecar.
    rasterio.shutil.copy(tmp_path / "m.tif", tmp_path / "m.vrt", driver="VRT")
    text = (tmp_path / "m.vrt").read_text()
    for name in spec_for().taxonomy.names:
        assert f"<Category>{name}</Category>" in text


def test_confidence_is_the_percent_of_the_mapped_class(tmp_path):
    image, _ = make_patch(np.random.default_rng(0), 48, 10, 11, noise=900, nodata=True, ignored=False)
    reader, model = ArrayScene(image), Nearest(spec_for())
    result = predict_scene(model, reader, tmp_path / "m.tif", window=20, overlap=4, confidence=True)
    expected = np.rint(model.probabilities(image[None])[0].max(axis=0) * 100).astype(np.uint8)
    expected[(image == 0).any(axis=0)] = 255
    with rasterio.open(result.confidence) as dataset:
        np.testing.assert_array_equal(dataset.read(1), expected)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert len(np.unique(expected)) > 5


def test_the_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        predict_scene(Hashed(spec_for()), scene(), tmp_path / name / "m.tif", confidence=True)
    for file in ("m.tif", "m_confidence.tif", "m.png", "m.tif.aux.xml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_quicklook_shows_the_map_and_is_no_larger_than_asked(tmp_path):
    result = predict_scene(Hashed(spec_for()), scene(), tmp_path / "m.tif")
    with Image.open(result.quicklook) as picture:
        assert picture.size == (1500, 1200)
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 11


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"window": 0}, "window"),
        ({"window": 8, "overlap": 8}, "overlap"),
        ({"overlap": -1}, "overlap"),
        ({"batch_size": 0}, "batch"),
        ({"window": "256px"}, r"map\.window"),
        ({"overlap": 0.5}, r"map\.overlap"),
    ],
)
def test_impossible_windows_are_refused(tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        predict_scene(Hashed(spec_for()), scene(), tmp_path / "m.tif", **options)


def test_a_scene_that_does_not_fit_is_refused_with_what_differs(tmp_path):
    image = scene().image
    with pytest.raises(MismatchError, match="bands"):
        predict_scene(Hashed(spec_for()), ArrayScene(image, bands=spec_for().bands[::-1]), tmp_path / "m.tif")
    with pytest.raises(MismatchError, match="pixel size"):
        predict_scene(Hashed(spec_for()), ArrayScene(image, resolution=20.0), tmp_path / "m.tif")
    with pytest.raises(ConfigError, match="GeoTIFF"):
        predict_scene(Hashed(spec_for()), scene(), tmp_path / "m.png")


def test_a_failure_half_way_leaves_nothing(tmp_path):
    class Failing(Hashed):
        def probabilities(self, images):
            if len(self.seen) > 3:
                raise InputError("broken")
            return super().probabilities(images)

    with pytest.raises(InputError, match="broken"):
        predict_scene(Failing(spec_for()), scene(), tmp_path / "m.tif", confidence=True, batch_size=1)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_typed_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises((StorageError, OSError)):
        predict_scene(Hashed(spec_for()), scene(), tmp_path / "file" / "m.tif")


def test_products_are_found_by_path_name_and_dataset(tmp_path):
    names = [f"S2A_MSIL2A_2021060{day}T100031_N0300_R122_T33UXP" for day in (1, 2)]
    cache, data = tmp_path / "cache", tmp_path / "data"
    for name in names:
        (cache / name / f"{name}.SAFE").mkdir(parents=True)
        (cache / name / "complete.json").write_text("{}")
    half = names[0].replace("0601", "0607")
    (cache / half / f"{half}.SAFE").mkdir(parents=True)
    folder = cache / names[1] / f"{names[1]}.SAFE"
    assert find_product(str(folder), cache, data) == folder
    assert find_product(names[1], cache, data) == find_product(folder.name, cache, data) == folder
    make_dataset(data / "embedded_unseen", n=2, size=16)
    assert find_product("unseen", cache, data).parent.parent == cache
    for wrong in (None, "", "S2B_none", half):
        with pytest.raises(InputError, match=names[0]):
            find_product(wrong, cache, data)
    with pytest.raises(InputError, match="none"):
        find_product(names[0], tmp_path / "empty", data)
    inner = tmp_path / "outer" / "simulated-0"
    inner.parent.mkdir()
    cache.rename(inner)  # where source=embedded keeps its products
    assert find_product("unseen", inner.parent, data).parent.parent == inner


def test_a_run_maps_a_product_and_tells_where_things_are(tmp_path, capsys):
    run = with_predictor(open_run(make_run(tmp_path / "r", spec_for())), Hashed(spec_for()))
    reader = scene()
    result = map_product(run, reader, None, tmp_path)
    assert result.path == tmp_path / "outputs" / "maps" / f"{reader.name}_r.tif"
    shown = capsys.readouterr()
    text = "".join(shown.out.split())
    assert "".join(str(result.path).split()) in text
    assert "sugarbeet" in text
    assert SIMULATED_NOTE in " ".join(shown.err.split())


def test_a_product_is_read_as_the_training_data_was(tmp_path, capsys):
    spec = spec_for(reading={"boa_offset": "ignore"})
    run = open_run(make_run(tmp_path / "r", spec))
    unset = {"resampling": None, "boa_offset": None}
    assert reading_of(run, unset) == {"resampling": "bilinear", "boa_offset": "ignore"}
    assert capsys.readouterr().err == ""
    assert reading_of(run, {**unset, "boa_offset": "apply"})["boa_offset"] == "apply"
    assert "trained with ignore" in capsys.readouterr().err
