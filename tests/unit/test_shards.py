"""A shard counts once its index stands and every file that it names is there."""

import pytest

from cropseg.core.manifest import MANIFEST_SCHEMA, write_table
from data_prep.rois import Roi
from data_prep.shards import Unit, is_done
from data_prep.subsets import Subset


@pytest.fixture
def unit() -> Unit:
    subset = Subset("at_2021", "AT", 2021, parcels="a.gpkg")
    return Unit(subset, Roi("r", "at_2021", "EPSG:32633", (0, 0, 2560, 2560), 1.0), "S2A")


def test_a_shard_without_an_index_does_not_exist(tmp_path, unit):
    assert unit.folder == "shards/at_2021/r/S2A"
    assert not is_done(tmp_path, unit)
    (tmp_path / unit.folder).mkdir(parents=True)
    (tmp_path / unit.folder / "0_0.image.npy").write_bytes(b"half")
    assert not is_done(tmp_path, unit)
    write_table(tmp_path / unit.folder / "index.parquet", [], MANIFEST_SCHEMA)
    assert is_done(tmp_path, unit)
