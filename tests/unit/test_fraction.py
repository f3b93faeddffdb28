"""Training on a share of the parcels: which pixels keep their label, and that everyone sees the same."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factory import make_dataset

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import MANIFEST_SCHEMA, SPLIT_SCHEMA, open_dataset, write_table
from cropseg.data.datamodule import CropDataModule
from cropseg.data.few_labels import CELL, cell_numbers, draws, splitmix64


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_dataset(folder, n=25, size=48, ignored=True)
    return folder


def opened(root, fraction, seed=0):
    data = CropDataModule(root, fraction=fraction, seed=seed)
    data.setup()
    return data


def parcels_labelled(dataset, rows):
    """(subset, number) of the parcels with a label, read plainly."""
    found = set()
    for row in rows:
        numbers = dataset.parcels(row)[dataset.mask(row) != 255]
        found |= {(dataset.manifest["subset"][int(row)].as_py(), int(n)) for n in numbers if n}
    return found


def test_generator_is_splitmix64():
    # The first outputs for seed 1234567 of the reference implementation (Vigna's splitmix64.c).
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(np.uint64(1234567), np.arange(1, 6, dtype=np.uint64)).tolist() == expected


def test_draws_are_even_and_differ_between_keys():
    numbers = np.arange(1, 20001, dtype=np.uint64)
    one, other = draws("0/parcel/a", numbers), draws("0/parcel/b", numbers)
    for values in (one, other):
        assert 0 <= values.min() < values.max() < 1
        counts = np.histogram(values, 20, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # χ², 19 degrees of freedom, 0.001
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_what_is_kept_is_whole_parcels_and_nothing_else_changes(root):
    whole, data = open_dataset(root), opened(root, 0.4)
    parts = whole.parts("location")
    kept, known = (parcels_labelled(d, parts["train"]) for d in (data.dataset, whole))
    assert kept < known
    for row in parts["train"]:
        before, after, parcels = whole.mask(row), data.dataset.mask(row), data.dataset.parcels(row)
        assert ((after == before) | (after == 255)).all()
        lost = (before != 255) & (after == 255)
        for number in np.unique(parcels[parcels > 0]):
            inside = (parcels == number) & (before != 255)
            assert inside.sum() == 0 or lost[inside].all() != (("xx_2021", int(number)) in kept)
            assert len(np.unique(lost[inside])) <= 1
    for part in ("val", "test"):
        assert data.parts[part].tolist() == parts[part].tolist()
        for row in parts[part]:
            np.testing.assert_array_equal(data.dataset.mask(row), whole.mask(row))
    assert data.dataset.digest == whole.digest


def test_smaller_fractions_are_among_larger_ones_and_seeds_differ(root):
    rows = open_dataset(root).parts("location")["train"]
    kept = [parcels_labelled(opened(root, f).dataset, rows) for f in (0.2, 0.5, 0.8, 1)]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert kept[3] == parcels_labelled(open_dataset(root), rows)
    assert kept[1] != parcels_labelled(opened(root, 0.5, seed=1).dataset, rows)
    pixels = [sum((opened(root, f).dataset.mask(row) == 0).sum() for row in rows) for f in (0.3, 1)]
    assert 0.1 < pixels[0] / pixels[1] < 0.5  # ground without parcel is thinned at the same rate


def test_all_dates_and_overlapping_windows_of_a_place_keep_the_same(tmp_path):
    # A second date of the first patch, and a window moved by 16 pixels.
    make_dataset(tmp_path / "d", n=1, size=48, parts={"train": 1.0})
    manifest = pq.read_table(tmp_path / "d" / "manifest.parquet").to_pylist()
    first = manifest[0]
    mask, parcels, image = (np.load(tmp_path / "d" / first[k]) for k in ("mask", "parcels", "image"))
    second = {**first, "id": "xx_2021/other", "datetime": datetime(2021, 7, 1, tzinfo=UTC)}
    moved = {
        **first,
        "id": "xx_2021/moved",
        "transform": [10.0, 0, first["transform"][2] + 160, 0, -10.0, first["transform"][5]],
    }
    for name, array in (("mask", np.roll(mask, -16, 1)), ("parcels", np.roll(parcels, -16, 1)), ("image", image)):
        storage.write_array(tmp_path / "d" / f"moved.{name}.npy", array)
        moved[name] = f"moved.{name}.npy"
    rows = [first, second, moved]
    write_table(tmp_path / "d" / "manifest.parquet", rows, MANIFEST_SCHEMA)
    split = [{"id": r["id"], "part": "train", "group": "g"} for r in rows]
    write_table(tmp_path / "d" / "splits" / "location.parquet", split, SPLIT_SCHEMA)
    dataset = opened(tmp_path / "d", 0.5).dataset
    of = {i: dataset.mask(row) for row, i in enumerate(dataset.manifest["id"].to_pylist())}
    np.testing.assert_array_equal(of[first["id"]], of["xx_2021/other"])
    np.testing.assert_array_equal(of[first["id"]][:, 16:], of["xx_2021/moved"][:, :-16])
    assert (of[first["id"]] != mask).any()


def test_cells_lie_on_the_map():
    numbers = cell_numbers((40, 40), [10.0, 0, -80.0, 0, -10.0, 5_400_080.0])
    assert numbers.dtype == np.uint64
    assert len(np.unique(numbers)) == 9
    assert len(np.unique(numbers[:8, :8])) == len(np.unique(numbers[8:24, 8:24])) == 1
    assert CELL == 16


def test_counts_summary_and_left_out_patches_agree_with_the_masks(root):
    whole, data = open_dataset(root), opened(root, 0.15, seed=3)
    rows = whole.parts("location")["train"]
    summary = data.dataset.labels
    assert (summary["parcels"], summary["all_parcels"]) == tuple(
        len(parcels_labelled(d, of)) for d, of in ((data.dataset, data.parts["train"]), (whole, rows))
    )
    pixels = np.zeros(11, np.int64)
    for row in rows.tolist():
        counts = np.bincount(data.dataset.mask(row).ravel(), minlength=256)
        pixels += counts[:11] * (row in data.parts["train"])
        assert data.dataset.manifest["counts"][row].as_py() == counts[:11].tolist()
        assert data.dataset.manifest["ignored"][row].as_py() == counts[255]
        had, has = (((m := d.mask(row)) > 0) & (m != 255) for d in (whole, data.dataset))
        assert (row in data.parts["train"]) == (has.any() or not had.any())
    assert summary["pixels"] == pixels.tolist()
    assert summary["patches"] == len(data.parts["train"]) < summary["all_patches"] == len(rows)
    assert data.dataset.manifest.schema == whole.manifest.schema


def test_the_whole_changes_nothing_and_counts(root):
    whole, data = open_dataset(root), opened(root, 1)
    assert data.parts["train"].tolist() == whole.parts("location")["train"].tolist()
    assert data.dataset.manifest["counts"].to_pylist() == whole.manifest["counts"].to_pylist()
    assert data.dataset.labels["parcels"] == data.dataset.labels["all_parcels"] > 0
    assert opened(root, None).dataset.labels == {}


def test_a_batch_and_a_forest_see_the_same_labels(root):
    from cropseg.models.forest import Features, Sampling, draw

    data = opened(root, 0.3)
    for batch in data.train_dataloader():
        for row, mask in zip(batch["row"].tolist(), batch["mask"], strict=True):
            assert np.bincount(mask.numpy().ravel(), minlength=256)[:11].tolist() == (
                data.dataset.manifest["counts"][row].as_py()
            )
    drawn = draw(data.dataset, data.parts["train"], Features(data.dataset.spec.bands), Sampling(10**6, 10**6, 0))
    assert list(drawn.pixels) == data.train_counts().sum(axis=0).tolist()


def test_a_class_without_parcels_left_is_named(root, capsys):
    opened(root, 0.05, seed=1)
    said = capsys.readouterr()
    assert "parcels of the training part are used" in said.out
    assert "no labelled pixel is left of" in said.err


def test_what_is_wrong_is_said(root, tmp_path):
    for fraction in (0, -0.1, 1.5, float("nan"), "tenth"):
        with pytest.raises(ConfigError, match=r"dataset\.fraction"):
            opened(root, fraction)
    with pytest.raises(InputError, match="leaves no labelled crop pixel"):
        opened(root, 1e-9)
    make_dataset(tmp_path / "none", n=5, size=16)
    path = tmp_path / "none" / "manifest.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("parcels")
    pq.write_table(table.set_column(place, table.schema.field("parcels"), pa.nulls(5, pa.string())), path)
    with pytest.raises(InputError, match="knows no parcels"):
        opened(tmp_path / "none", 0.5)
    dataset = make_dataset(tmp_path / "bad", n=5, size=16)
    np.save(tmp_path / "bad" / dataset.manifest["parcels"][0].as_py(), np.zeros((16, 15), np.uint32))
    with pytest.raises(InputError, match="differ in size"):
        opened(tmp_path / "bad", 0.5)
