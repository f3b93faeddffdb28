"""Splits: what each promises holds by brute force, in both UTM zones, whatever the order of the rows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core.errors import ConfigError, InputError
from data_prep import more_splits
from data_prep.places import Patches, ground, places
from data_prep.split import CountrySplit, GroupSplit, LocationSplit, RandomSplit, TestOnly, proof
from data_prep.stratify import iterative_stratification

SIZE = 64  # pixels of 10 m


def row(crs: str, left: float, top: float, date: int, counts=(5, 1, 0), country="AT", tag="") -> dict:
    return {
        "id": f"{crs}/{int(left)}_{int(top)}/{date}{tag}", "product": f"{crs}{date}", "country": country,
        "datetime": datetime(2021, 4, 1, tzinfo=UTC) + timedelta(days=5 * date), "crs": crs,
        "transform": [10.0, 0.0, float(left), 0.0, -10.0, float(top)], "height": SIZE, "width": SIZE,
        "counts": list(counts),
    }  # fmt: skip


def table(rows) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


@st.composite
def manifests(draw):
    """Windows at random places of two zones near their common border, some overlapping, at several dates."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    step = draw(st.sampled_from([160, 320, 640, 700]))
    rows = {}
    for _ in range(draw(st.integers(25, 60))):
        crs, west = [("EPSG:32633", 286000), ("EPSG:32632", 713000)][int(random.integers(2))]
        left, top = west + step * int(random.integers(40)), 5400000 + step * int(random.integers(40))
        counts = [5, *(int(v) for v in random.integers(0, 2, 3))]
        for date in range(int(random.integers(1, 4))):
            found = row(crs, left, top, date, counts)
            rows[found["id"]] = found
    return list(rows.values())


def brute(rows, parts):
    """Least distance in metres and most shared area of patches of different parts, pair by pair."""
    shapes = ground(table(rows))
    label = np.array([parts[r["id"]] for r in rows])
    apart = (label[:, None] != label) & (label[:, None] != "buffer") & (label != "buffer")
    near = shapely.distance(shapes[:, None], shapes)[apart].min(initial=np.inf)
    one, other = np.nonzero(apart & shapely.intersects(shapes[:, None], shapes))
    return near, shapely.area(shapely.intersection(shapes[one], shapes[other])).max(initial=0.0)


def reject_unless(fine: bool) -> None:
    assert fine


@settings(max_examples=12, deadline=None)
@given(manifests(), st.sampled_from([0.0, 500.0, 1500.0]), st.integers(0, 5), st.randoms(use_true_random=False))
def test_parts_share_no_ground_and_keep_their_distance(rows, buffer, seed, shuffler):
    split = LocationSplit(cell_m=1000, buffer_m=buffer, seed=seed)
    try:
        found = split.assign(Patches.read(table(rows)))
    except ConfigError as error:  # too few places, or all of a part in the buffer: said, not hidden
        reject_unless("split.cell_m" in error.remedy)
        return
    parts = {r["id"]: r["part"] for r in found}
    near, shared = brute(rows, parts)
    assert shared < 50  # half a pixel
    assert near >= buffer
    report = proof(split, table(rows), found)
    assert report["minimum_distance_m"] == pytest.approx(near, abs=1e-3)
    again = list(rows)
    shuffler.shuffle(again)
    assert split.assign(Patches.read(table(again))) == found
    if buffer == 0:
        assert "buffer" not in parts.values()
    group_part = {}
    for r in found:  # a place is never torn apart, but by the buffer
        if r["part"] != "buffer":
            assert group_part.setdefault(r["group"], r["part"]) == r["part"]


@settings(max_examples=10, deadline=None)
@given(manifests(), st.sampled_from([640.0, 2560.0]))
def test_overlapping_windows_and_all_dates_are_one_place(rows, cell):
    patches = Patches.read(table(rows))
    group = places(patches, cell)
    shared = shapely.area(shapely.intersection(patches.ground[:, None], patches.ground)) >= 50
    assert (group[:, None] == group)[shared].all()


def test_one_place_seen_in_two_zones_is_one_place():
    """The same ground in the overlap of two UTM zones, as two tiles deliver it."""
    import pyproj

    left, top = 286000.0, 5400000.0
    change = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:32632", always_xy=True)
    x, y = (round(v / 10) * 10 for v in change.transform(left + 100, top - 100))
    patches = Patches.read(table([row("EPSG:32633", left, top, 0), row("EPSG:32632", x, y, 1)]))
    assert len(set(places(patches, 100.0))) == 1


def grid(n: int, dates: int = 2, **more):
    return [row("EPSG:32633", 500000 + 640 * c, 5400000 - 640 * r, d, **more)
            for r in range(n) for c in range(n) for d in range(dates)]  # fmt: skip


