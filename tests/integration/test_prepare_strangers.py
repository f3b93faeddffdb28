"""``prepare.py`` with what a stranger brings: products that went away, numbers for names, the paper's own labels."""

import runpy
import sys

import geopandas as gpd
import numpy as np
import pytest
import shapely
from embedded import REPO, tiny_data
from hydra import compose, initialize_config_dir
from safe_factory import meta, pixels, product

from cropseg.core import storage
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.manifest import open_dataset
from data_prep import pipeline
from data_prep.simulate.region import Settings
from data_prep.simulate.writer import write_product
from data_prep.subsets import from_config

LEFT, TOP = 600_000, 5_300_040


def config(*overrides: str):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("prepare", list(overrides))


def own(tmp_path, *more: str) -> list[str]:
    """Four fields, two of them over each other, and one random product of 256 × 256 pixels over them."""
    parcels = tmp_path / "fields.gpkg"
    if not parcels.exists():
        names = ["Winter wheat", "Grain maize", "Vineyard", "Winter barley"]
        places = [(0, 0, 90, 60), (80, 0, 60, 60), (0, 80, 60, 60), (120, 120, 100, 100)]
        boxes = [shapely.box(LEFT + 10 * x, TOP - 10 * (y + h), LEFT + 10 * (x + w), TOP - 10 * y)
                 for x, y, w, h in places]  # fmt: skip
        gpd.GeoDataFrame({"crop": names}, geometry=boxes, crs="EPSG:32633").to_file(parcels)
        product(tmp_path / "safe", size=258, swath=False)
    return [
        "region=own", f"region.parcels={parcels}", "region.country=AT", "region.year=2022",
        "region.english_column=crop", "source=local", f"source.folder={tmp_path / 'safe'}", "quality=off",
        "patch.size=64", "patch.stride=64", "rois.cell_m=640", "rois.min_crop_share=0", f"paths.data={tmp_path}", *more,
    ]  # fmt: skip


def test_prepare_py_runs_without_an_importer(tmp_path, monkeypatch, capsys):
    """As typed: a group of null leaves no key in the config."""
    words = ["region=national_tables", "stage=harmonize", "source=local", f"paths.data={tmp_path}", "hydra.run.dir=."]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prepare.py", *words, "region.subsets=[]"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(REPO / "prepare.py"), run_name="__main__")
    assert left.value.code == 2
    assert "region.subsets is empty" in capsys.readouterr().err


def test_the_paper_ignores_no_label(tmp_path):
    """Vineyard, the overlap of wheat and maize, ground beyond the parcels: 255 by default, background as the paper."""
    ours = open_dataset(pipeline.run(config(*own(tmp_path, "split=test_only", "select=none"))))
    assert sum(ours.manifest["ignored"].to_pylist()) > 0
    paper = ["prepare_as=paper", "name=paper", "patch.size=64", "patch.stride=64", "quality=off"]
    overrides = [o for o in own(tmp_path) if not o.startswith(("patch.", "quality"))]
    theirs = open_dataset(pipeline.run(config(*overrides, *paper)))
    assert sum(theirs.manifest["ignored"].to_pylist()) == 0
    assert [*theirs.parts("random")] == ["train", "val", "test"]
    by_place = {(row["transform"][2], row["transform"][5]): n for n, row in enumerate(ours.manifest.to_pylist())}
    for number, row in enumerate(theirs.manifest.to_pylist()):
        mine = by_place[row["transform"][2], row["transform"][5]]
        known = ours.mask(mine)
        assert (theirs.mask(number) == np.where(known == 255, 0, known)).all()
        assert (theirs.image(number) == ours.image(mine)).all()


def test_the_paper_s_windows_wherever_it_is_asked_for():
    cfg = config("prepare_as=paper")  # the embedded region takes smaller ones for itself
    assert (cfg.patch.size, cfg.patch.stride) == (256, 256)
    assert (cfg.split.name, cfg.select.before_split, cfg.labels.unmapped) == ("random", True, "background")


