"""Harmonisation on small files of every format: each parcel gets a class or a reason, each mistake one clear error."""

import json
import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon

from cropseg.core import taxonomy
from cropseg.core.errors import ConfigError, InputError
from data_prep import crop_tables, harmonize, hcat, parcels
from data_prep.subsets import Subset, from_config

TAXONOMY = taxonomy.load("eurocrops10")


def box(i, size=100.0):
    return shapely.box(600_000 + 200 * i, 400_000, 600_000 + 200 * i + size, 400_000 + size)


def frame(names, column="crop_name", geometry=None, crs="EPSG:31287"):
    return gpd.GeoDataFrame({column: names}, geometry=geometry or [box(i) for i in range(len(names))], crs=crs)


def written(folder, data, name="fields.gpkg", **options):
    path = folder / name
    data.to_parquet(path) if name.endswith("parquet") else data.to_file(path, **options)
    return str(path)


def subset(path, **fields):
    return Subset(**{"name": "s", "country": "XX", "year": 2021, "parcels": path, **fields})


def zipped(folder, inner_folder=""):
    archive = folder / "fields.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for part in sorted(folder.glob("inside.*")):
            out.write(part, inner_folder + part.name)
    return str(archive)


TABLE = """original_code,original_name,translated_name,HCAT3_name,HCAT3_code
007,Körnermais,Grain maize,grain_maize,3301010600
12,Jačmeň jarný,Spring barley,spring_barley,3301010402
13,Jačmeň ozimný,Winter barley,winter_barley,3301010401
20,Froment d’hiver,Winter wheat,winter_wheat,3301010101
21,Gemenge,Winter wheat,winter_wheat,3301010101
22,Gemenge,Peas,peas,3301020600
,,Oats,oats,3301010500
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "xx_2021.csv"
    path.write_text(TABLE, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["f.gpkg", "f.shp", "f.geojson", "f.fgb", "f.gml", "f.parquet"])
def test_every_plain_format(tmp_path, name):
    data = frame(["Maize", "Kale"], crs="EPSG:3035") if name != "f.geojson" else frame(["Maize", "Kale"]).to_crs(4326)
    options = {"SPATIAL_INDEX": "NO"} if name == "f.fgb" else {}  # its index would reorder the features
    found = harmonize.harmonize(subset(written(tmp_path, data, name, **options)), TAXONOMY)
    assert found.parcels["label"].tolist() == [1, 255]
    assert found.parcels["parcel"].tolist() == [1, 2]
    assert not list(tmp_path.glob("*.gfs")), "reading leaves nothing beside the file"


@pytest.mark.parametrize(("driver_suffix", "folder"), [("shp", ""), ("shp", "DEEP/ER/"), ("gpkg", ""), ("gml", "x/")])
def test_every_format_in_a_zip(tmp_path, driver_suffix, folder):
    written(tmp_path, frame(["Maize"], crs="EPSG:3035"), f"inside.{driver_suffix}")
    archive = zipped(tmp_path, folder)
    for path in (archive, f"{archive}!{folder}inside.{driver_suffix}"):
        assert harmonize.harmonize(subset(path), TAXONOMY).parcels["label"].tolist() == [1]
    with pytest.raises(InputError, match="does not hold"):
        parcels.read(subset(f"{archive}!other.shp"))


def test_names_join_the_table_by_the_stated_rules(tmp_path, table):
    cases = [  # name, code, English, how
        ("KÖRNERMAIS", "", "Grain maize", ""),
        ("  körnermais ", "12", "Grain maize", ""),  # the name comes before the code
        ("unknown", "7", "Grain maize", " (by code)"),
        ("", "0007", "Grain maize", " (by code)"),
        ("Kornermais", "", "Grain maize", " (by name without accents)"),
        ("Ja?me? jarný", "", "Spring barley", " (by garbled name)"),
        ("Ja\ufffdme\ufffd jarn\ufffd", "", "Spring barley", " (by garbled name)"),
        ("Froment d'hiver", "", "Winter wheat", ""),
        ("Gemenge", "22", "Peas", None),  # two rows share the name; the code tells them apart
        ("Gemenge", "", "Winter wheat | Peas", None),
    ]
    data = frame([case[0] for case in cases], "SNAR_BEZEICHNUNG")
    data["SNAR_CODE"] = [case[1] for case in cases]
    found = harmonize.harmonize(subset(written(tmp_path, data), table=table), TAXONOMY).parcels
    assert found["english"].tolist() == [case[2] for case in cases]
    for rule, case in zip(found["rule"], cases, strict=True):
        if case[3] is not None:
            assert rule.endswith(f"'{case[3]}")
    assert found["label"].tolist() == [1, 1, 1, 1, 1, 4, 4, 3, 255, 255]
    assert found["rule"].tolist()[-1] == "table xx_2021 gives several names -> ignored"


def test_rows_that_disagree_follow_the_ambiguous_rule(tmp_path, table):
    text = TABLE + "30,Mischung,Oats,,\n31,Mischung,Barley,,\n32,Rüben,Beetroot,,\n33,Rüben,Fodder beet,,\n"
    text += "34,Gras,Kale,,\n35,Gras,Meadow,,\n"
    (tmp_path / "xx_2021.csv").write_text(text, encoding="utf-8")
    path = written(tmp_path, frame(["Mischung", "Rüben", "Gras"], "PLODINA"))
    ours = harmonize.harmonize(subset(path, table=table), TAXONOMY).parcels
    assert ours["label"].tolist() == [255, 255, 255]
    paper = harmonize.harmonize(subset(path, table=table), TAXONOMY, ambiguous="lowest", unmapped="background").parcels
    assert paper["label"].tolist() == [4, 0, 10]
    assert paper["rule"].tolist()[0] == "table xx_2021 gives several names -> lowest id"


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("", "", "no name"),
        (None, None, "no name"),
        ("Raps", "", "name not in table xx_2021"),
        ("", "999", "code not in table xx_2021"),
        ("Ja?me? ?z?mn? dlhý", "", "garbled name fits no name of table xx_2021"),
        ("??????????????", "", "garbled name fits no name of table xx_2021"),  # ? is a letter, not a space
    ],
)
def test_what_does_not_join_has_a_reason(tmp_path, table, name, code, reason):
    data = frame([name], "SNAR_BEZEICHNUNG")
    data["SNAR_CODE"] = pd.Series([code], dtype=object)
    path = written(tmp_path, data)
    ignored = harmonize.harmonize(subset(path, table=table), TAXONOMY).parcels
    assert (ignored["label"].tolist(), ignored["rule"].tolist()) == ([255], [f"{reason} -> ignored"])
    background = harmonize.harmonize(subset(path, table=table), TAXONOMY, unmapped="background").parcels
    assert (background["label"].tolist(), background["rule"].tolist()) == ([0], [f"{reason} -> background"])


def test_a_garbled_name_that_fits_two_is_not_guessed():
    crops = [crop_tables.Crop("1", "rat", "Maize", ""), crop_tables.Crop("2", "ret", "Oats", "")]
    found = crop_tables.CropTable("t", crops).find("r?t", "")
    assert (found.crops, found.how) == ((), "garbled name fits 2 names of table t")


def test_codes_as_numbers_and_eurocrops_columns(tmp_path, table):
    data = frame([7.0, 12.0, None], "CODE_CULTU")
    found = harmonize.harmonize(subset(written(tmp_path, data), table=table), TAXONOMY).parcels
    assert found["label"].tolist() == [1, 4, 255]
    data = frame(["Körnermais", "?"], "SNAR_BEZEI")
    data["SNAR_CODE"], data["EC_trans_n"], data["EC_hcat_c"] = "7", ["Sunflower", "Oats"], [3301060500.0, 3301010500.0]
    path = written(tmp_path, data, "ec.shp")
    found = harmonize.harmonize(subset(path, table=table), TAXONOMY)
    assert found.parcels["label"].tolist() == [6, 5], "EuroCrops' own translation comes first"
    assert found.agreement == hcat.Agreement(2, 2, 2, 2)
    found = harmonize.harmonize(subset(path, table=table, name_column="snar_bezei"), TAXONOMY)
    assert found.parcels["label"].tolist() == [1, 255], "but not before a column that the user names"


@pytest.mark.parametrize(
    ("name", "options", "label", "rule"),
    [
        ("Maize", {}, 1, "eurocrops10: keyword 'maize'"),
        ("Buckwheat", {}, 255, "excluded by 'buckwheat' -> ignored"),
        ("Buckwheat", {"unmapped": "background"}, 0, "excluded by 'buckwheat' -> background"),
        ("Kale", {}, 255, "no keyword -> ignored"),
        ("Maize and beet", {}, 255, "several classes: maize, sugar beet -> ignored"),
        ("Maize and beet", {"ambiguous": "lowest"}, 1, "several classes: maize, sugar beet -> lowest id"),
        ("Meadow, Barley", {}, 255, "several crops: pasture, barley -> ignored"),
        ("Meadow, Barley", {"ambiguous": "lowest"}, 4, "several classes: barley, pasture -> lowest id"),
        ("Maize, Kale", {}, 255, "several crops: maize, no class (Kale) -> ignored"),
        ("Maize, Kale", {"ambiguous": "lowest"}, 1, "eurocrops10: keyword 'maize'"),
        ("Meadow, Clover", {}, 10, "eurocrops10: keyword 'meadow'"),
    ],
)
def test_rules_say_what_they_did(name, options, label, rule):
    assert harmonize.Rules(TAXONOMY, separator=", ", **options).decide(name) == (label, rule)


def test_geometry_is_mended_or_rejected_with_a_reason(tmp_path):
    bow = Polygon([(600_000, 0), (600_100, 100), (600_100, 0), (600_000, 100)])
    spike = Polygon([(0, 0), (10, 0), (10, 10), (10, 30), (10, 10), (0, 10)])
    collection = GeometryCollection([box(5), Point(0, 0)])
    twin = Polygon(list(box(7).exterior.coords)[2:-1] + list(box(7).exterior.coords)[:2])
    cases = [
        (box(0), ""),
        (None, "no geometry"),
        (Polygon(), "empty geometry"),
        (bow, ""),
        (Point(1, 1), "not a polygon"),
        (LineString([(0, 0), (9, 9)]), "not a polygon"),
        (Polygon([(0, 0), (5, 5), (9, 9)]), "no area"),
        (spike, ""),
        (collection, ""),
        (MultiPolygon([box(10), box(12)]), ""),
        (Polygon([(0, 0, 5), (9, 0, 5), (9, 9, 5)]), ""),
        (box(7), ""),
        (twin, "duplicate of parcel 12"),
        (box(7), "duplicate of parcel 12"),
    ]
    data = frame(["Maize"] * len(cases), geometry=[case[0] for case in cases])
    found = harmonize.harmonize(subset(written(tmp_path, data, "f.parquet")), TAXONOMY)
    expected = {i + 1: reason for i, (_, reason) in enumerate(cases) if reason}
    assert dict(zip(found.rejected["parcel"], found.rejected["reason"], strict=True)) == expected
    assert sorted([*found.parcels["parcel"], *found.rejected["parcel"]]) == list(range(1, len(cases) + 1))
    assert found.parcels.geometry.is_valid.all()
    assert set(found.parcels.geom_type) <= {"Polygon", "MultiPolygon"}
    assert not found.parcels.has_z.any()
    areas = dict(zip(found.parcels["parcel"], found.parcels.area, strict=True))
    assert (areas[4], areas[8], areas[9]) == (5000.0, 100.0, 10_000.0)
    assert found.audit["rows"].sum() == len(cases)
    assert found.audit.loc[found.audit["rule"] == "rejected: duplicate", "rows"].tolist() == [2]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (shapely.box(1e12, 1e12, 2e12, 2e12), "coordinates beyond any CRS"),
        (Polygon([(0, 0), (np.inf, 0), (1, 1)]), "coordinates beyond any CRS"),
        (shapely.box(400.0, 95.0, 401.0, 96.0), "outside the area of its CRS"),
    ],
)
def test_impossible_coordinates_are_rejected(tmp_path, shape, reason):
    data = frame(["Maize", "Maize"], geometry=[shape, shapely.box(16.0, 48.0, 16.01, 48.01)], crs="EPSG:4326")
    found = harmonize.harmonize(subset(written(tmp_path, data, "f.parquet")), TAXONOMY)
    assert found.rejected["reason"].tolist() == [reason]
    assert np.isfinite(found.audit["area_ha"]).all()


def test_a_truncated_shapefile_says_what_it_lost(tmp_path):
    path = written(tmp_path, frame(["Maize"] * 50), "f.shp")
    whole = (tmp_path / "f.shp").read_bytes()
    (tmp_path / "f.shp").write_bytes(whole[: len(whole) // 2])
    found = harmonize.harmonize(subset(path), TAXONOMY)
    assert len(found.parcels) + len(found.rejected) == 50
    assert set(found.rejected["reason"]) == {"no geometry"}


def test_text_in_another_encoding_is_told(tmp_path):
    path = written(tmp_path, frame(["Weißklee"]), "f.shp", encoding="ISO-8859-1")
    (tmp_path / "f.cpg").write_text("UTF-8")
    with pytest.raises(InputError, match=r"another encoding than it states.*\.cpg"):
        harmonize.harmonize(subset(path), TAXONOMY)
    (tmp_path / "f.cpg").write_text("ISO-8859-1")
    assert harmonize.harmonize(subset(path), TAXONOMY).parcels["name"].tolist() == [""]
    assert harmonize.harmonize(subset(path), TAXONOMY).parcels["english"].tolist() == ["Weißklee"]


def test_same_outline_with_another_crop_stays(tmp_path):
    data = frame(["Maize", "Oats", "Maize"], geometry=[box(0)] * 3)
    found = harmonize.harmonize(subset(written(tmp_path, data)), TAXONOMY)
    assert found.parcels["parcel"].tolist() == [1, 2]
    assert found.rejected["reason"].tolist() == ["duplicate of parcel 1"]


def test_areas_are_equal_area_hectares(tmp_path):
    degrees = shapely.box(16.0, 48.0, 16.01, 48.01)
    path = written(tmp_path, frame(["Maize"], geometry=[degrees], crs="EPSG:4326"))
    from pyproj import Geod

    truth = Geod(ellps="WGS84").geometry_area_perimeter(degrees)[0] / 1e4
    assert harmonize.harmonize(subset(path), TAXONOMY).audit["area_ha"].tolist() == pytest.approx([truth], rel=1e-4)


def test_run_writes_the_audit_and_says_it(tmp_path, table, capsys):
    first = subset(written(tmp_path, frame(["Maize", "Maize", "Kale"])), name="first")
    second = Subset(name="second", country="XX", year=2021, table=table)
    out = tmp_path / "out"
    summary = harmonize.run([first, second], TAXONOMY, out)
    audit = pd.read_csv(out / "audit.csv", keep_default_na=False, dtype={"code": str})
    assert list(audit.columns) == list(harmonize.AUDIT_COLUMNS)
    assert audit.groupby("subset")["rows"].sum().to_dict() == {"first": 3, "second": 7}
    assert len(pd.read_csv(out / "audit" / "second.csv")) == 7
    assert json.loads((out / "harmonize.json").read_text()) == summary
    assert summary["subsets"]["first"]["classes"] == {"ignored": 1, "maize": 2}
    shown = capsys.readouterr().out
    assert "keyword 'maize'" in shown
    assert "no keyword" in shown
    before = (out / "audit.csv").read_bytes()
    harmonize.run([first, second], TAXONOMY, out)
    assert (out / "audit.csv").read_bytes() == before
    with pytest.raises(ConfigError, match="no subsets"):
        harmonize.run([], TAXONOMY, out)


def test_mistakes_are_told_in_one_line(tmp_path, table):
    good = written(tmp_path, frame(["Maize"]))
    two = tmp_path / "two.gpkg"
    frame(["Maize"]).to_file(two, layer="a")
    frame(["Maize"]).to_file(two, layer="b")
    no_crs = written(tmp_path, frame(["Maize"]), "no_crs.shp")
    (tmp_path / "no_crs.prj").unlink()
    empty = written(tmp_path, frame(["Maize"]).iloc[:0], "empty.gpkg")
    corrupt = tmp_path / "corrupt.gpkg"
    corrupt.write_bytes(b"\x00" * 500)
    corrupt_zip = tmp_path / "corrupt.zip"
    corrupt_zip.write_bytes(b"PK nothing")
    corrupt_parquet = tmp_path / "corrupt.parquet"
    corrupt_parquet.write_bytes(b"PAR1 nothing")
    plain_parquet = tmp_path / "plain.parquet"
    pd.DataFrame({"crop_name": ["Maize"]}).to_parquet(plain_parquet)
    text = tmp_path / "text.zip"
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    for inner in ("inside.shp", "inside.gpkg"):
        written(tmp_path, frame(["Maize"]), inner)
    cases = [
        ({"parcels": str(tmp_path / "gone.gpkg")}, InputError, "no such file"),
        ({"parcels": str(tmp_path / "gone.parquet")}, InputError, "no such file"),
        ({"parcels": good, "layer": "x"}, ConfigError, "has no layer: 'x'. choose from fields"),
        ({"parcels": str(two)}, ConfigError, "several layers"),
        ({"parcels": good, "name_column": "crop"}, InputError, "no column: 'crop'. the columns are: crop_name"),
        ({"parcels": written(tmp_path, frame(["a"], "what"), "w.gpkg")}, InputError, "the columns are: what"),
        ({"parcels": no_crs}, InputError, "does not say its CRS"),
        ({"parcels": empty}, InputError, "holds no parcels"),
        ({"parcels": str(corrupt)}, InputError, "cannot be read"),
        ({"parcels": str(corrupt_zip)}, InputError, "not a readable zip"),
        ({"parcels": str(corrupt_parquet)}, InputError, "cannot be read as GeoParquet"),
        ({"parcels": str(plain_parquet)}, InputError, "GeoParquet's metadata"),
        ({"parcels": str(plain_parquet), "layer": "x"}, ConfigError, "no layers"),
        ({"parcels": str(text)}, InputError, "holds no vector file"),
        ({"parcels": zipped(tmp_path)}, ConfigError, "several vector files"),
        ({"parcels": table}, InputError, "no layer with geometry"),
        ({"parcels": good, "table": str(tmp_path / "gone.csv")}, InputError, "no such table"),
        ({"parcels": written(tmp_path, frame(["a"], "PLODINA"), "sk.gpkg")}, ConfigError, "set its table"),
    ]
    for fields, error, says in cases:
        with pytest.raises(error) as caught:
            harmonize.harmonize(subset(**{"path": None, **fields}), TAXONOMY)
        assert says in str(caught.value), fields
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="unmapped"):
        harmonize.harmonize(subset(good), TAXONOMY, unmapped="keep")
    with pytest.raises(ConfigError, match="several classes"):
        harmonize.harmonize(subset(good), TAXONOMY, ambiguous="first")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b\n1,2\n", "translated_name"),
        (b"translated_name\nMaize\n", "original_name or original_code"),
        (b"original_code,translated_name\n", "no rows"),
        (b"", "not a UTF-8 CSV"),
        ("original_name,translated_name\nWei\xdf,x\n".encode("latin-1"), "not a UTF-8 CSV"),
    ],
)
def test_bad_tables_are_refused(tmp_path, content, says):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        crop_tables.read_table(path)


def test_subsets_check_themselves():
    entry = {"name": "a", "country": "AT", "year": 2021, "parcels": "x", "extent": [16, 48, 17, 49]}
    assert from_config([entry])[0].extent == (16.0, 48.0, 17.0, 49.0)
    for change, says in [
        ({"name": "a/b"}, "names a folder"),
        ({"year": "2021"}, "year"),
        ({"coverage": "full"}, "coverage"),
        ({"parcels": None}, "neither"),
        ({"extent": [17, 48, 16, 49]}, "extent"),
        ({"extent": [1, 2]}, "extent"),
        ({"separator": ""}, "separator"),
        ({"crop": 1}, "no field"),
        ({"country": None}, "lacks"),
    ]:
        with pytest.raises(ConfigError, match=says):
            from_config([{**entry, **change}])
    for entries, says in [([], "empty"), ([entry, entry], "share")]:
        with pytest.raises(ConfigError, match=says):
            from_config(entries)


def test_hcat_prefixes():
    assert hcat.class_of("3301010599", TAXONOMY) == "oats"
    assert hcat.class_of("3301090303", TAXONOMY) == "pasture"
    assert hcat.class_of("3301090304", TAXONOMY) == ""
    assert hcat.class_of("", TAXONOMY) == ""
    assert hcat.agreement([("a", "a", 2), ("", "", 3), ("a", "", 1)]) == hcat.Agreement(6, 5, 3, 2)
    assert hcat.agreement([]).share == hcat.agreement([]).target_share == 1.0


def test_labels_are_stable_for_many_parcels(tmp_path):
    names = np.array(["Maize", "Oats", "Kale", "Meadow"])[np.arange(4000) % 4]
    found = harmonize.harmonize(subset(written(tmp_path, frame(names.tolist()), "many.parquet")), TAXONOMY)
    assert found.parcels["label"].tolist() == [1, 5, 255, 10] * 1000
    assert found.parcels["parcel"].dtype == np.int64
    assert found.parcels["label"].dtype == np.uint8
