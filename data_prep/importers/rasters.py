"""Reading foreign rasters: GeoTIFF, PNG, .npy and .mat, each refused by name if it is broken. Nothing is unpickled."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from scipy.io import loadmat
from scipy.io.matlab import MatReadError, matfile_version

from cropseg.core.errors import InputError
from cropseg.core.scene import Grid

_AGAIN: Final = "get the file again"

MATLAB_73: Final = 2
"""Major number of :func:`scipy.io.matlab.matfile_version` for files of MATLAB 7.3, which are HDF5."""


@dataclass(frozen=True)
class Raster:
    """A raster file.

    Attributes:
        values: (bands, height, width), as stored.
        grid: Where it lies; None if the file does not say so.
        nodata: The value that the file declares as no data; None if it declares none.
    """

    values: npt.NDArray[Any]
    grid: Grid | None
    nodata: float | None


def read_raster(path: Path) -> Raster:
    """Read all bands of a GeoTIFF.

    Raises:
        InputError: It is missing, cut off or no raster, or lies askew.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # then grid is None, which the caller judges
            with rasterio.open(path) as file:
                return Raster(file.read(), _grid(path, file), file.nodata)
    except RasterioError as error:
        raise InputError(f"cannot read {path}", str(error.__cause__ or error), _AGAIN) from error


def shape_of(path: Path) -> tuple[int, int, int]:
    """Bands, height and width of a raster, without reading its pixels.

    Raises:
        InputError: It is missing or no raster.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return file.count, file.height, file.width
    except RasterioError as error:
        raise InputError(f"cannot read {path}", str(error), _AGAIN) from error


def read_npy(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Read a ``.npy`` file; ``mapped`` leaves the pixels on disk until they are asked for.

    Raises:
        InputError: It is missing, cut off, or holds Python objects.
    """
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, _AGAIN) from error
    except (ValueError, EOFError, OSError, OverflowError, TokenError) as error:  # the last: a broken header
        raise InputError(f"cannot read {path}", str(error), _AGAIN) from error


def read_mask(path: Path, key: str = "mask") -> npt.NDArray[np.int64]:
    """Read a mask of whole numbers, (height, width), from ``.png``, ``.tif``, ``.npy`` or ``.mat``, in any case.

    Args:
        path: The file.
        key: Name of the variable in a ``.mat`` file.

    Raises:
        InputError: It is missing or broken, has several bands, or holds values that are no whole numbers.
    """
    kind = path.suffix.lower()
    if kind == ".npy":
        values = read_npy(path)
    elif kind == ".mat":
        values = _read_mat(path, key)
    elif kind == ".png":
        values = _read_png(path)
    else:
        values = read_raster(path).values
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        raise InputError(f"mask {path} must be one band of numbers, not", f"{values.dtype} {values.shape}", _AGAIN)
    if values.dtype.kind == "f":
        check_finite(values, path)
        if (values != np.rint(values)).any():
            raise InputError(f"mask {path} holds values that are no whole numbers", float(values.max()), _AGAIN)
    return values.astype(np.int64)


def without_data(values: npt.NDArray[Any], nodata: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Where ``values`` are one of ``nodata``, each as the file's own type holds it.

    Args:
        values: Whole numbers or floats, as stored.
        nodata: NaN among them if it is one. Float files hold the nearest that they can (-0.1 of float32 is not that of
            float64); a value beyond the range of the type, or a fraction where it is whole, stands nowhere.
    """
    empty = np.zeros(values.shape, np.bool_)
    for value in nodata:
        if values.dtype.kind != "f":
            whole = math.isfinite(value) and value == int(value)
            if whole and np.iinfo(values.dtype).min <= value <= np.iinfo(values.dtype).max:
                empty |= values == int(value)
        elif math.isnan(value):
            empty |= np.isnan(values)
        else:
            with np.errstate(over="ignore", under="ignore"):
                held = values.dtype.type(value)
            # An infinity or a zero that the type made of another number is not that number.
            if np.isinf(held) == math.isinf(value) and (held == 0) == (value == 0):
                empty |= values == held
    return empty


def check_finite(values: npt.NDArray[Any], path: Path, what: str = "") -> None:
    """Refuse NaN and infinity.

    Raises:
        InputError: There is one; ``path`` (and ``what`` of it) and the first place are named.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        spot = tuple(int(index) for index in np.argwhere(~np.isfinite(values))[0])
        raise InputError(f"{path}{what} holds NaN or infinity, first at", spot, "name its no-data value, or mend it")


def _read_png(path: Path) -> npt.NDArray[Any]:
    """Palette numbers or grey values. Not by GDAL, which makes chance values of a file that is cut off."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # the checksums, after which a file has to be opened again
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, _AGAIN) from error
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {path}", str(error), _AGAIN) from error


def _read_mat(path: Path, key: str) -> npt.NDArray[Any]:
    try:
        if matfile_version(str(path))[0] == MATLAB_73:
            raise InputError(f"{path} is a MATLAB 7.3 file", None, "use the .png, or save it as version 7")
        content = loadmat(path, variable_names=[key])
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, _AGAIN) from error
    except (MatReadError, zlib.error, ValueError, TypeError, LookupError, ArithmeticError, OSError, EOFError) as error:
        raise InputError(f"cannot read {path}", str(error), _AGAIN) from error
    if key not in content:
        raise InputError(f"{path} has no variable", key, _AGAIN)
    return np.asarray(content[key])


def _grid(path: Path, file: Any) -> Grid | None:
    if file.crs is None or file.transform.is_identity:
        return None
    a, b, c, d, e, f = tuple(file.transform)[:6]
    if b or d or a <= 0 or e != -a:
        raise InputError(f"{path} must be north up with square pixels", (a, b, c, d, e, f), "reproject it")
    return Grid(file.crs.to_string(), (a, b, c, d, e, f), file.height, file.width)
