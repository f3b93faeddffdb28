"""Parcel files, air, pixels and the page of spectra of the simulated region."""

import dataclasses
from collections import Counter
from datetime import datetime
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio.features
import shapely
from affine import Affine

from cropseg.core.bands import PAPER_BANDS, S2_BANDS
from cropseg.core.errors import ConfigError
from data_prep.simulate import atmosphere, diagnose, parcels, phenology, places, render, scl
from data_prep.simulate.region import Settings, known_extent


@pytest.fixture(scope="module")
def ground():
    return render.scene(places.place("emb_north"), 240, 0)


@pytest.fixture(scope="module")
def overpass(ground):
    clear = next(p for p in ground.place.passes if p.day > 160)
    return dataclasses.replace(clear, cloud=0.15, beyond=0.2, cirrus=0.3)


@pytest.fixture(scope="module")
def measured(ground, overpass):
    return render.measure(ground, overpass)


@pytest.fixture(scope="module")
def table(ground):
    return parcels.frame(ground.place, ground.land.shapes[ground.land.is_parcel], ground.crop, 0)


def test_bands_have_their_native_size_and_both_kinds_of_product_hold_the_same_reflectance(measured):
    old, new = measured.product("02.14"), measured.product("04.00")
    assert list(old) == list(PAPER_BANDS)
    for name, values in old.items():
        side = 240 * 10 // S2_BANDS[name].resolution
        assert values.shape == new[name].shape == (side, side)
        assert values.dtype == np.uint16
        np.testing.assert_array_equal(values == 0, new[name] == 0)
        np.testing.assert_array_equal(values == 0, ~measured.valid[S2_BANDS[name].resolution])
        seen = (values > 1) & (values < 65535)
        np.testing.assert_array_equal(values[seen] + 1000, new[name][seen])
    assert 0.1 < np.mean(old["B02"] == 0) < 0.3


def test_dark_ground_lies_below_the_offset_in_some_pixels():
    """Water in the infrared and deep shadow: less than the offset, and still data."""
    place = places.place("emb_north")
    found = 0
    ground = render.scene(place, 240, 1)
    for number in (2, 3, 4):
        new = render.measure(ground, place.passes[number]).product("05.00")
        found += sum(int(((values > 0) & (values <= 1000)).sum()) for values in new.values())
    assert found > 0


def test_clouds_are_bright_and_shadows_dark_where_the_classification_has_them(measured):
    blue = measured.bands["B02"].astype(float)
    blue = blue.reshape(120, 2, 120, 2).mean(axis=(1, 3))
    infrared = measured.bands["B8A"].astype(float)
    assert np.median(blue[measured.scl == 9]) > 5000
    vegetation = infrared[measured.scl == 4]
    assert np.median(infrared[measured.scl == 3]) < 0.7 * np.median(vegetation)
    assert {0, 3, 4, 8, 9} <= set(np.unique(measured.scl).tolist())
    assert 5 < scl.cloud_cover(measured.scl) < 60


def test_the_same_seed_measures_the_same_and_another_does_not(ground, overpass, measured):
    again = render.measure(render.scene(ground.place, 240, 0), overpass)
    for name in PAPER_BANDS:
        np.testing.assert_array_equal(again.bands[name], measured.bands[name])
    np.testing.assert_array_equal(again.scl, measured.scl)
    other = render.measure(render.scene(ground.place, 240, 1), overpass)
    assert (other.bands["B04"] != measured.bands["B04"]).mean() > 0.9


def test_pixels_inside_a_parcel_look_like_its_crop(ground, overpass):
    """Rasterised independently: the mean of a parcel's inner pixels is its crop's reflectance."""
    clear = dataclasses.replace(overpass, cloud=0.001, beyond=0.0, cirrus=0.0, haze=0.002)
    measured = render.measure(ground, clear)
    expected, _, _ = phenology.reflectance(ground.units, ground.place.climate, clear.day, clear.dryness)
    left, _, _, top = ground.bounds
    area = shapely.intersection(ground.land.shapes, shapely.box(*ground.bounds))
    sizes = np.where(ground.land.is_parcel, shapely.area(area), 0)
    band = PAPER_BANDS.index("B08")
    checked = 0
    for index in np.argsort(sizes)[::-1][:12]:
        inner = shapely.buffer(area[index], -20)
        mask = rasterio.features.rasterize([inner], (240, 240), transform=Affine(10, 0, left, 0, -10, top)).astype(bool)
        if mask.sum() > 40:
            seen = np.median(measured.bands["B08"][mask]) / 1e4
            assert seen == pytest.approx(float(expected[index, band]), abs=0.06)
            checked += 1
    assert checked >= 5


def test_blocks_of_rows_share_their_ground(ground):
    whole = ground.ground(0, 240)
    part = dataclasses.replace(ground, cache={}).ground(100, 40)
    np.testing.assert_array_equal(part, whole[200:280])


def test_the_sun_stands_where_a_real_product_has_it(real_data):
    """Against the mean sun angle and the place of the tile in the metadata of a real product."""
    path = next((real_data / "safe").rglob("MTD_TL.xml"))
    root = ElementTree.parse(path).getroot()
    mean = root.find(".//Mean_Sun_Angle")
    corner = [float(root.find(f".//Geoposition/{axis}").text) for axis in ("ULX", "ULY")]
    centre = shapely.Point(corner[0] + 54_900, corner[1] - 54_900)
    lon_lat = geopandas.GeoSeries([centre], crs="EPSG:32629").to_crs(4326).iloc[0].coords[0]
    when = datetime.fromisoformat(root.find(".//SENSING_TIME").text.replace("Z", "+00:00"))
    overpass = dataclasses.replace(places.place("emb_north").passes[0], acquired=when)
    sun = atmosphere.sun(overpass, lon_lat)
    assert sun.zenith == pytest.approx(float(mean.find("ZENITH_ANGLE").text), abs=0.5)
    assert sun.azimuth == pytest.approx(float(mean.find("AZIMUTH_ANGLE").text), abs=1.0)