def test_shares_are_about_what_was_asked():
    found = LocationSplit(cell_m=640).assign(Patches.read(table(grid(12))))
    shares = {part: sum(r["part"] == part for r in found) / len(found) for part in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.02)


def test_seeds_draw_otherwise():
    patches = Patches.read(table(grid(8)))
    assert LocationSplit(cell_m=640, seed=1).assign(patches) != LocationSplit(cell_m=640, seed=2).assign(patches)


def test_each_part_sees_each_class_where_possible():
    rows = grid(8, 1, counts=(5, 0, 0, 0))
    for index, crop in [(0, 1), (30, 1), (50, 1), (9, 2), (44, 2), (60, 2), (61, 3), (3, 3)]:
        rows[index] = {**rows[index], "counts": [5 if c == 0 else 7 * (c == crop) for c in range(4)]}
    for seed in range(5):
        split = LocationSplit(cell_m=640, seed=seed)
        report = proof(split, table(rows), split.assign(Patches.read(table(rows))))
        absent = report["classes_absent"]
        assert all(not {1, 2} & set(gone) for gone in absent.values())
        assert 3 not in absent["train"]  # of two places, one is learnt from
        assert sum(3 in gone for gone in absent.values()) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 40), st.integers(1, 6), st.integers(0, 2**32))
def test_stratification_gives_every_group_a_part_and_every_part_a_group(groups, classes, seed):
    random = np.random.default_rng(seed)
    size = random.integers(1, 30, groups)
    present = random.integers(0, 2, (groups, classes)) * size[:, None]
    parts = iterative_stratification(present, size, np.array([0.8, 0.1, 0.1]), random.random(groups))
    assert set(parts.tolist()) == {0, 1, 2}
    for crop in range(classes):
        if (present[:, crop] > 0).sum() >= 3 and classes == 1:
            assert all(present[parts == part, crop].any() for part in range(3))


def test_the_paper_s_split_is_an_independent_draw_per_patch():
    rows = grid(40, 1)
    found = RandomSplit(seed=3).assign(Patches.read(table(rows)))
    shares = [sum(r["part"] == part for r in found) / len(found) for part in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    fewer = RandomSplit(seed=3).assign(Patches.read(table(rows[::3])))
    parts = {r["id"]: r["part"] for r in found}
    assert all(parts[r["id"]] == r["part"] for r in fewer)  # no patch's draw hangs on another
    report = proof(RandomSplit(), table(rows), found)
    assert report["minimum_distance_m"] == 0  # and it is told how near the parts are
    assert report["shared_products"]


@pytest.mark.parametrize("column", ["product", "country"])
def test_groups_stay_whole(column):
    rows = [{**r, "country": ["AT", "FR", "SK", "DE"][i % 4]} for i, r in enumerate(grid(5, 6))]
    split = GroupSplit(column)
    found = split.assign(Patches.read(table(rows)))
    values = {r["id"]: r[column] for r in rows}
    for part, other in [("train", "val"), ("train", "test"), ("val", "test")]:
        one, two = ({values[r["id"]] for r in found if r["part"] == name} for name in (part, other))
        assert one
        assert two
        assert not one & two
    proof(split, table(rows), found)
    found[0]["part"] = next(p for p in ("train", "val") if p != found[0]["part"])
    with pytest.raises(InputError, match="breaks its promise"):
        proof(split, table(rows), found)


@pytest.mark.parametrize("seed", range(4))
def test_of_two_countries_one_is_tested_on_and_validation_is_drawn_by_place(seed):
    rows = [{**r, "country": "AT" if int(r["id"].split("/")[1].split("_")[0]) < 503000 else "FR"} for r in grid(10)]
    split = CountrySplit(cell_m=640, buffer_m=1, seed=seed)
    found = split.assign(Patches.read(table(rows)))
    assert found == split.assign(Patches.read(table(rows[::-1])))
    parts = {r["id"]: r["part"] for r in found}
    by_part = {part: {r["country"] for r in rows if parts[r["id"]] == part} for part in ("train", "val", "test")}
    assert by_part["train"] == by_part["val"] != by_part["test"]
    assert [len(countries) for countries in by_part.values()] == [1, 1, 1]
    report = proof(split, table(rows), found)
    assert report["shared_countries_with_test"] == []
    assert report["patches"]["train"] > report["patches"]["val"] > 0
    trained = [r for r in rows if parts[r["id"]] in ("train", "val")]
    near, shared = brute(trained, parts)
    assert near >= 1
    assert shared < 50
    next(r for r in found if r["part"] == "test")["part"] = "train"
    with pytest.raises(InputError, match="1 shared"):
        proof(split, table(rows), found)


def test_three_countries_are_divided_like_any_group():
    rows = [{**r, "country": ["AT", "FR", "SK"][i % 3]} for i, r in enumerate(grid(5, 6))]
    patches = Patches.read(table(rows))
    assert CountrySplit().assign(patches) == GroupSplit("country").assign(patches)


def test_test_only():
    found = TestOnly().assign(Patches.read(table(grid(2))))
    assert {r["part"] for r in found} == {"test"}
    assert proof(TestOnly(), table(grid(2)), found)["minimum_distance_m"] is None


def test_the_proof_sees_what_is_broken():
    rows = grid(6, 1)
    split = LocationSplit(cell_m=640, buffer_m=0)
    found = split.assign(Patches.read(table(rows)))
    doubled = [*rows, {**rows[0], "id": "double"}]
    other = next(p for p in ("train", "test") if p != found[0]["part"])
    with pytest.raises(InputError, match="overlap"):
        proof(split, table(doubled), [*found, {"id": "double", "part": other, "group": "x"}])
    with pytest.raises(InputError, match="less than the buffer"):
        proof(LocationSplit(cell_m=640, buffer_m=100), table(rows), found)
    with pytest.raises(InputError, match="lacks 1 patches"):
        proof(split, table(doubled), found)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LocationSplit(cell_m=0),
        lambda: LocationSplit(buffer_m=-1),
        lambda: LocationSplit(fractions=(0.5, 0.1, 0.1)),
        lambda: RandomSplit(fractions=(0.5, 0.5)),
        lambda: GroupSplit("tile"),
        lambda: LocationSplit(cell_m=1e6).assign(Patches.read(table(grid(3)))),
        lambda: LocationSplit(cell_m=640, buffer_m=1e5).assign(Patches.read(table(grid(3)))),
        lambda: GroupSplit("country").assign(Patches.read(table(grid(3)))),
        lambda: CountrySplit().assign(Patches.read(table(grid(3)))),
        lambda: CountrySplit(fractions=(0.9, 0.1, 0.0)),
    ],
)
def test_impossible_splits_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_no_patches_and_double_ids():
    with pytest.raises(InputError, match="no patches"):
        Patches.read(table(grid(1)).slice(0, 0))
    with pytest.raises(InputError, match="twice"):
        Patches.read(table([*grid(1), *grid(1)]))


