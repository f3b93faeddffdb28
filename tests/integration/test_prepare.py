"""``prepare.py`` as a user runs it: the embedded region through real services, real products, and every mistake."""

import json
import resource
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from embedded import REPO, prepare, tiny_data
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from cropseg import cli
from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError, StorageError
from cropseg.core.manifest import open_dataset, read_table
from data_prep import pipeline
from data_prep.ensure import ensure
from data_prep.split import LocationSplit, proof


def config(*overrides: str):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("prepare", list(overrides))


def local(data: Path, *more: str) -> list[str]:
    """The small simulation's products read in place: quick, and without services."""
    return [
        "prepare_as=tiny", "source=local", "source.simulated=true", f"source.folder={tiny_data() / 'cache'}",
        "region.subsets.names=[emb_north]", f"region.subsets.folder={tiny_data() / 'simulated' / 'test'}",
        "rois.limit=3", "limits.products_per_roi=1", "split.cell_m=640", f"paths.data={data}", *more,
    ]  # fmt: skip


def real(real_data: Path, data: Path, *more: str) -> list[str]:
    return ["prepare_as=real_60m", f"paths.real={real_data}", f"paths.data={data}", *more]


def test_the_embedded_dataset_keeps_its_promises():
    root = tiny_data() / "embedded"
    dataset = open_dataset(root)
    assert dataset.spec.simulated
    assert dataset.spec.protocol == "all"
    rows = dataset.manifest.to_pylist()
    parts = dataset.parts("location")
    assert all(len(parts[part]) for part in ("train", "val", "test"))
    proof(LocationSplit(cell_m=1280), dataset.manifest, read_table(root / "splits" / "location.parquet").to_pylist())
    assert {row["crs"] for row in rows} == {"EPSG:32633", "EPSG:32631"}
    assert all(4 <= row["datetime"].month <= 9 for row in rows)
    for index in (0, len(rows) // 2, len(rows) - 1):
        image, mask = dataset.image(index), dataset.mask(index)
        assert image.shape == (10, 64, 64)
        assert storage.sha256(root / rows[index]["image"]) == rows[index]["image_sha256"]
        assert storage.sha256(root / rows[index]["mask"]) == rows[index]["mask_sha256"]
        assert np.bincount(mask.ravel(), minlength=256)[:11].tolist() == rows[index]["counts"]
    frame = gpd.read_parquet(root / "manifest.parquet")
    assert frame.crs.is_geographic
    assert len(frame) == len(rows)
    pool = read_table(root / "candidates.parquet")
    assert set(dataset.manifest["id"].to_pylist()) <= set(pool["id"].to_pylist())
    assert (root / "tables" / "table2_countries.csv").is_file()


def test_the_unseen_sets_are_for_testing_only():
    for name, protocol in (("embedded_unseen", "all"), ("embedded_unseen_sparse", "crop")):
        dataset = open_dataset(tiny_data() / name)
        assert dataset.spec.protocol == protocol
        assert len(dataset.parts("test")["test"]) == len(dataset)
        background = np.array(dataset.manifest["counts"].to_pylist())[:, 0].sum()
        assert (background == 0) == (protocol == "crop")


def test_the_real_product_makes_patches_or_says_why_not(real_data, tmp_path, capsys):
    root = pipeline.run(config(*real(real_data, tmp_path, "stage=extract")))
    refused = (root / "refused.csv").read_text().splitlines()[1:]
    assert read_table(root / "candidates.parquet").num_rows + len(refused) == 8
    assert all("of the pixels" in line for line in refused)
    root = pipeline.run(config(*real(real_data, tmp_path, "quality=off", "name=all")))
    dataset = open_dataset(root)
    assert len(dataset) == 8
    assert dataset.image(0).shape == (9, 16, 16)
    assert dataset.spec.resolution == 60
    assert dataset.spec.protocol == "crop"
    assert not dataset.spec.simulated
    assert "outside the season" not in capsys.readouterr().out
    with pytest.raises(InputError, match="no region has a product left"):
        pipeline.run(config(*real(real_data, tmp_path, "season=growing", "name=summer")))
    assert "outside the season" in capsys.readouterr().out


def test_stages_stop_where_they_are_told(tmp_path):
    for stage, there, absent in [
        ("rois", "rois.json", "search"), ("search", "search", "shards"), ("fetch", "search", "shards"),
        ("extract", "candidates.parquet", "manifest.parquet"), ("split", "splits/location.parquet", "tables"),
        ("all", "tables/table3_classes.csv", "none"),
    ]:  # fmt: skip
        root = pipeline.run(config(*local(tmp_path, f"stage={stage}")))
        assert (root / there).exists()
        assert not (root / absent).exists()


def test_another_configuration_is_refused_and_another_split_added(tmp_path, capsys):
    root = pipeline.run(config(*local(tmp_path)))
    before = storage.sha256(root / "manifest.parquet")
    with pytest.raises(ConfigError, match=r"quality\.max_nodata: 0\.05 -> 0\.5.*overwrite=true"):
        pipeline.run(config(*local(tmp_path, "quality.max_nodata=0.5")))
    plain = [option for option in local(tmp_path) if not option.startswith("split.")]
    pipeline.run(config(*plain, "stage=split", "split=random"))
    assert storage.sha256(root / "manifest.parquet") == before
    dataset = open_dataset(root)
    assert dataset.parts("random")
    assert dataset.parts("location")
    assert json.loads((root / "splits" / "random.json").read_text())["split"] == "random"
    with pytest.raises(ConfigError, match=r"split\.name="):
        pipeline.run(config(*local(tmp_path, "stage=split", "split.seed=9")))
    pipeline.run(config(*local(tmp_path, "quality.max_nodata=0.5", "overwrite=true")))
    assert not (root / "splits" / "random.parquet").exists()


def test_the_paper_s_order(tmp_path):
    overrides = [o for o in local(tmp_path) if not o.startswith("split.")]
    paper = ["split=random", "select.before_split=true", "select.budget=6", "taxonomy=eurocrops10",
             "labels.unmapped=background", "labels.ambiguous=lowest"]  # fmt: skip
    root = pipeline.run(config(*overrides, *paper))
    assert len(open_dataset(root)) == 6
    assert read_table(root / "candidates.parquet").num_rows > 6
    assert "over the budget" in (root / "dropped.csv").read_text()


def test_a_full_disk_leaves_no_half_written_shard(tmp_path, monkeypatch):
    import data_prep.shards as shards

    calls = 0
    save = np.save

    def full(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(shards.np, "save", full)
    with pytest.raises(StorageError, match="free some space"):
        pipeline.run(config(*local(tmp_path)))
    folders = [p for p in (tmp_path / "embedded" / "shards").glob("*/*/*") if p.is_dir()]
    assert all((folder / "index.parquet").is_file() for folder in folders)
    assert not (tmp_path / "embedded" / "manifest.parquet").exists()
    monkeypatch.undo()
    pipeline.run(config(*local(tmp_path)))


def test_a_corrupt_image_is_named(tmp_path):
    folder = tmp_path / "safe"
    shutil.copytree(tiny_data() / "cache", folder)
    for band in folder.rglob("*_B04_10m.jp2"):
        band.write_bytes(band.read_bytes()[: band.stat().st_size // 2])
    with pytest.raises(InputError, match="B04_10m"):
        pipeline.run(config(*local(tmp_path), f"source.folder={folder}"))
    assert not (tmp_path / "embedded" / "manifest.parquet").exists()


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        pipeline.run(config(*local(tmp_path, "overwrite=true")))
    assert (tmp_path / "embedded" / "thesis.txt").read_text() == "dear"


def test_two_at_once(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".embedded.lock"), pytest.raises(InputError, match=r"another prepare\.py"):
        pipeline.run(config(*local(tmp_path)))


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["stage=everything"], ConfigError, "choose from harmonize"),
        (["workers=0"], ConfigError, "workers"),
        (["search.max_cloud=101"], ConfigError, "percentage"),
        (["patch.stride=0"], ConfigError, "patch.stride"),
        (["limits.per_roi=0"], ConfigError, "limits.per_roi"),
        (["grid.bands=[B02,B99]"], ConfigError, "B99"),
        (["region.subsets.names=[emb_south]"], ConfigError, "emb_south"),
        (["source.folder=/nowhere"], InputError, "/nowhere"),
        (["split.cell_m=100000"], ConfigError, "split.cell_m"),
    ],
)
def test_mistakes_are_told_with_a_remedy(tmp_path, overrides, error, words):
    with pytest.raises((error, HydraException)) as caught:  # Hydra wraps what a constructor raises
        pipeline.run(config(*local(tmp_path), *overrides))
    assert words in cli.explain(caught.value)
    assert isinstance(caught.value.__cause__ or caught.value, error)
    assert not (tmp_path / "embedded" / "manifest.parquet").exists()


def test_one_line_and_an_exit_code(tmp_path, monkeypatch):
    """Through the command line: an unknown override, a wrong path, a port in use, a limit on file sizes."""
    import socket

    for overrides, words in ([["spilt=random"], "spilt"], [["region=own", "region.parcels=/no/such.gpkg",
                             "region.country=AT", "region.year=2021", "source=cdse"], "/no/such.gpkg"]):  # fmt: skip
        done = prepare(tmp_path, *overrides, check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        tiny = ["prepare_as=tiny", f"source.folder={tiny_data() / 'simulated' / 'test'}",
                f"region.subsets.folder={tiny_data() / 'simulated' / 'test'}"]  # fmt: skip
        done = prepare(tmp_path, *tiny, f"source.port={taken.getsockname()[1]}", check=False)
    assert done.returncode == 2
    assert "in use" in done.stderr
    # Without coverage: its own record would not fit under the limit either.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # noqa: E731
    done = prepare(tmp_path, *local(tmp_path), check=False, preexec_fn=limit)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "embedded" / "manifest.parquet").exists()


def test_first_use(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"prepare\.py"):
        ensure(tmp_path / "mine")
    ensure(tiny_data() / "embedded")  # there already
    asked = []
    monkeypatch.setattr("data_prep.ensure.subprocess.run", lambda command, **_: asked.append(command) or Done())
    with pytest.raises(Exception, match="preparing"):
        ensure(tmp_path / "embedded_unseen", "prepare_as=tiny")
    assert asked[0][2:] == ["region=embedded_unseen", f"paths.data={tmp_path}", "prepare_as=tiny"]


class Done:
    returncode = 2
