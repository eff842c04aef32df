"""Open a file as bytes in memory that the system pages in when they are looked at.

Nothing is read until it is used, so a model larger than memory opens at once, and a tensor that is
never asked for costs nothing.
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
