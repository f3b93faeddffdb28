"""A simulated product is a true one to those who did not write it: GDAL, pystac, zipfile, the recorded items."""

import hashlib
import json
import re
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from services_support import META, layers, small_region

from cropseg.core.bands import PAPER_BANDS
from cropseg.core.errors import InputError, StorageError
from data_prep.simulate.catalogue import collection, item, product_uuid, with_host, write_catalogue
from data_prep.simulate.writer import footprint, pack, scene_statistics, write_product


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """{baseline: (meta, bands, scl, safe, zip)} before and after 04.00, in a northern and a southern zone."""
    made = {}
    for baseline, tile, epsg, uly in (("05.10", "33UXP", 32633, 5300040), ("02.14", "22HBD", 32722, 6900040)):
        folder = tmp_path_factory.mktemp("products")
        meta = replace(META, baseline=baseline, tile=tile, epsg=epsg, uly=uly)
        bands, scl = layers(meta)
        safe = write_product(meta, bands, scl, folder)
        made[baseline] = (meta, bands, scl, safe, pack(safe))
    return made


def our_name(gdal: str) -> str:
    return f"B{int(gdal[1:]):02d}" if gdal[1:].isdigit() else gdal


@pytest.mark.parametrize("baseline", ["05.10", "02.14"])
def test_gdals_own_driver_reads_the_same_pixels_on_the_same_grid(written, baseline):
    meta, bands, scl, safe, _ = written[baseline]
    seen = set()
    for resolution in (10, 20):
        name = f"SENTINEL2_L2A:{safe}/MTD_MSIL2A.xml:{resolution}m:EPSG_{meta.epsg}"
        with rasterio.open(name) as scene:
            assert scene.crs.to_epsg() == meta.epsg
            assert scene.transform == rasterio.Affine(resolution, 0, meta.ulx, 0, -resolution, meta.uly)
            for index in scene.indexes:
                tags = scene.tags(index)
                layer = our_name(tags["BANDNAME"])
                expected = scl if layer == "SCL" else bands.get(layer)
                if expected is None:  # AOT, WVP, CLD and SNW, which the driver always lists
                    continue
                np.testing.assert_array_equal(scene.read(index), expected)
                seen.add(layer)
                if layer != "SCL":
                    assert tags.get("BOA_ADD_OFFSET") == ("-1000" if baseline == "05.10" else None)
    assert seen == {*PAPER_BANDS, "SCL"}
    # The product as a whole is a container of grids and has none itself.
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        product = rasterio.open(safe / "MTD_MSIL2A.xml")
    with product:
        tags = product.tags()
        assert len(product.subdatasets) == 4
    assert tags["PROCESSING_BASELINE"] == baseline
    assert tags["BOA_QUANTIFICATION_VALUE"] == "10000"
    assert (tags["SPECIAL_VALUE_NODATA"], tags["SPECIAL_VALUE_SATURATED"]) == ("0", "65535")
    assert float(tags["CLOUD_COVERAGE_ASSESSMENT"]) == meta.cloud_cover
    assert shapely.from_wkt(tags["FOOTPRINT"]).equals_exact(footprint(meta, scl), 1e-9)


@pytest.mark.parametrize("baseline", ["05.10", "02.14"])
def test_each_image_alone_is_georeferenced_lossless_jpeg_2000(written, baseline):
    meta, bands, scl, safe, _ = written[baseline]
    for (layer, resolution), path in meta.images.items():
        with rasterio.open(safe / f"{path}.jp2") as image:
            assert image.driver == "JP2OpenJPEG"
            assert image.crs.to_epsg() == meta.epsg
            assert image.transform == meta.transform(resolution)
            assert image.dtypes == (("uint8" if layer == "SCL" else "uint16"),)
            np.testing.assert_array_equal(image.read(1), scl if layer == "SCL" else bands[layer])


def elements(path) -> set[str]:
    return {re.sub(r"\{.*\}", "", element.tag) for element in ET.parse(path).iter()}


