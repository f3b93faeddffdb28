import shutil
from datetime import UTC, datetime

import pytest
import safe_factory

from cropseg.core.bands import S2_BANDS
from cropseg.core.errors import InputError
from data_prep.safe import open_product

REAL = {
    "S2A_MSIL2A_20150826T185436_N0212_R070_T11SLT_20210412T023147": ("11SLT", "02.12", "EPSG:32611", 0),
    "S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500": ("22HBD", "02.14", "EPSG:32722", 0),
    "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126": ("33XWJ", "04.00", "EPSG:32633", -1000),
    "S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157": ("01WCP", "05.09", "EPSG:32601", -1000),
    "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825": ("01KAB", "05.09", "EPSG:32701", -1000),
    "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454": ("29UNU", "04.00", "EPSG:32629", -1000),
}


def real_product(real_data, name, tmp_path):
    folders = [*(real_data / "safe_metadata").glob("*/"), *(real_data / "safe").glob("*/")]
    (folder,) = (path for path in folders if name in path.name)
    if (folder / "GRANULE").is_dir():
        return folder
    # One sample came with its two metadata files side by side; in a product the tile's lies with its granule.
    product = tmp_path / f"{name}.SAFE"
    granule = product / "GRANULE" / "L2A_T11SLT_A000925_20150826T185435"
    granule.mkdir(parents=True)
    shutil.copy(folder / "MTD_MSIL2A.xml", product)
    shutil.copy(folder / "MTD_TL.xml", granule)
    return product


@pytest.mark.parametrize("name", REAL)
def test_metadata_of_real_products(real_data, name, tmp_path):
    product = open_product(real_product(real_data, name, tmp_path))
    tile, baseline, crs, offset = REAL[name]
    assert (product.name, product.tile, product.baseline, product.crs) == (name, tile, baseline, crs)
    assert product.acquired.replace(microsecond=0) == datetime.strptime(name.split("_")[2], "%Y%m%dT%H%M%S").replace(
        tzinfo=UTC
    )
    assert product.offsets == dict.fromkeys(S2_BANDS, offset)
    assert product.quantification == 10_000
    assert baseline in product.offset_evidence
    assert ("-1000" if offset else "none") in product.offset_evidence


def test_files_of_the_real_irish_product(real_data):
    product = open_product(real_product(real_data, "T29UNU", None))
    assert product.path_of("B02", 60).name == "T29UNU_20221005T115411_B02_60m.jp2"
    assert product.path_of("SCL", 20).is_file()
    with pytest.raises(InputError, match=r"R60m/T29UNU_20221005T115411_B08_60m\.jp2.*it holds: B02, B03, .*SCL"):
        product.path_of("B08", 60)
    with pytest.raises(InputError, match=r"R10m/T29UNU_20221005T115411_B02_10m\.jp2.*it holds: nothing"):
        product.path_of("B02", 10)


@pytest.fixture
def folder(tmp_path):
    return safe_factory.product(tmp_path, size=12).folder


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def tile_metadata(folder):
    return next(folder.glob("GRANULE/*/MTD_TL.xml"))


def test_offsets_are_told_apart_by_band(folder):
    edit(folder / "MTD_MSIL2A.xml", '<BOA_ADD_OFFSET band_id="8">-1000', '<BOA_ADD_OFFSET band_id="8">-900')
    offsets = open_product(folder).offsets
    assert offsets["B8A"] == -900
    assert {value for band, value in offsets.items() if band != "B8A"} == {-1000}


def test_a_wrong_path(tmp_path, folder):
    with pytest.raises(InputError, match=r"no such product folder: .*nowhere"):
        open_product(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"it holds {folder.name}: give that folder"):
        open_product(folder.parent)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"lacks MTD_MSIL2A\.xml"):
        open_product(empty)
    (empty / "MTD_MSIL1C.xml").touch()
    with pytest.raises(InputError, match="Level-1C"):
        open_product(empty)


def test_several_granules_or_none(folder):
    extra = folder / "GRANULE" / "L2A_T33UYP_A036400_20220612T100601"
    extra.mkdir()
    with pytest.raises(InputError, match=r"must hold one granule: \[.*T33UXP.*T33UYP.*\]"):
        open_product(folder)
    shutil.rmtree(folder / "GRANULE")
    with pytest.raises(InputError, match=r"must hold one granule: \[\]"):
        open_product(folder)


@pytest.mark.parametrize("content", ["", "<broken", "<a></b>", "\x00\x01", '<?xml version="1.0" encoding="no"?><a/>'])
@pytest.mark.parametrize("which", ["product", "tile"])
def test_broken_xml(folder, content, which):
    path = folder / "MTD_MSIL2A.xml" if which == "product" else tile_metadata(folder)
    path.write_text(content)
    with pytest.raises(InputError, match=rf"cannot be read: .*{path.name}"):
        open_product(folder)


