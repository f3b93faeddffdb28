"""The DACIA5 importer on files laid out as the original: one true scene of 800 by 450 pixels, and many small ones."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from fakes import Hashed, Nearest, spec_for
from foreign import DACIA5_ORDER, refused, run_importer, stack, write_dacia5, write_tiff
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.io import savemat
from scipy.spatial.distance import cdist

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import open_dataset
from cropseg.core.scene import Grid
from cropseg.core.tiling import sliding
from cropseg.edges import BANDS_PX
from cropseg.evaluate import EvaluationSet, examine, with_beside
from cropseg.tally import BANDS_HA
from data_prep.importers.dacia5 import _owners

SIZE = 32


def run(repo, source, out, **changes):
    return run_importer(repo, "dacia5", source=str(source), out=str(out), **changes)


def small(repo, source, out, **changes):
    return run(repo, source, out, **{"size": SIZE, "stride": SIZE, "min_crop": 100, **changes})


def codes(height=40, width=72, seed=0):
    """Blocks of every DACIA5 code; the right end unlabelled but for a little."""
    values = np.array([0, *range(1, 18)])
    mask = np.random.default_rng(seed).choice(values, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    mask[:, 40:] = 0
    mask[:3, -3:] = 1
    return mask


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three scenes of two years, of which one has the offset and one lies in March."""
    folder = tmp_path_factory.mktemp("dacia5")
    scenes = {
        "20200315": stack(DACIA5_ORDER, 40, 72, seed=1),
        "20200601": stack(DACIA5_ORDER, 40, 72, seed=2),
        "20220701": stack(DACIA5_ORDER, 40, 72, seed=3, offset=1000),
    }
    scenes["20200601"][:, 5, 6] = 0
    scenes["20200601"][3, 7, 8] = 65535
    scenes["20220701"][1, 9, 10] = 990
    masks = {2020: codes(), 2022: codes(seed=5)}
    return write_dacia5(folder / "in", scenes, masks), scenes, masks


