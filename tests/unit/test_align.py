import shutil

import numpy as np
import pytest
import rasterio
import safe_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from cropseg.core.bands import PAPER_BANDS, S2_BANDS
from cropseg.core.errors import ConfigError, InputError
from cropseg.core.tiling import Window
from data_prep.align import AlignedProduct, bilinear_upsample
from data_prep.jp2 import Jp2File
from data_prep.safe import open_product

SIZE = 24
WHOLE = Window(0, 0, SIZE, SIZE)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    folder = tmp_path_factory.mktemp("products")
    return {
        baseline: safe_factory.product(folder, seed, size=SIZE, baseline=baseline)
        for seed, baseline in enumerate(["05.10", "02.14"])
    }


def raw(product, band):
    with rasterio.open(product.path_of(band, S2_BANDS[band].resolution)) as dataset:
        return dataset.read(1)


def windows(size=SIZE):
    def build(row, col, height, width):
        return Window(row, col, min(height, size - row), min(width, size - col))

    side = st.integers(0, size - 1)
    return st.builds(build, side, side, st.integers(1, size), st.integers(1, size))


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("baseline", ["05.10", "02.14"])
@pytest.mark.parametrize("boa_offset", ["apply", "ignore"])
def test_whole_tile_is_what_the_definition_says(products, baseline, resampling, boa_offset):
    product = products[baseline]
    offset = -1000 if baseline == "05.10" and boa_offset == "apply" else 0
    with AlignedProduct(product, PAPER_BANDS, resampling=resampling, boa_offset=boa_offset) as scene:
        image, clamped = scene.read_with_stats(WHOLE)
    expected = np.stack(
        [
            safe_factory.by_definition(raw(product, b), S2_BANDS[b].resolution // 10, offset, resampling)
            for b in PAPER_BANDS
        ]
    )
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.uint16
    if offset:
        assert 0.1 < clamped < 0.4
        # Every dark valid pixel of the 10 m bands was raised, and none became no data.
        dark = np.stack([raw(product, b) for b in PAPER_BANDS[:4]])
        assert (image[:4][(dark > 0) & (dark <= 1000)] == 1).all()
    else:
        assert clamped == 0


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows(), resampling=st.sampled_from(["bilinear", "nearest"]))
def test_a_window_is_the_crop_of_the_whole_tile(products, window, resampling):
    rows, cols = window.slices
    with AlignedProduct(products["05.10"], PAPER_BANDS, resampling=resampling) as scene:
        whole = scene.read_block(WHOLE)
        block = scene.read_block(window)
        np.testing.assert_array_equal(block.image, whole.image[:, rows, cols])
        np.testing.assert_array_equal(block.clamped, whole.clamped[rows, cols])
        np.testing.assert_array_equal(scene.scl(window), scene.scl(WHOLE)[rows, cols])
        crop = whole.crop(window)
        np.testing.assert_array_equal(crop.image, block.image)
        assert crop.clamped_fraction == block.clamped_fraction == scene.read_with_stats(window)[1]
        assert crop.image.base is None  # a patch does not hold the block's memory


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.sampled_from([2, 3, 6]),
    offset=st.sampled_from([-1000, 0, 7]),
    share=st.sampled_from([0.0, 0.3, 0.9]),
)
def test_bilinear_upsampling_at_any_factor(seed, factor, offset, share):
    rng = np.random.default_rng(seed)
    coarse = rng.choice([1, 2, 3, 1001, 65_534], (5, 4)).astype(np.uint16)
    coarse[rng.random(coarse.shape) < share] = 0
    valid = coarse > 0
    rows, cols = slice(0, 5 * factor), slice(0, 4 * factor)
    found = np.clip(bilinear_upsample(coarse, valid, factor, rows, cols, offset), 1, 65_535)
    found = np.where(valid.repeat(factor, 0).repeat(factor, 1), found, 0)
    np.testing.assert_array_equal(found, safe_factory.by_definition(coarse, factor, offset, "bilinear"))


