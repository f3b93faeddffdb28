"""Every real national table and parcel file goes through: a class or a reason for each, and sane figures."""

import numpy as np
import pytest
import shapely
from omegaconf import OmegaConf

from cropseg.core import taxonomy
from data_prep import harmonize, hcat, rois
from data_prep.subsets import from_config

RAW = taxonomy.load("eurocrops10")
CORRECTED = taxonomy.load("eurocrops10_corrected")

# Classes that the first hundred parcels of each file hold by Table 1, counted by hand from their names.
EXPECTED = {
    "at_2025": ("EPSG:31287", {"pasture": 57, "maize": 7, "wheat": 7, "barley": 4}),
    "be_vlg_2023": ("EPSG:31370", {"pasture": 46, "maize": 17, "potato": 7, "sugar beet": 3, "wheat": 3}),
    "cz_2024": (
        "EPSG:4258",
        {"pasture": 39, "wheat": 14, "rapeseed": 12, "barley": 10, "maize": 7, "potato": 2, "oats": 1},
    ),
    "de_bb_2025": ("EPSG:25833", {"pasture": 23, "barley": 1, "wheat": 1}),
    "fr_2022": (
        "EPSG:2154",
        {"pasture": 34, "wheat": 12, "maize": 10, "barley": 1, "oats": 1, "rapeseed": 1, "sugar beet": 1},
    ),
    "ie_2022": ("EPSG:4258", {"pasture": 11, "barley": 6, "oats": 3}),
    "ro_ny": ("EPSG:32635", {"pasture": 3}),
    "sk_2024": (
        "EPSG:5514",
        {"maize": 31, "barley": 17, "sunflower": 6, "pasture": 5, "rapeseed": 2, "soybean": 1, "wheat": 1},
    ),
}


def region(repo, real_data, name):
    config = OmegaConf.create(
        {"paths": {"real": str(real_data)}, "region": OmegaConf.load(repo / "conf" / "region" / f"{name}.yaml")}
    )
    return from_config(OmegaConf.to_container(config.region.subsets, resolve=True))


@pytest.fixture(scope="module")
def files(repo, real_data):
    return {s.name: harmonize.harmonize(s, RAW) for s in region(repo, real_data, "national_samples")}


def total_agreement(repo, real_data, rules, **options):
    found = [harmonize.harmonize(s, rules, **options).agreement for s in region(repo, real_data, "national_tables")]
    return sum(found, hcat.agreement([]))


