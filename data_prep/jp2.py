"""A JPEG 2000 file, read by windows so that a failed read is an error and never a zero.

GDAL decodes several blocks of a JPEG 2000 file in threads of its own and loses their errors: a file that was cut off
then reads as zeros, without a word. So reading is kept to one thread here (work is shared out by region and product
instead), and the file's own structure is checked when it is opened. Damage that keeps the structure cannot be seen in a
JPEG 2000 file, which carries no checksum: :mod:`data_prep.safe_manifest` sees it.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
import rasterio.windows

from cropseg.core.errors import InputError
from cropseg.core.scene import Grid
from cropseg.core.tiling import Window

_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_END_OF_CODESTREAM: Final = b"\xff\xd9"
_FETCH_AGAIN: Final = "remove the product from the cache and run the same command again"


class Jp2File:
    """One band of a JPEG 2000 file.

    Args:
        path: The file.
        dtype: ``uint8`` or ``uint16``: what it must hold.

    Raises:
        InputError: The file is missing, cut off, corrupt, or holds something else.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        self.path = path
        check_whole(path)
        try:
            with _one_thread(), warnings.catch_warnings():
                # A file without georeference is refused by its grid; rasterio would warn as well.
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._dataset: Any = rasterio.open(path, driver="JP2OpenJPEG")
                self._transform = tuple(self._dataset.transform)[:6]
        except rasterio.errors.RasterioError as error:
            raise _corrupt(path, error) from error
        if self._dataset.count != 1 or self._dataset.dtypes[0] != dtype:
            found = list(self._dataset.dtypes)
            self.close()
            raise InputError(f"{path} must hold one {dtype} band", found, _FETCH_AGAIN)

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()

    @property
    def grid(self) -> Grid:
        """The file's own grid; its CRS is empty where the file names none."""
        crs = self._dataset.crs
        return Grid(crs.to_string() if crs else "", self._transform, self._dataset.height, self._dataset.width)

    def read(self, window: Window) -> npt.NDArray[Any]:
        """The pixels of ``window``, (height, width).

        Raises:
            InputError: A block of the file cannot be decoded.
        """
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        try:
            with _one_thread():
                pixels: npt.NDArray[np.integer[Any]] = self._dataset.read(1, window=place)
        except rasterio.errors.RasterioError as error:
            raise _corrupt(self.path, error) from error
        return pixels


def check_whole(path: Path) -> None:
    """Refuse a file whose boxes do not fill it to its end, or whose codestream does not end as one (ISO 15444-1, I.4).

    Raises:
        InputError: It is missing, no JPEG 2000 file, or cut off.
    """
    try:
        with path.open("rb") as file:
            problem = _structure_problem(file, path.stat().st_size)
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror, _FETCH_AGAIN) from error
    if problem:
        raise InputError(f"cannot read {path}", problem, _FETCH_AGAIN)


def _structure_problem(file: BinaryIO, size: int) -> str | None:
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return "not a JPEG 2000 file"
    position, whole = len(_SIGNATURE), False
    while position < size:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return "the file is cut off"
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        elif length == 0:
            length = size - position
        if length < 8 or position + length > size:
            return "the file is cut off or corrupt"
        position += length
        if kind == b"jp2c":
            file.seek(position - 2)
            whole = file.read(2) == _END_OF_CODESTREAM
    return None if whole else "the file is cut off: its image does not end"


def _one_thread() -> Any:
    return rasterio.Env(GDAL_NUM_THREADS="1")


def _corrupt(path: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {path}: the file is corrupt", str(error.__cause__ or error), _FETCH_AGAIN)
