"""The embedded region as a folder: what it holds, that it is always the same, and that a stopped run goes on."""

import hashlib
import json
import zipfile
from pathlib import Path

import pyogrio
import pytest
import rasterio

from cropseg.core.errors import ConfigError
from data_prep.simulate import region
from data_prep.simulate.region import Settings, build
from data_prep.subsets import from_config

EAST = [f"{p.acquired:%Y-%m-%d}" for p in region.place("emb_east").passes]
TWINS = "2023-06-13"
SMALL = Settings(size=120, regions=("emb_east",), skip=tuple(sorted(set(EAST) - {TWINS, "2023-03-25"})))


def bytes_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    return folder, build(SMALL, folder)


def test_the_folder_holds_what_the_record_says(small):
    folder, summary = small
    record = json.loads((folder / "region.json").read_text())
    assert record["simulated"] is True
    assert "not crop mapping" in record["note"]
    assert not summary.reused
    assert len(record["products"]) == len(summary.products) == 3
    subsets = from_config(record["subsets"])
    assert [s.name for s in subsets] == ["emb_east", "emb_east_sparse"]
    assert [s.coverage for s in subsets] == ["exhaustive", "sparse"]
    rows = [pyogrio.read_info(folder / s.parcels)["features"] for s in subsets]
    assert rows == [summary.subsets[s.name] for s in subsets]
    assert 0 < rows[1] < 0.5 * rows[0]
    items = json.loads((folder / "stac" / "items.json").read_text())["features"]
    assert sorted(item["id"] for item in items) == sorted(record["products"])
    assert sorted(path.stem for path in (folder / "products").iterdir()) == sorted(record["products"])
    assert not (folder / ".build").exists()


def test_products_are_readable_and_of_the_asked_size(small):
    folder, summary = small
    baselines = set()
    for name in summary.products:
        path = folder / "products" / f"{name}.zip"
        with zipfile.ZipFile(path) as archive:
            images = [member for member in archive.namelist() if member.endswith(".jp2")]
        assert len(images) == 11
        baselines.add(name.split("_")[3])
        for image in images:
            with rasterio.open(f"/vsizip/{path}/{image}") as dataset:
                side = 120 if "_10m" in image else 60
                assert dataset.shape == (side, side)
                assert dataset.crs == "EPSG:32634"
                assert dataset.bounds[0] == 300000
                assert dataset.bounds[3] == 5400000
    assert baselines == {"N0509", "N0510"}


def test_a_second_call_finds_it_made(small):
    folder, _ = small
    before = bytes_of(folder)
    assert build(SMALL, folder).reused
    assert bytes_of(folder) == before


def test_a_stopped_run_goes_on_to_the_same_bytes(small, tmp_path, monkeypatch):
    folder, _ = small
    calls = []
    pack = region.writer.pack

    def stop(safe, target):
        calls.append(safe)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pack(safe, target)

    monkeypatch.setattr(region.writer, "pack", stop)
    with pytest.raises(KeyboardInterrupt):
        build(SMALL, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "region.json").exists()
    build(SMALL, tmp_path / "stopped")
    assert len(calls) == 4  # the first is not made again
    assert bytes_of(tmp_path / "stopped") == bytes_of(folder)


def test_another_seed_replaces_the_region_by_another(small, tmp_path):
    folder, _ = small
    one = Settings(size=120, regions=("emb_east",), skip=tuple(sorted(set(EAST) - {"2023-03-25"})))
    build(one, tmp_path)
    first = bytes_of(tmp_path)
    assert set(first) < set(bytes_of(folder)) or len(first) < len(bytes_of(folder))
    build({**one.to_dict(), "seed": 5}, tmp_path)
    second = bytes_of(tmp_path)
    changed = [name for name in first if name.endswith(".zip") and first[name] != second.get(name)]
    assert len(changed) == 1


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no simulated region"):
        build(SMALL, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_number_of_workers_is_no_part_of_the_result(small, tmp_path):
    folder, _ = small
    build(Settings(**{**SMALL.to_dict(), "workers": 2}), tmp_path)
    assert bytes_of(tmp_path) == bytes_of(folder)