def test_metadata_has_the_elements_of_real_products(written, real_data):
    real = next((real_data / "safe").glob("*.SAFE"))
    meta, _, _, safe, _ = written["05.10"]
    for ours, theirs in (
        (safe / "MTD_MSIL2A.xml", real / "MTD_MSIL2A.xml"),
        (safe / "GRANULE" / meta.granule / "MTD_TL.xml", next(real.glob("GRANULE/*/MTD_TL.xml"))),
        (safe / "manifest.safe", real / "manifest.safe"),
    ):
        assert ET.parse(ours).getroot().tag == ET.parse(theirs).getroot().tag
        assert elements(ours) - elements(theirs) == set()


def test_offset_elements_stand_as_in_real_products_of_their_time(written):
    for baseline, count in (("05.10", 13), ("02.14", 0)):
        root = ET.parse(written[baseline][3] / "MTD_MSIL2A.xml")
        offsets = list(root.iter("BOA_ADD_OFFSET"))
        assert [(o.attrib["band_id"], o.text) for o in offsets] == [(str(i), "-1000") for i in range(count)]
        assert len(list(root.iter("BOA_ADD_OFFSET_VALUES_LIST"))) == bool(count)


def test_names_are_esas(written):
    _, _, _, safe, archive = written["05.10"]
    assert safe.name == "S2A_MSIL2A_20220612T100601_N0510_R079_T33UXP_20220612T150000.SAFE"
    assert archive.name == safe.name.replace(".SAFE", ".zip")
    assert (
        safe / "GRANULE/L2A_T33UXP_A036400_20220612T100601/IMG_DATA/R10m/T33UXP_20220612T100601_B02_10m.jp2"
    ).is_file()
    listed = [element.text for element in ET.parse(safe / "MTD_MSIL2A.xml").iter("IMAGE_FILE")]
    assert sorted(f"{path}.jp2" for path in listed) == sorted(
        path.relative_to(safe).as_posix() for path in safe.rglob("*.jp2")
    )


def test_manifest_lists_every_file_with_its_size_and_md5(written):
    safe = written["05.10"][3]
    listed = {}
    for element in ET.parse(safe / "manifest.safe").iter("byteStream"):
        path = element.find("fileLocation").attrib["href"].removeprefix("./")
        listed[path] = (int(element.attrib["size"]), element.find("checksum").text)
    files = {p.relative_to(safe).as_posix(): p.read_bytes() for p in safe.rglob("*") if p.is_file()}
    del files["manifest.safe"]
    assert listed == {path: (len(data), hashlib.md5(data).hexdigest()) for path, data in files.items()}


def test_zip_holds_the_product_stored_and_whole(written):
    _, _, _, safe, path = written["05.10"]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        members = {info.filename: archive.read(info) for info in archive.infolist()}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert members == {
        f"{safe.name}/{p.relative_to(safe).as_posix()}": p.read_bytes() for p in safe.rglob("*") if p.is_file()
    }


def test_same_input_gives_the_same_bytes(written, tmp_path):
    meta, bands, scl, safe, archive = written["02.14"]
    again = pack(write_product(meta, bands, scl, tmp_path), tmp_path / "zips")
    assert again.read_bytes() == archive.read_bytes()
    write_product(meta, bands, scl, tmp_path)  # one that is there already is replaced
    assert sorted(p.name for p in tmp_path.iterdir()) == [safe.name, "zips"]


@settings(max_examples=8, deadline=None)
@given(half=st.integers(1, 40), seed=st.integers(0, 99))
def test_any_even_size_works(tmp_path_factory, half, seed):
    meta = replace(META, size=2 * half)
    bands, scl = layers(meta, seed)
    scl[-1, -1] = 4
    safe = write_product(meta, bands, scl, tmp_path_factory.mktemp("size"))
    with rasterio.open(f"SENTINEL2_L2A:{safe}/MTD_MSIL2A.xml:20m:EPSG_32633") as scene:
        assert scene.shape == (half, half)
        names = [our_name(scene.tags(i)["BANDNAME"]) for i in scene.indexes]
        np.testing.assert_array_equal(scene.read(names.index("B12") + 1), bands["B12"])


