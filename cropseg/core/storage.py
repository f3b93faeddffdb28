"""Writing so that a file either holds the whole result or does not exist."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import math
import os
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cropseg.core.errors import InputError, StorageError

_REMEDIES = {
    errno.ENOSPC: "free some space and run the same command again; what is finished is kept",
    errno.EDQUOT: "your quota is spent: free some space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "you may not write there: choose another folder or ask for the right",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write at ``path`` into a :class:`StorageError` with a remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        raise StorageError(f"cannot write {path} ({error.strerror})", None, remedy) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success flush it to disk and rename it into place.

    Args:
        path: Where the result is to stand. Parent folders are made.

    Yields:
        The temporary path, on the same file system, with the same suffix.

    Raises:
        StorageError: The disk is full, read-only or not ours; nothing is left behind.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        try:
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON with sorted keys, atomically."""
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: It is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}", None, "check the path") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON", str(error), "restore the file or make it again") from error


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as ``.npy``, atomically."""
    # Through memory: numpy's own writing to a file hides the reason when the disk is full.
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def read_array(path: Path, into: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Read a ``.npy`` file, never a pickle.

    As numpy does, without its parsing of a header that was seen before, and without a copy.

    Args:
        path: The file.
        into: Array to read into, if the file holds one of its shape and type and it is C-contiguous and may be written.

    Returns:
        ``into``, or a new array.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not a whole ``.npy`` file, or holds objects.
    """
    with path.open("rb", buffering=0) as file:
        start = file.read(_BEFORE)
        length = int.from_bytes(start[-2:], "little")
        header = file.read(length)
        found = _parsed(start + header) if start[:-2] == _VERSION_1 and len(header) == length else None
        if found is None:
            return _by_numpy(path)
        shape, dtype = found
        missing = math.prod(shape) * dtype.itemsize - (os.fstat(file.fileno()).st_size - file.tell())
        if missing > 0:  # nothing is asked of memory for what is not there
            raise ValueError(f"{missing} bytes of the array are missing")
        fits = into is not None and (into.shape, into.dtype) == found and into.flags.carray
        array = into if into is not None and fits else np.empty(shape, dtype)
        rest = array.reshape(-1).view(np.uint8).data
        while rest and (got := file.readinto(rest)):
            rest = rest[got:]
        if rest:
            raise ValueError(f"{len(rest)} bytes of the array could not be read")
        return array


_VERSION_1: Final = b"\x93NUMPY\x01\x00"
"""What every file of the format's first version begins with; numpy writes it if the header is short."""

_BEFORE: Final = len(_VERSION_1) + 2
"""Bytes before the header: these, and its length."""


_NO_HEADER: Final = (ValueError, EOFError, TypeError, LookupError, RecursionError, MemoryError, tokenize.TokenError)
"""What numpy, which parses headers as Python, meets in one that is none."""


@functools.lru_cache(maxsize=256)
def _parsed(start: bytes) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and type that a file's start tells; None where numpy is to read it, or to say what is wrong with it."""
    stream = io.BytesIO(start)
    try:
        np.lib.format.read_magic(stream)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    except _NO_HEADER:
        return None
    plain = not (by_column or dtype.hasobject or dtype.subdtype) and dtype.itemsize > 0
    sound = all(type(side) is int and side >= 0 for side in shape)
    return (shape, dtype) if plain and sound else None


def _by_numpy(path: Path) -> npt.NDArray[Any]:
    with path.open("rb") as file:
        try:
            return np.lib.format.read_array(file, allow_pickle=False)
        except _NO_HEADER as error:
            raise ValueError(str(error)) from error


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
