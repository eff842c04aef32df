"""Open a file as bytes in memory that the system pages in when they are looked at.

Nothing is read until it is used, so a model larger than memory opens at once, and a tensor that is
never asked for costs nothing.

What of a file has been used may be dropped: it stays in the system's cache, and no longer counts as
this process's memory.
"""

import mmap
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FileError, FormatError, MissingError


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of `path`, (size,), read-only; the mapping lives as long as a view of it.

    Raises:
        MissingError: there is no such file.
        FormatError: it is empty.
        FileError: the system refuses to open it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FileError(f"{path}: is no regular file.")
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise FormatError(f"{path}: the file is empty. Fetch or write it again.")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise MissingError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return np.frombuffer(mapping, np.uint8)


def whole(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bytes of the whole file that `data` is a view of; of an array, the array."""
    while isinstance(data.base, np.ndarray):
        data = data.base
    return data


def read_ahead(data: NDArray[np.uint8]) -> None:
    """Ask the system to fetch a part of a mapped file that will soon be used."""
    _advise(data, "MADV_WILLNEED")


def drop(data: NDArray[np.uint8]) -> None:
    """Give back the memory of a part of a mapped file; it is paged in again when looked at."""
    _advise(data, "MADV_DONTNEED")


def _advise(data: NDArray[np.uint8], advice: str) -> None:
    """Do so where the system knows the advice, and `data` is a view of a mapped file."""
    file = whole(data)
    mapping = file.base.obj if isinstance(file.base, memoryview) else file.base
    if not isinstance(mapping, mmap.mmap) or not hasattr(mmap, advice) or not data.size:
        return
    start = data.ctypes.data - file.ctypes.data
    page = start // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(getattr(mmap, advice), page, start + data.nbytes - page)