def test_footprint_is_the_valid_ground(written):
    meta, _, scl, _, _ = written["05.10"]
    to_utm = pyproj.Transformer.from_crs(4326, meta.epsg, always_xy=True)
    outline = shapely.transform(footprint(meta, scl), to_utm.transform, interleaved=False)
    rows, cols = np.nonzero(scl)
    centres = shapely.points(meta.ulx + 20 * cols + 10, meta.uly - 20 * rows - 10)
    assert shapely.contains(outline, centres).all()
    rows, cols = np.nonzero(scl == 0)
    centres = shapely.points(meta.ulx + 20 * cols + 10, meta.uly - 20 * rows - 10)
    assert shapely.contains(outline.buffer(-20), centres).sum() == 0
    assert outline.area == pytest.approx(np.count_nonzero(scl) * 400, rel=0.05)


def test_statistics_are_shares_of_valid_pixels():
    scl = np.array([[0, 0], [4, 9]], np.uint8)
    shares = {int(kind): share for kind, share in scene_statistics(scl).items()}
    assert (shares[0], shares[4], shares[9], shares[5]) == (50.0, 50.0, 50.0, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 61},
        {"size": 0},
        {"tile": "T33UXP"},
        {"baseline": "5.10"},
        {"platform": "L8"},
        {"epsg": 31287},
        {"relative_orbit": 144},
        {"cloud_cover": 101.0},
        {"acquired": datetime(2022, 6, 12)},
    ],
)
def test_impossible_products_are_refused_by_name(change):
    with pytest.raises(InputError, match=next(iter(change)) if "epsg" not in change else "EPSG"):
        replace(META, **change)