def test_the_samples_are_all_there(files, real_data):
    assert sorted(files) == sorted(EXPECTED)
    assert len(list((real_data / "parcels").iterdir())) == len(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_real_parcel_has_a_class_or_a_reason(files, name):
    found = files[name]
    crs, classes = EXPECTED[name]
    assert found.parcels.crs.to_string() == crs
    assert sorted([*found.parcels["parcel"], *found.rejected["parcel"]]) == list(range(1, 101))
    counts = found.audit[found.audit["class_id"] != 255].groupby("class_name")["rows"].sum()
    assert counts.to_dict() == classes
    assert found.audit["rows"].sum() == 100
    assert (found.audit["rule"] != "").all()
    assert (found.rejected["reason"] != "").all()
    assert found.parcels.geometry.is_valid.all()
    labels = found.parcels["label"].to_numpy()
    assert set(labels) <= {*range(1, 11), 255}
    named = found.parcels["rule"].str.startswith("eurocrops10: keyword")
    assert (named == (labels != 255)).all()
    assert np.isfinite(found.audit["area_ha"]).all()


def test_areas_are_those_that_the_providers_state(files, real_data):
    import pyogrio

    for name, file, column in [
        ("at_2025", "at_2025.gpkg.zip", "SL_FLAECHE_BRUTTO_HA"),
        ("be_vlg_2023", "be_vlg_2023.gpkg.zip", "GRAF_OPP"),
        ("fr_2022", "fr_2022.gpkg", "surf_parc"),
        ("cz_2024", "cz_2024.gpkg", "ZAKRES_VYM"),
        ("sk_2024", "sk_2024.gpkg", "VYMERA"),
    ]:
        stated = pyogrio.read_dataframe(real_data / "parcels" / file, read_geometry=False)[column].sum()
        # Providers state what is paid for, which is a little less than the outline in some countries.
        assert files[name].audit["area_ha"].sum() == pytest.approx(stated, rel=0.03), name


def test_real_defects_are_seen(files):
    assert files["ro_ny"].rejected["reason"].tolist() == ["duplicate of parcel 44"] * 4
    slovak = files["sk_2024"].parcels.set_index("name")
    assert set(slovak.loc["Ja?me? jarný", "english"]) == {"Spring barley"}
    assert set(slovak.loc["P?enica letná ozimná", "rule"]) == {
        "garbled name fits no name of table sk_2021 -> ignored"  # the table has "Pšenica ozimná" alone
    }
    left, bottom, right, top = files["ie_2022"].parcels.total_bounds
    assert -11 < left < right < -5, "degrees east come first, whatever order the GML has"
    assert 51 < bottom < top < 56
    irish = files["ie_2022"].parcels.set_index("english")["rule"]
    assert set(irish["Permanent Pasture, Barley - Spring"]) == {"several crops: pasture, barley -> ignored"}


def test_paper_mode_leaves_nothing_ignored(repo, real_data):
    for subset in region(repo, real_data, "national_samples"):
        found = harmonize.harmonize(subset, RAW, unmapped="background", ambiguous="lowest")
        assert (found.parcels["label"] <= 10).all()


@pytest.mark.parametrize("rules", [RAW, CORRECTED], ids=lambda rules: rules.name)
def test_every_real_table_row_has_a_class_or_a_reason(repo, real_data, rules):
    tables = region(repo, real_data, "national_tables")
    rows = {
        path.stem: len(path.read_text(encoding="utf-8-sig").splitlines()) - 1
        for path in (real_data / "eurocrops").glob("*.csv")
        if path.stem != "HCAT3"
    }
    assert len(tables) == len(rows) == 11
    for subset in tables:
        audit = harmonize.harmonize(subset, rules).audit
        assert audit["rows"].sum() == next(n for stem, n in rows.items() if stem.lower() == subset.name)
        assert (audit["rule"] != "").all()
        assert (audit["english"] != "").all()
        assert audit["hcat"].str.fullmatch(r"\d{10}").all()


def test_agreement_with_hcat_is_what_was_measured_before(repo, real_data):
    """About 94 % of all rows and 74 % of those where either names a crop; the corrections do better at both."""
    raw = total_agreement(repo, real_data, RAW)
    assert raw.rows == 2475
    assert raw.share == pytest.approx(0.94, abs=0.02)
    assert raw.target_share == pytest.approx(0.74, abs=0.02)
    corrected = total_agreement(repo, real_data, CORRECTED)
    assert corrected.share > raw.share + 0.02
    assert corrected.target_share > 0.86


def test_twenty_austrian_rows_match_two_classes(repo, real_data):
    austria = next(s for s in region(repo, real_data, "national_tables") if s.name == "at_2021")
    audit = harmonize.harmonize(austria, RAW).audit
    several = audit[audit["rule"].str.startswith("several classes")]
    assert several["rows"].sum() == 20
    beans = several[several["english"].str.startswith("CORN / BEETLE BEANS")]
    assert set(beans["rule"]) == {"several classes: maize, sugar beet -> ignored"}
    lowest = harmonize.harmonize(austria, RAW, ambiguous="lowest").audit
    assert set(lowest.loc[lowest["english"].str.startswith("CORN / BEETLE"), "class_name"]) == {"maize"}


def test_every_hcat_prefix_exists(real_data):
    codes = [line.rsplit(",", 1)[1] for line in (real_data / "eurocrops" / "HCAT3.csv").read_text().split()[1:]]
    assert len(codes) == 384
    for prefix in hcat.CLASS_OF_PREFIX:
        assert any(code.startswith(prefix) for code in codes), prefix
    assert {hcat.class_of(code, RAW) for code in codes} == {"", *RAW.names[1:]}


def test_regions_cover_the_real_parcels(files):
    for name, found in files.items():
        crops = found.parcels[found.parcels["label"] != 255]
        cells = rois.grid(found.parcels, RAW, subset=name, cell_m=2560)
        # UTM areas differ from equal-area ones by the square of the zone's scale factor.
        area = crops.to_crs("EPSG:3035").area.sum() / 1e4
        covered = sum(cell.score for cell in cells)
        if len({cell.crs for cell in cells}) == 1:
            assert covered == pytest.approx(area, rel=2e-3), name
        else:  # parcels on both sides of a zone's border: ground that cells of two zones share is taken once
            assert 0.97 * area < covered < 1.002 * area, name
        best = cells[0]
        inside = found.parcels.to_crs(best.crs)[found.parcels["label"] != 255].geometry.to_numpy()
        cut = shapely.area(shapely.intersection(inside, shapely.box(*best.bounds))).sum() / 1e4
        assert best.score == pytest.approx(cut, abs=1e-5)
