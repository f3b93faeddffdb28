"""Who told the labels is recorded in the words that an evaluation compares."""

from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from data_prep.importers.pastis import LABEL_SOURCE
from data_prep.recipe import Recipe, read_subsets


def sources(repo, *words, simulated=False):
    with initialize_config_dir(str(repo / "conf"), version_base="1.3"):
        cfg = compose("prepare", list(words))
    found = Recipe.label_source.fget(SimpleNamespace(simulated=simulated, subsets=read_subsets(cfg)))
    return cfg, found


@pytest.mark.parametrize(
    ("table", "parcels", "collection"),
    [("fr_2018.csv", "a.gpkg", ["EuroCrops"]), ("null", "FR_2018_EC21.shp", ["EuroCrops"]), ("null", "a.gpkg", [])],
)
def test_eurocrops_is_named_where_it_translated_the_crops(repo, table, parcels, collection):
    words = (
        "region=own",
        "region.country=FR",
        "region.year=2018",
        f"region.parcels={parcels}",
        f"region.table={table}",
    )
    assert sources(repo, *words, f"region.table={table}")[1] == {"own": [*collection, "parcel declarations of FR"]}
    assert LABEL_SOURCE == ("PASTIS", "parcel declarations of FR")


def test_the_flemish_place_and_flanders_share_their_source(repo):
    cfg, found = sources(repo, "region=be_vlg_2021", "importer=worldcereal")
    assert set(cfg.importer.label_source) & set(found["be_vlg_2021"]) == {"parcel declarations of BE_VLG"}


def test_invented_parcels_are_no_real_declarations(repo):
    words = ("region=own", "region.country=FR", "region.year=2018", "region.parcels=a.gpkg")
    assert sources(repo, *words, simulated=True)[1] == {"own": ["simulation", "simulated declarations of FR"]}
