"""The importer of a plain folder: pairs as GeoTIFF and .npy, of any order, scale and labels."""

import csv

import numpy as np
import pytest
import shapely
from foreign import PASTIS_ORDER, refused, run_importer, stack, write_tiff
from PIL import Image
from scipy.io import savemat

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import open_dataset
from data_prep.importers.folder import _placeholder
from data_prep.importers.rasters import without_data

SIZE = 32
LABELS = {7: "wheat", 20: "maize", 99: 255}


def run(repo, root, out, **changes):
    return run_importer(
        repo, "folder", out=str(out), **{
            "images": str(root / "images"), "masks": str(root / "masks"), "size": SIZE, "stride": SIZE,
            "labels": LABELS, "values__bands": list(PASTIS_ORDER), **changes,
        },
    )  # fmt: skip


def labels(height, width, seed=0):
    return np.random.default_rng(seed).choice([7, 20, 99], (height // 4, width // 4)).repeat(4, 0).repeat(4, 1)


def pairs(root, kind="tif", *, height=SIZE, width=SIZE, number=2, dtype=np.uint16, mask="tif"):
    """Images field_2021060<n>, and their masks."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for n in range(1, number + 1):
        values = stack(PASTIS_ORDER, height, width, seed=n)
        values[:, 2, 3] = 0
        values = values / 10_000 if dtype == np.float32 else values
        found = labels(height, width, n).astype(np.uint8)
        name = f"field_2021060{n}"
        if kind == "tif":
            write_tiff(root / f"images/{name}.tif", values.astype(dtype), left=500_000.0 + 1000 * n)
        else:
            np.save(root / f"images/{name}.npy", values.astype(dtype))
        if mask == "tif":
            write_tiff(root / f"masks/{name}.tif", found[None], left=500_000.0 + 1000 * n)
        elif mask == "png":
            Image.fromarray(found).save(root / f"masks/{name}.png")
        else:
            np.save(root / f"masks/{name}.npy", found)
    return root


@pytest.mark.parametrize(
    ("kind", "mask", "dtype"),
    [("tif", "tif", np.uint16), ("tif", "png", np.float32), ("npy", "npy", np.uint16), ("npy", "png", np.float32)],
)
def test_pairs_of_every_kind_give_the_same_pixels_and_labels(repo, tmp_path, kind, mask, dtype):
    root = pairs(tmp_path / "in", kind, mask=mask, dtype=dtype)
    run(repo, root, tmp_path / "out", values__scale=10_000 if dtype == np.float32 else 1)
    dataset = open_dataset(tmp_path / "out/folder")
    assert [str(moment)[:10] for moment in dataset.manifest["datetime"].to_pylist()] == ["2021-06-01", "2021-06-02"]
    assert dataset.spec.bands == PAPER_BANDS
    for row in range(2):
        raw = stack(PASTIS_ORDER, SIZE, SIZE, seed=row + 1)
        raw[:, 2, 3] = 0
        np.testing.assert_array_equal(dataset.image(row), raw[[PASTIS_ORDER.index(band) for band in PAPER_BANDS]])
        expected = np.vectorize({7: 3, 20: 1, 99: 255}.get)(labels(SIZE, SIZE, row + 1))
        np.testing.assert_array_equal(dataset.mask(row), expected)
    assert dataset.manifest["tile"].to_pylist() == ["unknown" if kind == "tif" else "placeholder"] * 2
    outlines = shapely.from_wkb(dataset.manifest["geometry"].to_pylist())
    assert not shapely.intersects(outlines[0], outlines[1])
    assert (outlines[0].centroid.y < -50) == (kind == "npy")


@pytest.mark.parametrize("kind", ["npy", "mat", "png", "tif"])
def test_the_ends_of_file_names_may_be_in_capitals(repo, tmp_path, kind):
    root = pairs(tmp_path / "in", "npy" if kind == "npy" else "tif", mask="npy" if kind == "mat" else kind, number=1)
    if kind == "mat":
        (root / "masks/field_20210601.npy").unlink()
        savemat(root / "masks/field_20210601.mat", {"mask": labels(SIZE, SIZE, 1).astype(np.uint8)})
    for path in [*root.glob("images/*"), *root.glob("masks/*")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    run(repo, root, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out/folder")
    np.testing.assert_array_equal(dataset.mask(0), np.vectorize({7: 3, 20: 1, 99: 255}.get)(labels(SIZE, SIZE, 1)))
    assert dataset.manifest["tile"].to_pylist() == ["placeholder" if kind == "npy" else "unknown"]


def test_larger_images_are_cut_to_the_border_and_lie_where_they_lie(repo, tmp_path):
    root = pairs(tmp_path / "in", height=40, width=72, number=1)
    run(repo, root, tmp_path / "out", name="bench", day="2020-02-03", country="AT", min_crop=1, protocol="crop")
    dataset = open_dataset(tmp_path / "out/bench")
    spots = [name.split("/")[-1] for name in dataset.manifest["id"].to_pylist()]
    assert sorted(spots) == ["0_0", "0_32", "0_40", "8_0", "8_32", "8_40"]
    whole = stack(PASTIS_ORDER, 40, 72, seed=1)
    whole[:, 2, 3] = 0
    for row, spot in enumerate(spots):
        top, left = map(int, spot.split("_"))
        part = whole[PASTIS_ORDER.index("B08"), top : top + SIZE, left : left + SIZE]
        np.testing.assert_array_equal(dataset.image(row)[3], part)
        transform = dataset.manifest["transform"][row].as_py()
        assert (transform[2], transform[5]) == (501_000.0 + 10 * left, 5_070_000.0 - 10 * top)
    assert dataset.manifest["country"][0].as_py() == "AT"
    assert str(dataset.manifest["datetime"][0].as_py())[:10] == "2020-02-03"
    assert dataset.spec.protocol == "crop"


def test_offset_scale_and_no_data_come_before_the_clip(repo, tmp_path):
    root = pairs(tmp_path / "in", "npy", number=1)
    path = root / "images/field_20210601.npy"
    values = np.load(path).astype(np.float32) / 10_000 + 0.1
    values[:, 2, 3] = np.nan
    values[0, 5, 6] = 0.05  # below 0 once the offset is off
    np.save(path, values)
    run(repo, root, tmp_path / "out", values__scale=10_000, values__offset=-1000, values__nodata=[float("nan")])
    dataset = open_dataset(tmp_path / "out/folder")
    expected = stack(PASTIS_ORDER, SIZE, SIZE, seed=1)
    expected[:, 2, 3], expected[0, 5, 6] = 0, 1
    order = [PASTIS_ORDER.index(band) for band in PAPER_BANDS]
    assert np.abs(dataset.image(0).astype(int) - expected[order]).max() <= 1  # float32
    assert (dataset.image(0)[:, 2, 3] == 0).all()


@pytest.mark.parametrize(
    ("kind", "dtype", "nodata"),
    [
        ("npy", "<f4", 1e20), ("npy", ">f4", -3.4e38), ("tif", "<f4", -0.1), ("npy", "<f2", -0.1), ("npy", "<f8", -0.1),
        ("npy", ">i2", -9999), ("npy", "<u8", 2**64 - 1), ("npy", "<f4", float("-inf")),
    ],
)  # fmt: skip
def test_no_data_is_what_the_type_of_the_file_makes_of_it(repo, tmp_path, kind, dtype, nodata):
    root = pairs(tmp_path / "in", kind, number=1)
    values = stack(PASTIS_ORDER, SIZE, SIZE, seed=1).astype(dtype)
    values[:, 4:6, 7] = nodata
    if kind == "npy":
        np.save(root / "images/field_20210601.npy", values)
    else:
        write_tiff(root / "images/field_20210601.tif", values, left=501_000.0)
    run(repo, root, tmp_path / "out", values__nodata=[nodata])
    image = open_dataset(tmp_path / "out/folder").image(0)
    assert (image == 0).sum() == 20
    assert (image[:, 4:6, 7] == 0).all()


def test_no_data_that_the_type_of_the_file_cannot_hold_stands_nowhere():
    def found(values, dtype, *nodata):
        return np.flatnonzero(without_data(np.array(values, dtype), nodata)).tolist()

    assert found([0, 255, 1], np.uint8, -1, 256, 0.5, float("nan"), float("inf")) == []
    assert found([0, 255, 1], np.uint8, 255.0, 1) == [1, 2]
    assert found([0, np.inf, 1], np.float16, 1e20) == []
    assert found([0, np.inf, 1], np.float16, float("inf")) == [1]
    assert found([0, 1, np.nan], np.float32, 1e-60) == []
    assert found([-0.0, 1, np.nan], np.float32, 0) == [0]
    assert found([0, 1, np.nan], np.float32, float("nan"), 1) == [1, 2]
    assert found([2**63 - 1, 2**63 - 2], np.int64, 2**63 - 1) == [0]  # float64 cannot tell them apart


def test_a_geotiff_may_declare_its_own_no_data(repo, tmp_path):
    root = pairs(tmp_path / "in", number=1)
    for nodata in (-9999.0, -3.4e38, np.nan):
        values = stack(PASTIS_ORDER, SIZE, SIZE).astype(np.float32)
        values[:, 4:6, 7] = nodata
        write_tiff(root / "images/field_20210601.tif", values, left=501_000.0, nodata=nodata)
        run(repo, root, tmp_path / "out")
        image = open_dataset(tmp_path / "out/folder").image(0)
        assert (image == 0).sum() == 20
        assert (image[:, 4:6, 7] == 0).all()


def test_the_audit_counts_every_label_and_pairs_may_share_a_folder(repo, tmp_path):
    root = pairs(tmp_path / "in", number=1)
    (root / "images/field_20210601.tif").rename(root / "images/field_20210601_image.tif")
    (root / "masks/field_20210601.tif").rename(root / "images/field_20210601_mask.tif")
    run(repo, root, tmp_path / "out", masks=str(root / "images"), image_suffix="_image", mask_suffix="_mask")
    with (tmp_path / "out/folder/audit.csv").open() as file:
        rows = [(int(row["value"]), row["class"], int(row["pixels"])) for row in csv.DictReader(file)]
    values, counts = np.unique(labels(SIZE, SIZE, 1), return_counts=True)
    names = {7: "wheat", 20: "maize", 99: "ignored (255)"}
    assert rows == [(v, names[v], c) for v, c in zip(values.tolist(), counts.tolist(), strict=True)]
    assert open_dataset(tmp_path / "out/folder").manifest["roi"].to_pylist() == ["field_20210601"]


def spoil(root, what):
    image, mask = root / "images/field_20210601.tif", root / "masks/field_20210601.tif"
    values, found = stack(PASTIS_ORDER, SIZE, SIZE), labels(SIZE, SIZE)
    if what == "cut off":
        image.write_bytes(image.read_bytes()[:-4000])
    elif what == "no partner":
        mask.unlink()
    elif what == "two of a stem":
        np.save(image.with_suffix(".npy"), values)
    elif what == "other bands":
        write_tiff(image, values[:9].astype(np.uint16))
    elif what == "NaN":
        values = values.astype(np.float32)
        values[4, 5, 6] = np.nan
        write_tiff(image, values, left=501_000.0)
    elif what == "reflectance":
        write_tiff(image, (values / 10_000).astype(np.float32), left=501_000.0)
    elif what == "other shape":
        write_tiff(mask, found[None, :16].astype(np.uint8))
    elif what == "elsewhere":
        write_tiff(mask, found[None].astype(np.uint8), left=501_010.0)
    elif what == "fractions":
        write_tiff(mask, (found[None] + 0.5).astype(np.float32), left=501_000.0)
    elif what == "unmapped":
        write_tiff(mask, (found[None] + 1).astype(np.uint8), left=501_000.0)
    elif what == "other pixels":
        write_tiff(image, values.astype(np.uint16), resolution=20.0)
        mask.unlink()
        np.save(mask.with_suffix(".npy"), found)
    elif what == "pickled":
        mask.unlink()
        np.save(mask.with_suffix(".npy"), np.array([{}], dtype=object), allow_pickle=True)
    elif what == "no day":
        image.rename(root / "images/field.tif")
        mask.rename(root / "masks/field.tif")


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("cut off", "field_20210601.tif"),
        ("no partner", "no mask for: 'field_20210601'"),
        ("two of a stem", "two files of one stem"),
        ("other bands", "9, 32, 32"),
        ("NaN", r"field_20210601.tif, band B06, holds NaN or infinity, first at: \(5, 6\)"),
        ("reflectance", "importer.values.scale"),
        ("other shape", "another shape than its image"),
        ("elsewhere", "lies elsewhere"),
        ("fractions", "no whole numbers"),
        ("unmapped", r"field_20210601.tif.*\[8, 21, 100\]"),
        ("other pixels", "another size than 10.0 m"),
        ("pickled", "field_20210601.npy"),
        ("no day", "importer.day"),
    ],
)
def test_a_missing_or_broken_file_is_named(repo, tmp_path, what, word):
    root = pairs(tmp_path / "in", number=1)
    spoil(root, what)
    with pytest.raises(InputError, match=word):
        run(repo, root, tmp_path / "out")
    assert not (tmp_path / "out/folder/manifest.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"size": 64}, InputError, "smaller than a window"),
        ({"min_crop": 5000}, InputError, "5000 crop pixels"),
        ({"day": "June"}, ConfigError, "importer.day"),
        ({"country": "Austria"}, ConfigError, "country"),
        ({"protocol": "some"}, ConfigError, "protocol"),
        ({"values__bands": list(PASTIS_ORDER[:5])}, ConfigError, "lacks bands"),
        ({"values__scale": 0}, ConfigError, "scale"),
        ({"labels": "wheat"}, ConfigError, "must map"),
        ({"labels": {"x": "wheat"}}, ConfigError, "whole number"),
        ({"labels": {7.5: "wheat"}}, ConfigError, "whole number: 7.5"),
        ({"labels": {True: "wheat"}}, ConfigError, "whole number: True"),
        ({"images": "nowhere"}, InputError, "no such folder"),
    ],
)
def test_impossible_options_are_refused(repo, tmp_path, changes, kind, word):
    root = pairs(tmp_path / "in", number=1)
    with pytest.raises(kind, match=word):
        run(repo, root, tmp_path / "out", **changes)


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("resolution", 0, "give a number above 0"),
        ("resolution", float("nan"), "give a number above 0"),
        ("simulated", 5, "give true or false"),
        ("name", "../../x", "give the plain name of a folder"),
        ("name", "..", "give the plain name of a folder"),
        ("name", "", "give the plain name of a folder"),
        ("label_source", "abc", "give a list such as"),
        ("label_source", 5, "give a list such as"),
        ("values.nodata", ["a"], "give a list such as [0]"),
        ("values.nodata", 5, "give a list such as [0]"),
        ("values.nodata", [True], "give a list such as [0]"),
        ("values.scale", "abc", "give a number above 0"),
        ("values.offset", "abc", "give a number"),
        ("values.bands", "B02", "give a list such as"),
        ("values", None, "give the options"),
        ("bands", "B02", "give a list such as"),
        ("size", "abc", "give a whole number, 1 or more"),
        ("size", 64.5, "give a whole number, 1 or more"),
        ("size", True, "give a whole number, 1 or more"),
        ("stride", None, "give a whole number, 1 or more"),
        ("stride", 0, "give a whole number, 1 or more"),
        ("min_crop", "abc", "give a whole number, 0 or more"),
        ("country", 5, "give two capital letters"),
        ("protocol", 5, "give one of all, crop"),
        ("image_suffix", 5, "give text, a number in quotes"),
        ("mask_suffix", None, "give text, a number in quotes"),
        ("taxonomy_name", 5, "give text"),
        ("images", 5, "give a path"),
        ("masks", None, "give a path"),
        ("day", 20210601, "give YYYY-MM-DD"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(repo, tmp_path, option, value, remedy):
    root = pairs(tmp_path / "in", number=1)
    given = {"images": str(root / "images"), "masks": str(root / "masks"), "size": SIZE, "labels": LABELS}
    assert refused(repo, "folder", option, value, out=str(tmp_path / "out"), **given).startswith(remedy)
    assert not (tmp_path / "out").exists()


def test_many_placeholders_share_no_ground():
    spots = {_placeholder("a", number, 256, 256, 10.0).crs + str(_placeholder("a", number, 256, 256, 10.0).bounds)
             for number in range(3000)}  # fmt: skip
    assert len(spots) == 3000