def test_wrong_layers_are_refused_and_nothing_is_written(tmp_path):
    bands, scl = layers(META)
    cases = [
        ({k: v for k, v in bands.items() if k != "B11"}, scl, "B11"),
        (bands | {"B05": bands["B02"]}, scl, "B05"),
        (bands | {"B02": bands["B02"].astype(np.int16)}, scl, "int16"),
        (bands, np.full_like(scl, 12), "12"),
        (bands, np.zeros_like(scl), "no valid pixel"),
    ]
    for given_bands, given_scl, word in cases:
        with pytest.raises(InputError, match=word):
            write_product(META, given_bands, given_scl, tmp_path)
    with pytest.raises(InputError, match=r"\.SAFE"):
        pack(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    bands, scl = layers(META)
    monkeypatch.setattr("data_prep.simulate.writer._write_text", full)
    with pytest.raises(StorageError, match="free some space"):
        write_product(META, bands, scl, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- the catalogue


def test_items_have_the_keys_of_the_recorded_ones(written, real_data):
    meta, _, _, safe, archive = written["05.10"]
    ours = item(meta, safe, archive)
    recorded = json.loads((real_data / "cdse" / "items_2026.json").read_text())["features"][0]
    assert set(ours) == set(recorded)
    assert set(ours["assets"]) <= set(recorded["assets"])
    assert {f"{b}_10m" for b in ("B02", "B03", "B04", "B08")} | {"SCL_20m", "B8A_20m", "Product"} <= set(ours["assets"])
    assert set(ours["properties"]) - set(recorded["properties"]) == {"description"}
    for key, asset in ours["assets"].items():
        real = recorded["assets"][key]
        assert set(asset) <= set(real), key
        assert set(real) - set(asset) <= {"storage:refs", "view:azimuth", "view:incidence_angle"}, key
        for same in (
            "type",
            "gsd",
            "nodata",
            "data_type",
            "raster:scale",
            "raster:offset",
            "title",
            "roles",
            "auth:refs",
        ):
            assert asset.get(same) == real.get(same), (key, same)

        def shape(text: str, name: str, uuid: str, granule: str) -> str:
            date = r"/\d{4}/\d\d/\d\d/"
            return re.sub(date, "/DATE/", text.replace(name, "NAME").replace(uuid, "UUID").replace(granule, "GRANULE"))

        def addresses(entry: dict, asset: dict) -> list[str]:
            uuid = entry["properties"]["_private"]["product_uuid"]
            granule = entry["assets"]["granule_metadata"]["href"].split("/")[-2]
            hrefs = [
                asset["href"],
                asset.get("alternate", {}).get("https", {}).get("href", ""),
                asset["file:local_path"],
            ]
            tile = "_".join([f"T{entry['properties']['grid:code'][-5:]}", entry["id"].split("_")[2]])
            return [shape(href, entry["id"], uuid, granule).replace(tile, "TILE") for href in hrefs]

        assert addresses(ours, asset) == addresses(recorded, real), key


def test_item_tells_the_truth_about_its_files(written):
    for baseline, offset in (("05.10", -0.1), ("02.14", 0.0)):
        meta, _, scl, safe, archive = written[baseline]
        made = item(meta, safe, archive)
        for key, asset in made["assets"].items():
            data = archive.read_bytes() if key == "Product" else (safe.parent / asset["file:local_path"]).read_bytes()
            prefix, digest = ("d50110", "md5") if key in ("Product", "safe_manifest") else ("1620", "sha3_256")
            assert asset["file:size"] == len(data)
            assert asset["file:checksum"] == prefix + hashlib.new(digest, data).hexdigest()
            if "raster:offset" in asset:
                assert asset["raster:offset"] == offset
            if "proj:shape" in asset:
                with rasterio.open(safe.parent / asset["file:local_path"]) as image:
                    assert list(image.shape) == asset["proj:shape"]
                    assert list(image.transform)[:6] == asset["proj:transform"]
                    assert list(image.bounds) == asset["proj:bbox"]
                    assert image.crs.to_string() == asset["proj:code"]
        assert shapely.geometry.shape(made["geometry"]).equals(footprint(meta, scl))
        properties = made["properties"]
        assert properties["grid:code"] == f"MGRS-{meta.tile}"
        assert properties["processing:version"] == baseline
        assert properties["eo:cloud_cover"] == 12.5
        assert properties["datetime"] == "2022-06-12T10:06:01.024000Z"
        assert sum(properties["statistics"].values()) - properties["statistics"]["nodata"] + properties[
            "eo:snow_cover"
        ] == pytest.approx(100, abs=1e-4)
        pystac.Item.from_dict(made)


def test_uuid_is_the_names_own():
    assert product_uuid("a") == product_uuid("a") != product_uuid("b")


def test_stored_items_keep_cdses_host_and_a_server_puts_its_own(written):
    meta, _, _, safe, archive = written["05.10"]
    stored = item(meta, safe, archive)
    assert "127.0.0.1" not in json.dumps(stored)
    served = json.dumps(with_host(stored, "http://127.0.0.1:81/")["assets"])
    assert "download.dataspace" not in served
    assert "http://127.0.0.1:81/odata/v1/Products(" in served
    assert "s3://eodata/Sentinel-2/MSI/L2A/2022/06/12/" in served


def test_catalogue_files_are_ordered_and_readable(tmp_path):
    folder = small_region(tmp_path, 2)
    stored = json.loads((folder / "stac" / "items.json").read_text())
    times = [entry["properties"]["datetime"] for entry in stored["features"]]
    assert times == sorted(times)
    assert len(pystac.ItemCollection.from_dict(stored)) == 2
    about = json.loads((folder / "stac" / "collection.json").read_text())
    assert about == collection(stored["features"])
    extent = pystac.Collection.from_dict(about).extent
    assert all(shapely.box(*extent.spatial.bboxes[0]).covers(shapely.box(*e["bbox"])) for e in stored["features"])
    assert extent.temporal.intervals[0][1] == datetime(2022, 7, 12, 10, 6, 1, 25000, tzinfo=UTC)
    before = (folder / "stac" / "items.json").read_bytes()
    write_catalogue(reversed(stored["features"]), folder / "stac")
    assert (folder / "stac" / "items.json").read_bytes() == before