@pytest.mark.parametrize("gaps", [False, True])
def test_bilinear_agrees_with_gdal(tmp_path, gaps):
    """GDAL's warper on the same grid; it rounds halves up, so a tie may differ by one digital number."""
    rng = np.random.default_rng(5)
    about = safe_factory.meta(size=SIZE, baseline="02.14")
    bands, scl = safe_factory.pixels(SIZE, 5)
    side = SIZE // 2
    bands["B11"] = rng.integers(1, 8_000, (side, side)).astype(np.uint16)
    if gaps:
        bands["B11"][rng.random((side, side)) < 0.2] = 0
    product = open_product(safe_factory.write_product(about, bands, scl, tmp_path))
    with AlignedProduct(product, ["B11"]) as scene:
        ours = scene.read(WHOLE)[0].astype(int)
        grid = scene.grid
    with (
        rasterio.open(product.path_of("B11", 20)) as dataset,
        WarpedVRT(
            dataset,
            crs=dataset.crs,
            transform=rasterio.Affine(*grid.transform),
            width=SIZE,
            height=SIZE,
            resampling=Resampling.bilinear,
            src_nodata=0,
            nodata=0,
        ) as warped,
    ):
        theirs = warped.read(1).astype(int)
    np.testing.assert_array_equal(ours == 0, theirs == 0)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 0.1


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows(), band=st.sampled_from(PAPER_BANDS))
def test_nearest_agrees_with_gdal(products, window, band):
    """An independent reader: GDAL upsamples the file's own pixels onto the window's coordinates."""
    product = products["02.14"]
    with AlignedProduct(product, [band], resampling="nearest") as scene:
        ours = scene.read(window)[0]
        transform = rasterio.Affine(*scene.grid.window(window).transform)
        classes = scene.scl(window)
    for name, found in ((band, ours), ("SCL", classes)):
        resolution = 20 if name == "SCL" else S2_BANDS[name].resolution
        with (
            rasterio.open(product.path_of(name, resolution)) as dataset,
            WarpedVRT(
                dataset,
                crs=dataset.crs,
                transform=transform,
                width=window.width,
                height=window.height,
                resampling=Resampling.nearest,
            ) as warped,
        ):
            expected = warped.read(1)
        expected[expected == 65_535 if name != "SCL" else np.zeros_like(expected, bool)] = 0
        np.testing.assert_array_equal(found, expected)


def test_what_it_is_to_a_reader_of_scenes(products):
    product = products["05.10"]
    with AlignedProduct(product, ["B8A", "B02"]) as scene:
        assert (scene.name, scene.bands, scene.acquired) == (product.name, ("B8A", "B02"), product.acquired)
        assert scene.grid.crs == "EPSG:32633"
        assert scene.grid.transform == (10, 0, 600_000, 0, -10, 5_300_040)
        assert (scene.grid.height, scene.grid.width) == (SIZE, SIZE)
        both = scene.read(Window(3, 5, 9, 7))
    with AlignedProduct(product, ["B02", "B8A"]) as scene:
        np.testing.assert_array_equal(scene.read(Window(3, 5, 9, 7))[::-1], both)


def test_files_are_closed_and_can_be_read_again(products):
    scene = AlignedProduct(products["05.10"], ["B02"])
    with scene:
        first = scene.read(WHOLE)
    assert not scene._open
    with scene:
        np.testing.assert_array_equal(scene.read(WHOLE), first)


@pytest.mark.parametrize(
    "window", [Window(-1, 0, 4, 4), Window(0, SIZE - 3, 4, 4), Window(0, 0, SIZE + 1, 1), Window(0, 0, 0, 4)]
)
def test_a_window_beyond_the_grid_is_refused(products, window):
    with AlignedProduct(products["05.10"], ["B02"]) as scene:
        for read in (scene.read, scene.scl):
            with pytest.raises(ConfigError, match="beyond the 24 × 24 pixels"):
                read(window)


@pytest.mark.parametrize(
    "options", [{"resolution": 30}, {"resampling": "cubic"}, {"boa_offset": "guess"}, {"bands": ["B99"]}]
)
def test_impossible_options_are_refused(products, options):
    with pytest.raises(ConfigError, match=str(next(iter(options.values())))[:4].strip("[']")):
        AlignedProduct(products["05.10"], options.pop("bands", ["B02"]), **options)


def test_a_missing_file_is_named_before_any_work(products, tmp_path):
    folder = tmp_path / products["05.10"].folder.name
    shutil.copytree(products["05.10"].folder, folder)
    product = open_product(folder)
    product.path_of("B11", 20).unlink()
    with pytest.raises(InputError, match=r"lacks the file GRANULE/.*/R20m/T33UXP_20220612T100601_B11_20m\.jp2"):
        AlignedProduct(product, PAPER_BANDS)