def test_missing_splits_are_added_and_those_there_stay(tmp_path, capsys):
    rows = grid(8)
    root = tmp_path / "data"
    pq.write_table(table(rows), _made(root) / "manifest.parquet")
    wanted = {"r": RandomSplit(), "l": LocationSplit(cell_m=640), "c": CountrySplit()}
    assert more_splits.add(root, wanted) == ["random", "location"]
    said = capsys.readouterr()
    assert "split country is left out: a split by country needs two countries" in " ".join(said.err.split())
    assert "128 patches" in said.out
    before = (root / "splits" / "random.parquet").read_bytes()
    assert more_splits.add(root, {"r": RandomSplit(seed=1)}) == ["random"]
    assert (root / "splits" / "random.parquet").read_bytes() == before
    parts = [r["part"] for r in pq.read_table(root / "splits" / "location.parquet").to_pylist()]
    assert set(parts) == {"train", "val", "test"}
    assert more_splits.add(root, wanted, even=True) == ["random", "location", "random_even", "location_even"]
    read = {name: pq.read_table(root / "splits" / f"{name}.parquet").to_pylist()
            for name in ("random", "location", "random_even", "location_even")}  # fmt: skip
    learned = {name: {r["id"] for r in rows if r["part"] == "train"} for name, rows in read.items()}
    least = min(len(learned["random"]), len(learned["location"]))
    for name in ("random", "location"):
        assert len(learned[f"{name}_even"]) == least
        assert learned[f"{name}_even"] <= learned[name]
        for part in ("val", "test"):
            one, other = ({r["id"] for r in read[kind] if r["part"] == part} for kind in (name, f"{name}_even"))
            assert one == other
    more = {"l": LocationSplit(cell_m=640)} if len(learned["location"]) > least else {"r": RandomSplit()}
    with pytest.raises(InputError, match=f"has {least} training patches"):  # drawn beside others, it would be larger
        more_splits.add(root, more, even=True)
    with pytest.raises(ConfigError, match="two countries"):
        more_splits.add(root, {"c": CountrySplit()})
    with pytest.raises(ConfigError, match="no split was named"):
        more_splits.add(root, {})
    with pytest.raises(InputError, match="no dataset"):
        more_splits.add(tmp_path / "other", wanted)
    with FileLock(tmp_path / ".data.lock"), pytest.raises(InputError, match="at work"):
        more_splits.add(root, wanted)


def _made(folder):
    folder.mkdir()
    return folder