@pytest.mark.parametrize("cloud", [0.05, 0.4, 0.93])
def test_clouds_cover_what_was_asked_for(cloud):
    place = places.place("emb_west")
    overpass = dataclasses.replace(place.passes[1], cloud=cloud)
    left, top = 399960.0, 5500020.0
    sky = atmosphere.sky(overpass, place.lon_lat, (left, top - 8000, left + 8000, top), 0, "x")
    air = sky.over(left + 10 * np.arange(800) + 5.0, top - 10 * np.arange(800) - 5.0)
    assert np.mean(air.cloud > 0) == pytest.approx(cloud, abs=0.03)
    for layer in (air.cloud, air.shadow):
        assert 0 <= layer.min() <= layer.max() <= 1


def test_parcel_files_have_the_defects_of_real_ones(ground, table):
    count = int(ground.land.is_parcel.sum())
    assert len(table) > count
    assert 0 < (~table.is_valid).sum() < 0.05 * len(table)
    assert (table.area < 60).sum() >= 2
    assert Counter(table.geometry.to_wkb()).most_common(1)[0][1] >= 2
    box = shapely.box(*ground.bounds)
    inside = table.to_crs(32633)
    assert inside.intersects(box.exterior).sum() > 5


@pytest.mark.parametrize(
    ("name", "crs", "columns"),
    [
        ("emb_north", "EPSG:31287", {"SNAR_BEZEICHNUNG", "SNAR_CODE"}),
        ("emb_west", "EPSG:2154", {"CODE_CULTU", "EC_NUTS3", "EC_trans_n", "EC_hcat_n", "EC_hcat_c"}),
        ("emb_east", "EPSG:5514", {"PLODINA", "EC_NUTS3", "EC_trans_n", "EC_hcat_n", "EC_hcat_c"}),
    ],
)
def test_parcel_files_are_written_as_their_countries_do(name, crs, columns, tmp_path):
    place = places.place(name)
    ground = render.scene(place, 120, 0)
    table = parcels.frame(place, ground.land.shapes[ground.land.is_parcel], ground.crop, 0)
    for folder in (tmp_path / "a", tmp_path / "b"):
        parcels.write(table, place, folder, place.file)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert place.file in files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    read = pyogrio.read_dataframe(tmp_path / "a" / place.file)
    assert read.crs == crs
    assert columns <= set(read.columns)
    assert len(read) == len(table)
    if "EC_hcat_c" in columns:
        assert read["EC_hcat_c"].str.fullmatch(r"\d{10}").all()
        assert "EC_NUTS3" in read
    # What comes back lies where it was laid out, to less than a tenth of a pixel.
    first = read.to_crs(place.epsg).geometry[0]
    assert first.hausdorff_distance(ground.land.shapes[ground.land.is_parcel][0]) < 1.0


def test_the_slovak_file_has_garbled_letters():
    assert parcels._garble("Jačmeň jarný") == "Ja?me? jarný"


def test_the_country_table_translates_every_name_but_the_new_one(tmp_path):
    place = places.place("emb_north")
    parcels.write_table(place, tmp_path / "at.csv")
    text = (tmp_path / "at.csv").read_bytes().decode()
    assert text.startswith("original_code,original_name,translated_name,HCAT3_name,HCAT3_code\r\n")
    assert "138,WINTERWEICHWEIZEN,WINTER SOFT WHEAT,winter_common_soft_wheat,3301010101" in text
    assert "VERSUCHSFLÄCHE" not in text


def test_the_known_extent_holds_the_product(ground):
    left, bottom, right, top = known_extent(ground)
    west, south, east, north = (shapely.bounds(ground_in_degrees(ground))[i] for i in range(4))
    assert left <= west
    assert bottom <= south
    assert right >= east
    assert top >= north


def ground_in_degrees(ground):
    return geopandas.GeoSeries([shapely.box(*ground.bounds)], crs=ground.place.epsg).to_crs(4326).iloc[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 61},
        {"size": 20},
        {"size": 20_000},
        {"regions": ["nowhere"]},
        {"regions": []},
        {"regions": ["emb_east", "emb_east"]},
        {"skip": ["2021-01-01"]},
        {"sparse_share": 0.0},
        {"workers": 0},
        {"sizes": 240},
        {"regions": ["emb_east"], "skip": [f"{p.acquired:%Y-%m-%d}" for p in places.place("emb_east").passes]},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        Settings.from_config(wrong)


def test_settings_decide_the_digest_and_workers_do_not():
    assert Settings(size=120).digest == Settings(size=120, workers=4).digest
    assert Settings(size=120).digest != Settings(size=120, seed=1).digest


def test_the_page_of_spectra_shows_counts_and_names_the_missing_crops(real_data, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnose, "CROPS", {code: diagnose.CROPS[code] for code in (1110, 9120)})
    out = tmp_path / "spectra.md"
    diagnose.main([f"real={real_data / 'worldcereal'}", f"out={out}"])
    text = out.read_text()
    for word in ("| dates |", "| parcels |", "| pixels |", "| B8A |", *diagnose.WITHOUT, "not crop mapping"):
        assert word in text
    assert (tmp_path / "spectra.png").stat().st_size < 400_000


def test_the_page_of_spectra_says_what_it_needs(tmp_path):
    with pytest.raises(ConfigError, match="real= and out="):
        diagnose.main(["out=x.md"])
    with pytest.raises(ConfigError, match="no WorldCereal place"):
        diagnose.main([f"real={tmp_path}", "out=x.md"])
