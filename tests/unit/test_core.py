import errno
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropseg.core import storage
from cropseg.core.bands import PAPER_BANDS, S2_BANDS, check_bands
from cropseg.core.errors import ConfigError, CropsegError, InputError, StorageError
from cropseg.core.scene import Grid
from cropseg.core.tiling import Window, sliding, starts


@given(st.integers(1, 200), st.integers(1, 60), st.integers(1, 60))
def test_starts_lie_inside_and_border_alignment_covers(length, size, stride):
    inside = starts(length, size, stride)
    assert all(0 <= s <= length - size and s % stride == 0 for s in inside)
    assert (len(inside) == 0) == (length < size)
    aligned = starts(length, size, stride, border_aligned=True)
    if length >= size and stride <= size:
        covered = np.zeros(length, bool)
        for s in aligned:
            covered[s : s + size] = True
        assert covered.all()
    assert len(set(aligned)) == len(aligned)


def test_paper_windows_of_a_dacia5_scene():
    # §3.5.2: 800 × 450 in windows of 256 with border-aligned last ones: 4 × 2 = 8.
    assert len(list(sliding(450, 800, 256, 256, border_aligned=True))) == 8


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (1, 0), (-3, 2)])
def test_impossible_windows(size, stride):
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        starts(10, size, stride)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 40), st.integers(1, 40))
def test_grid_window_is_the_affine_shift(row, col, height, width):
    grid = Grid("EPSG:32633", (10.0, 0.0, 600000.0, 0.0, -10.0, 5400000.0), 100, 100)
    part = grid.window(Window(row, col, height, width))
    left, bottom, right, top = part.bounds
    assert (left, top) == (600000.0 + 10 * col, 5400000.0 - 10 * row)
    assert (right - left, top - bottom) == (10 * width, 10 * height)


def test_paper_band_order():
    assert PAPER_BANDS == ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
    assert [S2_BANDS[b].boa_id for b in PAPER_BANDS] == [1, 2, 3, 7, 4, 5, 6, 8, 11, 12]


@pytest.mark.parametrize("bands", [["B02", "B02"], [], ["b02"], ["NIR"]])
def test_bad_bands(bands):
    with pytest.raises(ConfigError):
        check_bands(bands)


def test_error_says_what_value_and_remedy_and_survives_processes():
    error = InputError("column is missing", "PLODINA", "name it with name_column=")
    assert str(error) == "column is missing: 'PLODINA'. name it with name_column="
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is InputError
    assert str(back) == str(error)
    assert isinstance(error, CropsegError)


def test_atomic_write_leaves_all_or_nothing(tmp_path):
    path = tmp_path / "a" / "b.json"
    storage.write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), storage.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert storage.read_json(path) == {"x": 1}
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


def test_full_disk_has_a_remedy(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*free some space"), storage.atomic_path(tmp_path / "x.npy"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_other_os_errors_stay_themselves(tmp_path):
    with pytest.raises(OSError, match="broken"), storage.atomic_path(tmp_path / "x"):
        raise OSError(errno.EIO, "broken")


def test_bad_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json is not valid JSON"):
        storage.read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match="no such file"):
        storage.read_json(tmp_path / "y.json")