def test_a_product_that_went_away_is_named(tmp_path):
    options = own(tmp_path, "split=test_only", "select=none")
    pipeline.run(config(*options, "stage=search"))
    (tmp_path / "safe").rename(tmp_path / "gone")
    write_product(meta(epsg=32631), *pixels(96, 0), tmp_path / "safe")
    other = next((tmp_path / "safe").iterdir())
    other.rename(other.with_name("S2A_other.SAFE"))
    metadata = other.with_name("S2A_other.SAFE") / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace("_T33UXP_", "_T31UXP_"))
    with pytest.raises(InputError, match=r"no longer holds S2A.*remove the dataset's search/"):
        pipeline.run(config(*options))


def test_a_split_is_not_drawn_otherwise_under_its_name(tmp_path):
    """A model may have been trained on it."""
    options = own(tmp_path, "select=none")
    root = pipeline.run(config(*options, "split=test_only"))
    pipeline.run(config(*options, "split=random", "stage=split"))
    before = storage.sha256(root / "splits" / "random.parquet")
    pipeline.run(config(*options, "split=random", "stage=split"))  # the same again is no harm
    with pytest.raises(ConfigError, match=r"split\.name="):
        pipeline.run(config(*options, "split=random", "stage=split", "split.seed=5"))
    assert storage.sha256(root / "splits" / "random.parquet") == before


@pytest.mark.parametrize("field", ["country", "name", "parcels", "name_column"])
@pytest.mark.parametrize("value", [False, 12])
def test_what_yaml_reads_as_something_else_is_refused(field, value):
    """``country: NO`` is false in YAML."""
    entry = {"name": "s", "country": "AT", "year": 2022, "parcels": "a.gpkg", field: value}
    with pytest.raises(ConfigError, match="in quotes"):
        from_config([entry])


def test_no_leftover_of_a_killed_run_stays(tmp_path):
    options = own(tmp_path, "split=test_only", "select=none", "stage=harmonize")
    root = pipeline.run(config(*options))
    left = root / "audit" / ".own.123.part.csv"
    left.write_text("half")
    pipeline.run(config(*options))
    assert not left.exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["patch.size=abc"], "patch.size is a whole number"),
        (["workers=two"], "workers is a whole number"),
        (["seed=x"], "seed is a whole number"),
        (["search.max_cloud=abc"], "percentage"),
        (["grid.bands=B02"], "grid.bands is a list"),
        (["grid.bands=[B05]"], "quality.bright_bands"),
        (["grid.resolution=15"], "choose from 10, 20, 60"),
        (["grid.resampling=cubic"], "choose from bilinear, nearest"),
        (["grid.boa_offset=maybe"], "choose from apply, ignore"),
        (["labels.undefined=x"], "labels.undefined"),
        (["labels.all_touched=x"], "labels.all_touched"),
        (["quality.target=rye"], "has no class"),
        (["quality.target=background"], "quality.target is a crop class"),
        (["patch.size=1000"], "fits in no region"),
        (["overwrite=maybe"], "overwrite is true or false"),
    ],
)
def test_impossible_values_are_refused_before_anything_is_fetched(tmp_path, overrides, words):
    with pytest.raises(ConfigError, match=words):
        pipeline.run(config("region=own", "region.parcels=a.gpkg", "region.country=AT", "region.year=2022",
                            "source=cdse", f"paths.data={tmp_path}", *overrides))  # fmt: skip
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["source=cdse"], "are invented.*region=own"),
        (["region=embedded_unseen", "source=local"], "are invented.*region=own"),
        (["region=own", "region.parcels=a.gpkg", "region.country=AT", "region.year=2022"], "are real.*source=cdse"),
        (["region=ie_2022", "source=cdse", "source.simulated=true"], "are real.*source=cdse"),
    ],
)
def test_invented_and_real_ground_are_not_mixed(tmp_path, overrides, words):
    """Both are one forgotten option away, and the masks would have nothing to do with the pixels."""
    small = ["scale=test", f"paths.data={tmp_path}"]
    if not any("region=" in o for o in overrides) or "embedded" in overrides[0]:
        small.append(f"region.subsets.folder={tiny_data() / 'simulated' / 'test'}")
    with pytest.raises(ConfigError, match=words):
        pipeline.run(config(*overrides, *small))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_source_without_anything_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.sources.Local.search", lambda *_: [])
    with pytest.raises(InputError, match=r"has no product of 2022-04 and later there.*source\.collection"):
        pipeline.run(config(*own(tmp_path, "select=none")))


@pytest.mark.parametrize("seed", ["x", 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ConfigError, match="seed of the simulation"):
        Settings(seed=seed)