@pytest.fixture(scope="module")
def imported(made, repo, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, small(repo, made[0], out)


TABLE_7 = {
    **dict.fromkeys((1, 2), 3), **dict.fromkeys((3, 13), 1), 4: 255, **dict.fromkeys((5, 6, 7, 8), 9), 9: 7,
    **dict.fromkeys((10, 11, 12, 15), 10), 14: 8, 16: 2, 17: 6, 0: 0,
}  # fmt: skip


def test_pixels_and_labels_are_the_files_own_in_our_order(made, imported):
    _, scenes, masks = made
    dataset = open_dataset(imported[0] / "dacia5")
    assert dataset.spec.protocol == "crop"
    assert dataset.spec.bands == PAPER_BANDS
    order = [DACIA5_ORDER.index(band) for band in PAPER_BANDS]
    for row, (product, transform) in enumerate(
        zip(dataset.manifest["product"].to_pylist(), dataset.manifest["transform"].to_pylist(), strict=True)
    ):
        stamp = product[-8:]
        col, top = int((transform[2] - 500_000) / 10), int((5_070_000 - transform[5]) / 10)
        rows, cols = slice(top, top + SIZE), slice(col, col + SIZE)
        raw = scenes[stamp][order][:, rows, cols]
        expected = np.where((raw == 0) | (raw == 65535), 0, np.maximum(raw - (1000 if stamp[:4] == "2022" else 0), 1))
        np.testing.assert_array_equal(dataset.image(row), expected)
        labels = np.vectorize(TABLE_7.get)(masks[int(stamp[:4])][rows, cols])
        np.testing.assert_array_equal(dataset.mask(row), labels)
    assert dataset.manifest["clamped_fraction"].to_numpy().max() > 0


def test_windows_reach_the_border_and_need_enough_crop_pixels_and_the_season(made, imported):
    out, summary = imported
    dataset = open_dataset(out / "dacia5")
    # 40 × 72 pixels by 32: rows 0 and 8, columns 0, 32 and 40; the last columns hold too few crop pixels.
    spots = {name.split("/")[-1] for name in dataset.manifest["id"].to_pylist()}
    assert spots == {"0_0", "8_0", "0_32", "8_32"}
    assert {str(moment)[:10] for moment in dataset.manifest["datetime"].to_pylist()} == {"2020-06-01", "2022-07-01"}
    found = {row["what"]: (row["paper"], row["here"], row["verdict"]) for row in summary["against_paper"]}
    assert found["scenes"] == (172, 3, "differ")
    assert found["windows"] == (1376, 18, "differ")
    assert found["windows kept"][1] == 12
    assert found["windows of the season"][1] == len(dataset) == 8
    assert found["pixels of barley"] == (0, 0, "agree")
    counts = np.sum(dataset.manifest["counts"].to_pylist(), axis=0)
    assert found["pixels of maize"] == (2266208, counts[1], "differ")


def test_the_other_set_has_every_pixel_of_a_scene_once(made, imported):
    out, summary = imported
    once, every = open_dataset(out / "dacia5_once"), open_dataset(out / "dacia5")
    crop = 0
    for stamp, mask in (("20200601", made[2][2020]), ("20220701", made[2][2022])):
        times = np.zeros(mask.shape, int)
        for row in range(len(once)):
            name = once.manifest["id"][row].as_py()
            assert name == every.manifest["id"][row].as_py()
            if stamp not in name:
                continue
            top, left = map(int, name.split("/")[-1].split("_"))
            labels = once.mask(row)
            both = labels != 255
            np.testing.assert_array_equal(labels[both], every.mask(row)[both])
            np.testing.assert_array_equal(once.image(row), every.image(row))
            np.testing.assert_array_equal(once.parcels(row), every.parcels(row))
            times[top : top + SIZE, left : left + SIZE] += both
        peas = mask == 4
        assert times[:, :64][~peas[:, :64]].min() == times.max() == 1
        crop += int(((mask != 0) & ~peas)[:, :64].sum())
    assert summary["crop_pixels"]["once"] == crop < summary["crop_pixels"]["each_window"]


def test_where_the_labels_of_a_window_end_is_no_edge_and_no_parcel_becomes_smaller_or_larger(repo, tmp_path):
    """The set of each pixel once, against brute force on the codes: two pixels of one parcel have one code."""
    mask = np.random.default_rng(4).choice([0, 1, 3, 4, 9], (4, 6)).repeat(14, 0).repeat(14, 1)[:40, :72]
    values = stack(DACIA5_ORDER, 40, 72, seed=3)
    values[:, 20:23, 30:36] = 0
    small(repo, write_dacia5(tmp_path / "in", {"20210601": values}, {2021: mask}), tmp_path)
    data = open_dataset(tmp_path / "dacia5_once")
    spots = [tuple(map(int, name.split("/")[-1].split("_"))) for name in data.manifest["id"].to_pylist()]
    assert sorted(spots) == [(0, 0), (0, 32), (0, 40), (8, 0), (8, 32), (8, 40)]
    predictor = Hashed(spec_for(data))
    _, details = examine(predictor, EvaluationSet("once", str(data.root), "test", protocol="crop"))

    line, col = np.mgrid[:40, :72]
    depth = [
        np.minimum.reduce([line - top + 1, col - left + 1, top + SIZE - line, left + SIZE - col])
        for top, left in sorted(spots)
    ]
    owner = [sorted(spots)[which] for which in np.argmax(depth, axis=0).ravel()]  # every pixel lies in a window
    fields, known = np.zeros(mask.shape, int), 0
    for code in (1, 3, 4, 9):
        found, number = ndimage.label(mask == code, np.ones((3, 3)))
        fields[found > 0] = found[found > 0] + known
        known += number
    hectares = np.bincount(fields.ravel()) / 100
    bands = np.zeros((len(BANDS_PX), 11, 11), int)
    areas, parcels = np.zeros((len(BANDS_HA), 11, 11), int), [set() for _ in BANDS_HA]
    for row, (top, left) in enumerate(spots):
        labels = predictor.labels(data.image(row)[None])[0]
        here = mask[top : top + SIZE, left : left + SIZE]
        edge = [
            (i, j) for i in range(SIZE) for j in range(SIZE)
            if any(0 <= i + a < SIZE and 0 <= j + b < SIZE and here[i + a, j + b] != here[i, j]
                   for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        ]  # fmt: skip
        distance = cdist(np.argwhere(here >= 0), edge).min(axis=1).reshape(here.shape)
        for i, j in np.argwhere((data.image(row) > 0).all(axis=0) & (here != 4)):
            if owner[(top + i) * 72 + left + j] == (top, left):
                cell = TABLE_7[int(here[i, j])], labels[i, j]
                bands[(np.digitize(distance[i, j], BANDS_PX) - 1, *cell)] += 1
                if field := int(fields[top + i, left + j]):
                    band = np.digitize(hectares[field], BANDS_HA) - 1
                    areas[(band, *cell)] += 1
                    parcels[band].add(field)
    for band, expected in zip(details.boundary, bands, strict=True):
        assert expected.any()
        np.testing.assert_array_equal(band.confusion, expected)
    for size, expected, ours in zip(details.parcel_areas, areas, parcels, strict=True):
        np.testing.assert_array_equal(size.confusion, expected)
        assert size.parcels == len(ours)
    assert sum(bool(ours) for ours in parcels) > 2
    every = open_dataset(tmp_path / "dacia5")
    _, twice = examine(predictor, EvaluationSet("every", str(every.root), "test", protocol="crop"))
    assert [one.parcels for one in twice.parcel_areas] == [len(ours) for ours in parcels]
    np.testing.assert_array_equal(twice.parcel_majority, details.parcel_majority)


def test_parcels_are_the_same_in_overlapping_windows_and_differ_between_years(imported):
    dataset = open_dataset(imported[0] / "dacia5")
    numbers = {}
    for row in range(len(dataset)):
        year = dataset.manifest["subset"][row].as_py()
        parcels, mask = dataset.parcels(row), dataset.mask(row)
        assert ((parcels == 0) == (mask == 0)).all()
        numbers.setdefault(year, set()).update(np.unique(parcels[parcels > 0]).tolist())
        for number in np.unique(parcels[parcels > 0]):
            assert len(np.unique(mask[parcels == number])) == 1
    assert not numbers["dacia5_2020"] & numbers["dacia5_2022"]


def test_the_audit_tells_of_every_scene_what_was_decided_and_why(imported):
    with (imported[0] / "dacia5/audit.csv").open() as file:
        rows = {row["day"]: row for row in csv.DictReader(file)}
    assert {day: row["use"] for day, row in rows.items()} == {
        "2020-03-15": "out of season", "2020-06-01": "used", "2022-07-01": "used",
    }  # fmt: skip
    assert [rows[day]["offset"] for day in sorted(rows)] == ["", "absent", "present"]
    assert rows["2020-06-01"]["order"] == "wavelength"
    assert float(rows["2020-06-01"]["clamped_if_present"]) > 0.2
    assert rows["2022-07-01"]["order_alphabet_failed"]


def test_the_other_choice_is_one_option_away(made, imported, repo, tmp_path):
    small(repo, made[0], tmp_path, rule__offset="other")
    here, there = open_dataset(tmp_path / "dacia5_other_offset"), open_dataset(imported[0] / "dacia5")
    first, second = here.image(0).astype(int), there.image(0).astype(int)
    assert here.manifest["subset"][0].as_py() == "dacia5_2020"
    np.testing.assert_array_equal(first, np.where(second == 0, 0, np.maximum(second - 1000, 1)))
    np.testing.assert_array_equal(here.mask(0), there.mask(0))


def test_both_other_choices_come_along_and_are_scored_beside(made, imported, repo, tmp_path, capsys):
    small(repo, made[0], tmp_path, others=True)
    assert sorted(path.parent.name for path in tmp_path.glob("*/dataset.json")) == [
        "dacia5", "dacia5_once", "dacia5_other_offset", "dacia5_other_offset_once", "dacia5_other_order",
        "dacia5_other_order_once",
    ]  # fmt: skip
    assert open_dataset(tmp_path / "dacia5").digest == open_dataset(imported[0] / "dacia5").digest
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        cfg = compose("evaluate", ["evaluation=[dacia5]", f"paths.data={tmp_path}"])
    (chosen,) = (instantiate(one) for one in cfg.evaluation.values())
    shutil.rmtree(tmp_path / "dacia5_other_order")
    capsys.readouterr()
    sets = with_beside([chosen])
    assert [one.name for one in sets] == ["dacia5", "dacia5_once", "dacia5_other_offset"]
    assert {one.clusters for one in sets} == {"parcel_year"}
    assert sets[2].root == str(tmp_path / "dacia5_other_offset")
    said = " ".join(capsys.readouterr().out.split())
    assert "not there to score beside dacia5: dacia5_other_order; make it: python prepare.py importer=dacia5" in said
    explicit = dataclasses.replace(sets[1], note="mine")
    assert [one.note for one in with_beside([chosen, explicit]) if one.name == "dacia5_once"] == ["mine"]


def test_a_field_keeps_its_number_over_the_dates_of_a_year_and_is_a_cluster(repo, tmp_path):
    scenes = {stamp: stack(DACIA5_ORDER, 40, 72, seed=number) for number, stamp in enumerate(("20200601", "20200701"))}
    scenes["20210601"] = stack(DACIA5_ORDER, 40, 72, seed=9)
    small(repo, write_dacia5(tmp_path / "in", scenes, {2020: codes(), 2021: codes()}), tmp_path)
    data = open_dataset(tmp_path / "dacia5")
    by_window = {}
    for row in range(len(data)):
        product, spot = data.manifest["id"][row].as_py().split("/")[-2:]
        by_window.setdefault(spot, {})[product[-8:]] = data.parcels(row)
    for found in by_window.values():
        np.testing.assert_array_equal(found["20200601"], found["20200701"])
        assert not set(np.unique(found["20200601"])) & set(np.unique(found["20210601"])) - {0}
    fields = set()
    for row in range(len(data)):
        labelled = (data.mask(row) != 255) & (data.image(row) > 0).all(axis=0)  # peas are not scored
        fields |= {int(number) for number in np.unique(data.parcels(row)[labelled])}
    chosen = EvaluationSet("dacia5", str(data.root), "test", protocol="crop", clusters="parcel_year")
    evaluation, details = examine(Nearest(spec_for(data)), chosen)
    assert details.clusters_are == "parcel and year"
    # Every field; and what lies outside of fields in either window, each year.
    assert len(details.clusters) == len(fields - {0}) + 4
    np.testing.assert_array_equal(sum(details.clusters.values()), evaluation.confusion)


def test_the_same_files_give_the_same_bytes(made, imported, repo, tmp_path):
    small(repo, made[0] / "Dataset", tmp_path)  # the folder itself will do, too
    for name in ("manifest.parquet", "dataset.json", "audit.csv", "splits/test.parquet"):
        assert (tmp_path / "dacia5" / name).read_bytes() == (imported[0] / "dacia5" / name).read_bytes()


def test_a_true_scene_gives_eight_windows(repo, tmp_path):
    mask = np.zeros((450, 800), np.uint8)
    mask[100:140, 20:60] = 1  # 1600 wheat, in the upper left window alone
    mask[200:240, 530:570] = 3  # 1600 maize, in four windows
    values = stack(DACIA5_ORDER, 450, 800)
    write_dacia5(tmp_path / "in", {"20210501": values}, {2021: mask})
    summary = run(repo, tmp_path / "in", tmp_path / "out")
    found = {row["what"]: row["here"] for row in summary["against_paper"]}
    assert found["windows"] == 8
    names = [name.split("/")[-1] for name in open_dataset(tmp_path / "out/dacia5").manifest["id"].to_pylist()]
    kept = []
    for top in (0, 194):
        for left in (0, 256, 512, 544):
            part = mask[top : top + 256, left : left + 256]
            kept += [f"{top}_{left}"] * int((part > 0).sum() >= 1000)
    # The last window is aligned to the border, so 26 of the 40 columns of maize lie in it as well.
    assert sorted(names) == sorted(kept) == ["0_0", "0_512", "0_544", "194_512", "194_544"]
    assert found["pixels of wheat"] == 1600
    assert summary["crop_pixels"] == {"each_window": 1600 + 2 * (1600 + 26 * 40), "once": 1600 * 2}


def test_a_mat_mask_gives_what_the_png_gives(made, imported, repo, tmp_path):
    source = write_dacia5(tmp_path / "in", made[1], made[2])
    for year, mask in made[2].items():
        path = source / f"Dataset/Masks_and_legend/Sentinel2_{year}/Labels_mask_{year}.png"
        path.unlink()
        savemat(path.with_suffix(".mat"), {"mask": mask.astype(np.uint8)}, do_compression=True)
    small(repo, source, tmp_path / "out")
    first, second = (open_dataset(root / "dacia5").manifest for root in (tmp_path / "out", imported[0]))
    assert first.drop_columns("scl_invalid_fraction").equals(second.drop_columns("scl_invalid_fraction"))  # NaN


def test_two_masks_of_a_year_that_differ_and_scenes_on_two_grids_are_told(made, repo, tmp_path, capsys):
    source = write_dacia5(tmp_path / "in", made[1], made[2])
    for year, mask in ((2020, made[2][2020]), (2022, made[2][2022].T)):
        path = source / f"Dataset/Masks_and_legend/Sentinel2_{year}/Labels_mask_{year}.mat"
        savemat(path, {"mask": mask.astype(np.uint8)})
    name = "Images_Sentinel2_GeoTIFF/Sentinel2_2022/Sentinel2_L2A_20220701.tif"
    write_tiff(source / "Dataset" / name, made[1]["20220701"].astype(np.uint16), left=500_010.0)
    small(repo, source, tmp_path / "out")
    told = capsys.readouterr().err
    assert "Labels_mask_2022.mat beside it holds other labels" in told
    assert "Labels_mask_2020.mat" not in told
    assert "scenes lie on 2 grids" in told


@settings(max_examples=40, deadline=None)
@given(height=st.integers(6, 20), width=st.integers(6, 20), stride=st.integers(2, 6), drop=st.integers(0, 7))
def test_a_pixel_is_owned_by_the_window_in_which_it_lies_deepest(height, width, stride, drop):
    windows = list(sliding(height, width, 6, stride, border_aligned=True))
    windows = [window for number, window in enumerate(windows) if number != drop]
    owner = _owners(Grid("EPSG:32635", (10, 0, 0, 0, -10, 0), height, width), windows)
    for row in range(height):
        for col in range(width):
            depths = [
                min(row - w.row + 1, col - w.col + 1, w.row + w.height - row, w.col + w.width - col) for w in windows
            ]
            best = max(depths, default=0)
            assert owner[row, col] == (depths.index(best) if best > 0 else len(windows))


def spoil(source, what):
    image = source / "Dataset/Images_Sentinel2_GeoTIFF/Sentinel2_2020/Sentinel2_L2A_20200601.tif"
    mask = source / "Dataset/Masks_and_legend/Sentinel2_2020/Labels_mask_2020.png"
    if what == "cut off":
        image.write_bytes(image.read_bytes()[:-20_000])
    elif what == "no raster":
        image.write_bytes(b"<html>")
    elif what == "no mask":
        mask.unlink()
    elif what == "unknown code":
        values = codes()
        values[0, 0] = 77
        Image.fromarray(values.astype(np.uint8)).save(mask)
    elif what == "mask cut off":
        mask.write_bytes(mask.read_bytes()[:-40])
    elif what == "mask with a wrong byte":
        content = bytearray(mask.read_bytes())
        content[len(content) // 2] ^= 1
        mask.write_bytes(content)
    elif what == "turned mask":
        Image.fromarray(codes().T.astype(np.uint8)).save(mask)
    elif what == "colour mask":
        Image.fromarray(np.zeros((40, 72, 3), np.uint8)).save(mask)
    elif what == "other name":
        image.rename(image.with_name("Sentinel2_L2A_20200631.tif"))
    elif what == "wrong year":
        image.rename(image.with_name("Sentinel2_L2A_20210601.tif"))
    elif what == "broken mat":
        mask.unlink()
        mask.with_suffix(".mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(50))
    elif what == "mat of MATLAB 7.3":
        mask.unlink()
        # Text, no subsystem, version 0x0200, little-endian; then HDF5.
        head = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
        mask.with_suffix(".mat").write_bytes(head.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(200))
    elif what == "no images":
        (source / "Dataset").rename(source / "data")


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("cut off", "20200601.tif"),
        ("no raster", "20200601.tif"),
        ("no mask", "Labels_mask_2020"),
        ("unknown code", r"Labels_mask_2020.png holds codes.*\[77\]"),
        ("mask cut off", "Labels_mask_2020.png"),
        ("mask with a wrong byte", "Labels_mask_2020.png"),
        ("turned mask", "axes swapped"),
        ("colour mask", "one band"),
        ("other name", "20200631"),
        ("wrong year", "20210601"),
        ("broken mat", "Labels_mask_2020.mat"),
        ("mat of MATLAB 7.3", "MATLAB 7.3 file"),
        ("no images", "Dataset"),
    ],
)
def test_a_missing_or_broken_file_is_named(made, repo, tmp_path, what, word):
    source = write_dacia5(tmp_path / "in", made[1], made[2])
    spoil(source, what)
    with pytest.raises(InputError, match=word):
        small(repo, source, tmp_path / "out")
    assert not (tmp_path / "out/dacia5/manifest.parquet").exists()


def test_numbers_that_are_none_and_scenes_without_a_place_are_refused(made, repo, tmp_path):
    path = tmp_path / "in/Dataset/Images_Sentinel2_GeoTIFF/Sentinel2_2020/Sentinel2_L2A_20200601.tif"
    write_dacia5(tmp_path / "in", {"20200601": made[1]["20200601"]}, made[2])
    values = made[1]["20200601"].astype(np.float32)
    write_tiff(path, values)
    with pytest.raises(InputError, match=r"20200601.tif must hold whole numbers"):
        small(repo, tmp_path / "in", tmp_path / "out")
    values[1, 2, 3] = np.nan
    write_tiff(path, values)
    with pytest.raises(InputError, match=r"20200601.tif holds NaN or infinity, first at: \(1, 2, 3\)"):
        small(repo, tmp_path / "in", tmp_path / "out")
    write_tiff(path, made[1]["20200601"].astype(np.uint16), resolution=20.0)
    with pytest.raises(InputError, match=r"20200601.tif must have pixels of 10 m, not: 20.0"):
        small(repo, tmp_path / "in", tmp_path / "out")
    write_tiff(path, made[1]["20200601"].astype(np.uint16), crs=None)
    with pytest.raises(InputError, match=r"20200601.tif does not say where it lies"):
        small(repo, tmp_path / "in", tmp_path / "out")


def test_another_number_of_bands_and_a_scene_too_small_are_refused(made, repo, tmp_path):
    source = write_dacia5(tmp_path / "in", {"20200601": made[1]["20200601"][:11]}, made[2])
    with pytest.raises(InputError, match="must have 12 bands, not: 11"):
        small(repo, source, tmp_path / "out")
    with pytest.raises(InputError, match="smaller than a window"):
        run(repo, made[0], tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"season": ["01-01", "01-31"]}, InputError, "no window of the season"),
        ({"season": ["04-31", "09-30"]}, ConfigError, "season"),
        ({"season": ["09-30", "04-01"]}, ConfigError, "ends before"),
        ({"labels__4": "lentils"}, ConfigError, "lentils"),
        ({"labels__4": 12}, ConfigError, "what label 4 becomes"),
        ({"min_crop": -1}, ConfigError, "min_crop"),
        ({"bands": ["B02", "B99"]}, ConfigError, "B99"),
    ],
)
def test_impossible_options_are_refused(made, repo, tmp_path, changes, kind, word):
    with pytest.raises(kind, match=word):
        small(repo, made[0], tmp_path, **changes)


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("name", "../../x", "give the plain name of a folder"),
        ("season", "April", "give a list such as"),
        ("season", 5, "give a list such as"),
        ("bands", 5, "give a list such as"),
        ("size", "abc", "give a whole number, 1 or more"),
        ("stride", None, "give a whole number, 1 or more"),
        ("min_crop", 0.5, "give a whole number, 0 or more"),
        ("others", 5, "give true or false"),
        ("paper.scenes", "many", "give a whole number, 0 or more, or null"),
        ("paper", 5, "give counts by name"),
        ("rule", None, "give the options"),
        ("rule.min_share", "abc", "give a number from 0 to 1"),
        ("rule.min_claims", 2.5, "give a whole number, 0 or more"),
        ("rule.absent_below", None, "give a number"),
        ("rule.value", "abc", "give a whole number, 1 or more"),
        ("rule.orders", None, "give lists of bands by name"),
        ("source", 5, "give a path"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(made, repo, tmp_path, option, value, remedy):
    given = {"source": str(made[0]), "out": str(tmp_path / "out")}
    assert refused(repo, "dacia5", option, value, **given).startswith(remedy)
    assert not (tmp_path / "out").exists()