def large_file(folder, seed=0):
    """Four blocks of 64 pixels, so that GDAL would decode them in threads."""
    rng = np.random.default_rng(seed)
    path = folder / "T33UXP_20220612T100601_B02_10m.jp2"
    profile = {"driver": "JP2OpenJPEG", "height": 256, "width": 256, "count": 1, "dtype": "uint16"}
    layout = {"BLOCKXSIZE": 64, "BLOCKYSIZE": 64, "QUALITY": "100", "REVERSIBLE": "YES"}
    transform = rasterio.Affine(10, 0, 600_000, 0, -10, 5_300_040)
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **profile, **layout) as dataset:
        dataset.write(rng.integers(1, 9_999, (256, 256)).astype(np.uint16), 1)
    return path


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_file_cut_off_anywhere_is_refused(tmp_path_factory, share):
    path = large_file(tmp_path_factory.mktemp("cut"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"B02_10m\.jp2"):
        Jp2File(path, "uint16").read(Window(0, 0, 256, 256))


@pytest.mark.parametrize("threads", [None, "ALL_CPUS"])
@pytest.mark.parametrize("start", [0.05, 0.3, 0.6])
def test_a_failed_block_is_an_error_and_never_zeros(tmp_path, start, threads):
    path = large_file(tmp_path)
    damaged = bytearray(path.read_bytes())
    # The end is kept, so that the structure of the file still looks whole; the blocks in between are gone.
    first = int(len(damaged) * start)
    damaged[first:-2] = bytes(len(damaged) - 2 - first)
    path.write_bytes(damaged)
    # Whatever the caller sets for GDAL: with threads of its own it would lose the error.
    with rasterio.Env(**({} if threads is None else {"GDAL_NUM_THREADS": threads})):
        file = Jp2File(path, "uint16")
        with pytest.raises(InputError, match=r"cannot read .*B02_10m\.jp2: the file is corrupt"):
            file.read(Window(0, 0, 256, 256))
        file.close()


def test_a_file_of_something_else_is_refused(tmp_path, products):
    path = tmp_path / "T33UXP_20220612T100601_B02_10m.jp2"
    path.write_text("<html>Too many requests</html>")
    with pytest.raises(InputError, match="not a JPEG 2000 file"):
        Jp2File(path, "uint16")
    with pytest.raises(InputError, match="No such file"):
        Jp2File(tmp_path / "absent.jp2", "uint16")
    with pytest.raises(InputError, match="must hold one uint8 band"):
        Jp2File(products["05.10"].path_of("B02", 10), "uint8")


def copy_with(products, tmp_path, band, resolution, replacement):
    folder = tmp_path / products["05.10"].folder.name
    shutil.copytree(products["05.10"].folder, folder)
    (folder / "manifest.safe").unlink()  # it would tell the files apart before their grids do
    product = open_product(folder)
    shutil.copy(replacement, product.path_of(band, resolution))
    return product


def test_bands_on_another_grid_are_refused(products, tmp_path):
    moved = safe_factory.product(tmp_path / "moved", size=SIZE, ulx=600_020)
    product = copy_with(products, tmp_path, "B11", 20, moved.path_of("B11", 20))
    with AlignedProduct(product, ["B02", "B11"]) as scene, pytest.raises(InputError, match="B02's grid"):
        scene.read(WHOLE)


def test_another_zone_than_the_metadata_say_is_refused(products, tmp_path):
    other = safe_factory.product(tmp_path / "other", size=SIZE, epsg=32631)
    product = copy_with(products, tmp_path, "B02", 10, other.path_of("B02", 10))
    with AlignedProduct(product, ["B02"]) as scene, pytest.raises(InputError, match="EPSG:32633"):
        scene.read(WHOLE)


def test_b02_at_another_resolution_is_refused(products, tmp_path):
    product = copy_with(products, tmp_path, "B02", 10, products["05.10"].path_of("B11", 20))
    with AlignedProduct(product, ["B02"]) as scene, pytest.raises(InputError, match="no 10 m pixels"):
        scene.read(WHOLE)


@pytest.mark.parametrize("damage", ["noise", "zeros", "one bit", "cut", "longer"])
def test_damage_that_still_decodes_is_told_by_the_manifest(products, tmp_path, damage):
    folder = tmp_path / products["05.10"].folder.name
    shutil.copytree(products["05.10"].folder, folder)
    product = open_product(folder)
    path = product.path_of("B03", 10)
    content = bytearray(path.read_bytes())
    place = len(content) * 3 // 4
    if damage == "one bit":
        content[place] ^= 4
    elif damage in ("noise", "zeros"):
        content[place : place + 50] = np.random.default_rng(0).bytes(50) if damage == "noise" else bytes(50)
    else:
        content = content[:-1] if damage == "cut" else content + b"."
    path.write_bytes(content)
    with AlignedProduct(product, ["B02"]) as scene:
        scene.read(WHOLE)  # a file that is not asked for is not looked at
    with AlignedProduct(product, ["B02", "B03"]) as scene:
        for _ in range(2):  # never "already checked"
            with pytest.raises(InputError, match=r"B03_10m\.jp2 is (corrupt|cut off or altered)"):
                scene.read(WHOLE)
