"""Spectra, calendars, fields and rotation of the simulated ground: what a person who knows crops would expect."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from cropseg.core.bands import PAPER_BANDS
from data_prep.simulate import convex, fields, noise, phenology, places, rotation, spectra

AVERAGE = phenology.Climate(spring=0, autumn=0, vigour=1, brightness=0.8, spread=0)


def look(kind: str, day: float, climate=AVERAGE) -> np.ndarray:
    """Reflectance of an average stand, by band."""
    one = np.ones(1, dtype=np.float32)
    number = np.array([phenology.kinds().index(kind)])
    draw = np.full((1, 4), 0.1, dtype=np.float32)
    units = phenology.Units(number, 0 * one, one, one, 0.8 * one, 0 * one, draw)
    return phenology.reflectance(units, climate, day, 0.45)[0][0]


def ndvi(kind: str, day: float, climate=AVERAGE) -> float:
    values = dict(zip(PAPER_BANDS, look(kind, day, climate), strict=True))
    return float((values["B08"] - values["B04"]) / (values["B08"] + values["B04"]))


def season(kind: str, climate=AVERAGE) -> np.ndarray:
    return np.array([ndvi(kind, day, climate) for day in range(60, 300, 12)])


@pytest.mark.parametrize("kind", phenology.kinds())
def test_reflectance_is_a_share_and_its_changes_are_small(kind):
    n = 200
    number = np.full(n, phenology.kinds().index(kind))
    units = phenology.draw_units(number, AVERAGE, np.zeros(n, dtype=np.float32), 3)
    for day in (80, 130, 180, 230, 280):
        base, leaf, earth = phenology.reflectance(units, AVERAGE, day, 0.5)
        assert base.shape == leaf.shape == earth.shape == (n, 10)
        assert base.dtype == np.float32
        assert base.min() >= 0
        assert base.max() < 0.75
        assert np.abs(leaf).max() < 0.12
        assert np.abs(earth).max() < 0.08


def test_winter_crops_peak_before_summer_crops():
    days = np.arange(60, 300, 12)
    # The middle of the days on which the stand is dense, since a season has a plateau rather than a peak.
    middle = {kind: np.mean(days[season(kind) > 0.8]) for kind in ("winter_barley", "wheat", "maize", "sugar_beet")}
    assert middle["winter_barley"] < middle["wheat"] < middle["maize"]
    assert middle["wheat"] < middle["sugar_beet"]


def test_ripe_and_bare_ground_are_not_green():
    assert ndvi("wheat", 150) > 0.8
    assert ndvi("wheat", 198) < 0.5
    assert ndvi("maize", 110) < 0.3
    assert ndvi("maize", 215) > 0.8
    assert ndvi("wheat", 225) < 0.4


def test_rapeseed_is_yellow_in_flower():
    band = {name: i for i, name in enumerate(PAPER_BANDS)}
    flower, leaf = look("rapeseed", 124), look("rapeseed", 100)
    assert flower[band["B03"]] > 2 * leaf[band["B03"]]
    assert flower[band["B04"]] > 2 * leaf[band["B04"]]
    assert flower[band["B02"]] < 0.5 * flower[band["B03"]]
    assert look("rapeseed", 155)[band["B04"]] < 0.5 * flower[band["B04"]]


def test_water_is_dark_in_the_infrared_and_constant():
    assert look("water", 100)[PAPER_BANDS.index("B11")] < 0.01
    np.testing.assert_array_equal(look("water", 100), look("water", 250))


def test_a_cut_lowers_the_sward_and_it_grows_again():
    number = np.array([phenology.kinds().index("meadow")])
    one = np.ones(1, dtype=np.float32)
    units = phenology.Units(number, 0 * one, one, one, one, 0 * one, np.full((1, 4), 0.5, dtype=np.float32))
    before, after, later = (phenology.canopy_state("meadow", units, day)[0]["lai"][0] for day in (142, 145, 185))
    assert after < 0.5 * before
    assert later > 2 * after


@pytest.mark.parametrize("shift", [-12.0, 9.0])
def test_a_shifted_calendar_is_the_same_season_on_other_days(shift):
    climate = phenology.Climate(spring=shift, autumn=shift, vigour=1, brightness=0.8, spread=0)
    for day in (90, 140, 190):
        assert ndvi("wheat", day + shift, climate) == pytest.approx(ndvi("wheat", day), abs=1e-5)


def test_units_of_a_kind_do_not_depend_on_their_neighbours():
    kinds = np.array([phenology.kinds().index(kind) for kind in ("wheat", "maize", "road", "roof")])
    units = phenology.draw_units(kinds, AVERAGE, np.zeros(4, dtype=np.float32), "x")
    together = phenology.reflectance(units, AVERAGE, 170, 0.5)[0]
    turned = phenology.Units(*(getattr(units, name)[::-1] for name in phenology.Units.__dataclass_fields__))
    np.testing.assert_array_equal(phenology.reflectance(turned, AVERAGE, 170, 0.5)[0][::-1], together)


def test_look_up_meets_the_table_at_its_points():
    table = spectra.table()
    index = (2, 4, 3, 1, 1, 0, 1)
    state = {axis: points[i : i + 1] for axis, points, i in zip(spectra.AXES, table.axes, index[1:], strict=True)}
    np.testing.assert_allclose(table.look_up(np.array([index[0]]), state)[0], table.reflectance[index], atol=1e-6)


@given(st.floats(0, 8), st.floats(0, 90), st.floats(0, 2), st.floats(0, 2))
def test_look_up_stays_within_the_table(lai, cab, brown, brightness):
    table = spectra.table()
    state = {"lai": lai, "cab": cab, "brown": brown, "water": 0.5, "brightness": brightness, "dryness": 0.5}
    found = table.look_up(np.array([0]), {key: np.array([value]) for key, value in state.items()})
    assert table.reflectance[0].min() <= found.min() <= found.max() <= table.reflectance[0].max() + 1e-6


def test_every_region_is_complete():
    kinds = set(phenology.kinds())
    for name in spectra.data("regions"):
        place = places.place(name)
        assert {crop.kind for crop in place.crops} <= kinds
        assert {crop.use for crop in place.crops} == set(fields.USES) == set(place.layout.uses)
        for crop in place.crops:
            for entry in crop.names:
                assert not entry.hcat_code or (entry.hcat_code.isdigit() and len(entry.hcat_code) == 10)
        in_season = [p for p in place.passes if 4 <= p.acquired.month <= 9 and p.cloud < 0.8]
        assert 4 <= len({p.datatake for p in in_season}) <= 6
        assert any(p.acquired.month == 3 for p in place.passes)
        assert any(p.cloud > 0.8 for p in place.passes)
        assert len({p.datatake for p in place.passes}) < len(place.passes)
        assert {p.acquired.year for p in place.passes} == {place.year}
        for p in place.passes:
            # The phase of each satellite: absolute and relative orbit belong together.
            assert (p.absolute_orbit - (140 if p.platform == "S2A" else 26)) % 143 == p.relative_orbit


SQUARE = [(0.0, 0.0), (100.0, 0.0), (100.0, 80.0), (0.0, 80.0)]


@given(st.floats(0, 3.2), st.floats(0.2, 0.8), st.floats(0, 12))
def test_a_cut_loses_no_ground(angle, place, gap):
    parts = convex.cut(SQUARE, angle, place, gap)
    assert sum(convex.area(part) for part in parts if part) == pytest.approx(8000, rel=1e-9)
    shapes = [shapely.Polygon(part) for part in parts if part]
    assert shapely.union_all(shapes).area == pytest.approx(8000, rel=1e-6)


def test_inset_takes_the_same_from_each_side():
    assert convex.area(convex.inset(SQUARE, 5)) == pytest.approx(90 * 70)


BOUNDS = (500000.0, 5300000.0, 504000.0, 5304000.0)


@pytest.fixture(scope="module")
def land():
    return fields.landscape(BOUNDS, places.place("emb_north").layout, 0, "here")


def test_a_landscape_has_fields_of_many_sizes_and_all_that_lies_between(land):
    assert shapely.is_valid(land.shapes).all()
    area = shapely.area(land.shapes[land.is_parcel])
    assert 0.3e4 < np.median(area) < 3e4
    assert np.quantile(area, 0.95) > 6 * np.quantile(area, 0.2)
    assert {"arable", "grass", "hedge", "track", "margin", "water"} <= set(land.use)
    box = shapely.box(*BOUNDS)
    crossing = shapely.intersects(land.shapes, box.exterior)[land.is_parcel]
    assert crossing.sum() > 10
    covered = shapely.union_all(shapely.intersection(land.shapes[land.is_parcel], box)).area / box.area
    assert 0.4 < covered < 0.95


def test_parcels_do_not_overlap(land):
    parcels = land.shapes[land.is_parcel]
    assert shapely.union_all(parcels).area == pytest.approx(shapely.area(parcels).sum(), rel=1e-4)


def test_the_same_seed_lays_out_the_same_land(land):
    again = fields.landscape(BOUNDS, places.place("emb_north").layout, 0, "here")
    assert (shapely.to_wkb(again.shapes) == shapely.to_wkb(land.shapes)).all()
    other = fields.landscape(BOUNDS, places.place("emb_north").layout, 1, "here")
    assert len(other.shapes) != len(land.shapes) or (other.use != land.use).any()


def test_the_unseen_region_has_larger_fields(land):
    east = fields.landscape(BOUNDS, places.place("emb_east").layout, 0, "here")
    assert np.mean(shapely.area(east.shapes[east.is_parcel])) > 2 * np.mean(shapely.area(land.shapes[land.is_parcel]))


def test_crops_follow_the_mix_and_the_rotation():
    crops = places.place("emb_west").crops
    use = np.array(["arable"] * 1500 + ["grass"] * 300)
    now, before = rotation.assign(use, crops, 2018, 0)
    assert {crops[i].use for i in now[:1500]} == {"arable"}
    assert {crops[i].use for i in now[1500:]} == {"grass"}
    total = sum(crop.weight for crop in crops if crop.use == "arable")
    for number, crop in enumerate(crops):
        if crop.use == "arable":
            share = np.mean(now[:1500] == number)
            assert 0.6 * crop.weight / total < share < 1.6 * crop.weight / total, crop.kind
        if crop.after_itself == 0:
            assert not ((now == number) & (before == number)).any(), crop.kind
    other_year, _ = rotation.assign(use, crops, 2019, 0)
    assert (other_year != now).any()


def test_fields_of_noise_have_no_seams_and_unit_variance():
    bounds = (0.0, 0.0, 20_000.0, 20_000.0)
    field = noise.field(bounds, (800.0, 200.0), (1.0, 0.5), 5, "test")
    x, y = np.arange(0, 20_000, 50.0), np.arange(0, 20_000, 50.0)
    whole = field.at(x, y)
    np.testing.assert_array_equal(whole[100:200, 30:90], field.at(x[30:90], y[100:200]))
    assert abs(whole.mean()) < 0.15
    assert 0.8 < whole.std() < 1.2
    assert np.abs(np.diff(whole, axis=0)).max() < 1.0
    rows, cols = np.array([3, 250, 399]), np.array([0, 17, 380])
    np.testing.assert_allclose(field.at_points(x[cols], y[rows]), whole[rows, cols], atol=1e-5)


@settings(max_examples=20)
@given(st.lists(st.one_of(st.integers(0, 99), st.text(max_size=5)), min_size=1, max_size=4))
def test_generators_depend_on_their_keys_alone(keys):
    np.testing.assert_array_equal(noise.generator(*keys).random(4), noise.generator(*keys).random(4))
    assert noise.generator(*keys).random() != noise.generator(*keys, "more").random()
