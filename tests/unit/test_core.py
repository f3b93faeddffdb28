import errno
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

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


# Reading arrays ---------------------------------------------------------------------------------------------------


@given(
    arrays(
        dtype=st.one_of(scalar_dtypes(), st.just(np.dtype(">u2"))),
        shape=array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    st.booleans(),
)
def test_an_array_is_read_as_numpy_reads_it(tmp_path_factory, array, by_column):
    path = tmp_path_factory.mktemp("a") / "x.npy"
    np.save(path, np.asfortranarray(array) if by_column else array, allow_pickle=False)
    for _ in range(2):  # its header known or not
        found = storage.read_array(path)
        expected = np.load(path, allow_pickle=False)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


def test_an_array_is_read_into_one_of_its_kind_alone(tmp_path):
    array = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    np.save(tmp_path / "x.npy", array)
    into = np.zeros((2, 2, 3, 4), np.uint16)
    target = into[1]
    assert storage.read_array(tmp_path / "x.npy", target) is target
    np.testing.assert_array_equal(into, [np.zeros_like(array), array])
    read_only = np.zeros((2, 3, 4), np.uint16)
    read_only.flags.writeable = False
    others = (
        np.zeros((2, 3, 5), np.uint16), np.zeros((2, 3, 4), np.int16), np.zeros((4, 3, 2), np.uint16), read_only,
        np.zeros((2, 3, 9), np.uint16)[..., :4], np.zeros((2, 3, 8), np.uint16)[..., ::2],
        np.zeros((4, 3, 2), np.uint16).T,
    )  # fmt: skip
    for other in others:
        found = storage.read_array(tmp_path / "x.npy", other)
        assert found is not other
        assert not other.any()
        np.testing.assert_array_equal(found, array)


def _npy(header: bytes, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUM",
        b"\x93NUMPY\x01\x00\xff",
        b"PK\x03\x04 an archive",
        b"\x80\x04\x95 a pickle",
        _npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (4,), }\n") + b"\x00" * 7,
        _npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (10000000000000000,), }\n") + b"\x00" * 8,
        _npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (-1,), }\n") + b"\x00" * 8,
        _npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"\x80\x04N.",
        _npy(b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }\n") + b"\x00" * 8,
        _npy(b"{'descr': '<u2', 'shape': \n") + b"\x00" * 8,
        _npy(b"print('no')\n") + b"\x00" * 8,
        _npy(b"{'descr': ('<u2', (2,)), 'fortran_order': False, 'shape': (2,), }\n") + b"\x00" * 8,
        _npy(b"{'descr': (), 'fortran_order': False, 'shape': (2,), }\n") + b"\x00" * 8,
        _npy(b"{[]: 1}\n") + b"\x00" * 8,
        _npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (True,), }\n") + b"\x00" * 8,
        _npy(b"{'descr': '<u2', 'fortran_order': False, 'shape': (4,), }\n", b"\x09\x00") + b"\x00" * 8,
    ],
)
def test_what_is_no_whole_array_is_refused(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    for _ in range(2):
        with pytest.raises(ValueError, match=r".+"):
            storage.read_array(tmp_path / "x.npy", np.zeros(4, np.uint16))


def test_a_missing_array_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.read_array(tmp_path / "x.npy")


def test_bytes_behind_an_array_are_no_part_of_it(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3))
    with (tmp_path / "x.npy").open("ab") as file:
        file.write(b"more")
    assert storage.read_array(tmp_path / "x.npy").tolist() == [0, 1, 2]