def test_missing_tile_metadata(folder):
    tile_metadata(folder).unlink()
    with pytest.raises(InputError, match=r"missing: .*MTD_TL\.xml"):
        open_product(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("PROCESSING_BASELINE>", "OTHER>", "lacks PROCESSING_BASELINE"),
        (">05.10</PROCESSING_BASELINE", ">new</PROCESSING_BASELINE", "not like 05.09: 'new'"),
        ('<BOA_ADD_OFFSET band_id="3">-1000', '<BOA_ADD_OFFSET band_id="3">-1000.5', "not a whole number: '-1000.5'"),
        ('<BOA_ADD_OFFSET band_id="3">', '<BOA_ADD_OFFSET band_id="4">', r"not for: \['B04'\]"),
        ('<BOA_ADD_OFFSET band_id="3">', "<BOA_ADD_OFFSET>", "band_id of BOA_ADD_OFFSET .* not a whole number"),
        (">10000</BOA_QUANTIFICATION_VALUE", ">1000</BOA_QUANTIFICATION_VALUE", "must be 10000: 1000"),
        (">65535</SPECIAL_VALUE_INDEX", ">65534</SPECIAL_VALUE_INDEX", "SATURATED .* must be 65535: 65534"),
        ("<DATATAKE_SENSING_START>2022", "<DATATAKE_SENSING_START>in 2022", "is not a time"),
    ],
)
def test_metadata_that_say_something_else(folder, old, new, message):
    edit(folder / "MTD_MSIL2A.xml", old, new)
    if new == "OTHER>":
        edit(folder / "MTD_MSIL2A.xml", old, new)
    with pytest.raises(InputError, match=message):
        open_product(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("_T33UXP_", "_", "names no MGRS tile"), ("EPSG:32633", "EPSG:4326", "is no UTM zone: 'EPSG:4326'")],
)
def test_tile_metadata_that_say_something_else(folder, old, new, message):
    path = tile_metadata(folder)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        open_product(folder)


def test_a_recent_product_without_offset_is_refused_and_not_guessed(folder):
    path = folder / "MTD_MSIL2A.xml"
    path.write_text(path.read_text().replace("BOA_ADD_OFFSET", "GONE"))
    with pytest.raises(InputError, match=r"baseline 05\.10 but gives no BOA_ADD_OFFSET"):
        open_product(folder)


def test_a_file_twice_is_refused(folder):
    product = open_product(folder)
    path = product.path_of("B02", 10)
    shutil.copy(path, path.with_name(f"L2A_{path.name}"))
    with pytest.raises(InputError, match="several files of B02 at 10 m"):
        product.path_of("B02", 10)


def test_the_manifest_holds_a_checksum_for_each_file(folder):
    product = open_product(folder)
    assert len(product.manifest) >= 12
    for path in folder.rglob("*.jp2"):
        product.verify(path)
        assert product.manifest[path.relative_to(folder).as_posix()].size == path.stat().st_size
    (folder / "manifest.safe").unlink()
    assert open_product(folder).manifest == {}
    open_product(folder).verify(product.path_of("B02", 10))


def test_real_files_have_the_checksums_of_their_manifest(real_data):
    product = open_product(real_product(real_data, "T29UNU", None))
    assert {entry.algorithm for entry in product.manifest.values()} == {"SHA3-256"}
    for band in ("B02", "SCL"):
        product.verify(product.path_of(band, 60))


@pytest.mark.parametrize("name", [name for name in REAL if "N0212" not in name])
def test_manifests_of_real_products(real_data, name, tmp_path):
    manifest = open_product(real_product(real_data, name, tmp_path)).manifest
    assert any("_B02_20m." in path and path.startswith("GRANULE/") for path in manifest)
    assert all(entry.algorithm in ("MD5", "SHA3-256") for entry in manifest.values())
    assert all(len(entry.checksum) in (32, 64) for entry in manifest.values())


@pytest.mark.parametrize("content", ["<broken", '<a><byteStream size="x"><fileLocation/><checksum/></byteStream></a>'])
def test_a_broken_manifest(folder, content):
    (folder / "manifest.safe").write_text(content)
    with pytest.raises(InputError, match=r"manifest cannot be read: .*manifest\.safe"):
        open_product(folder)


def test_a_checksum_of_an_unknown_kind_is_passed_over_but_not_the_size(folder):
    path = folder / "manifest.safe"
    path.write_text(path.read_text().replace('checksumName="MD5"', 'checksumName="CRC"'))
    product = open_product(folder)
    band = product.path_of("B02", 10)
    product.verify(band)
    band.write_bytes(band.read_bytes()[:-1])
    with pytest.raises(InputError, match="manifest gives"):
        product.verify(band)
