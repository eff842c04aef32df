"""Hidden states of all calibration windows, in a file or in memory, read and written in parts.

A file is read by plain reads, not mapped: its bytes never count as this process's memory.

Shape letters: W windows, T tokens of a window, C width.
"""

import io
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onebit.errors import FileError

IN_MEMORY_BYTES = 1 << 29
"""Scratch up to here stays in memory."""


class Rows:
    """float32 of shape (W, T, C)."""

    def __init__(self, shape: tuple[int, int, int], path: Path | None = None) -> None:
        """Open a file, made if it is not there; None keeps them in memory.

        Raises:
            FileError: the system refused.
        """
        self.shape, self.path = shape, path
        self._memory = None if path else torch.empty(shape)
        self._file = None if path is None else _open(path)
        self._window_bytes = 4 * shape[1] * shape[2]
        self.checksum = 0
        """CRC-32 of what was written, if that was from the first window to the last."""

    @property
    def size_bytes(self) -> int:
        return self._window_bytes * self.shape[0]

    def read(self, first: int, last: int) -> Tensor:
        """Return windows first ... last, a new tensor or a view."""
        if self._file is None:
            assert self._memory is not None
            return self._memory[first:last]
        x_WTC = torch.empty(last - first, *self.shape[1:])
        raw = x_WTC.numpy().reshape(-1).view(np.uint8)
        self._file.seek(first * self._window_bytes)
        done = 0
        while done < raw.size:
            count = self._file.readinto(raw[done:].data)
            if not count:
                raise FileError(
                    f"{self.path}: is cut short. Begin anew (--restart, or resume=False)."
                )
            done += count
        return x_WTC

    def write(self, first: int, x_WTC: Tensor) -> None:
        """Put windows at `first`.

        Raises:
            FileError: the disk is full, or the system refused.
        """
        if self._file is None:
            assert self._memory is not None
            self._memory[first : first + len(x_WTC)] = x_WTC
            return
        try:
            raw = x_WTC.detach().float().contiguous().numpy().reshape(-1).view(np.uint8)
            self.checksum = zlib.crc32(raw.data, self.checksum)
            self._file.seek(first * self._window_bytes)
            done = 0
            while done < raw.size:  # the system may take less at a time
                done += self._file.write(raw[done:].data)
        except OSError as error:
            raise _refused(self.path, error) from error

    def check(self, checksum: int) -> None:
        """Hold the bytes against the checksum that they were written with.

        Raises:
            FileError: they are others.
        """
        found = 0
        for first in range(self.shape[0]):
            found = zlib.crc32(self.read(first, first + 1).numpy().reshape(-1).data, found)
        if found != checksum:
            raise FileError(
                f"{self.path}: is not what was written there; the machine went down, or the file "
                "is damaged. Begin anew (--restart, or resume=False)."
            )

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()


def scratch(shape: tuple[int, int, int], folder: Path | None, name: str) -> Rows:
    """Return rows for passing use: in memory if they are small, else in a file of the folder."""
    small = 4 * shape[0] * shape[1] * shape[2] <= IN_MEMORY_BYTES
    return Rows(shape, None if small or folder is None else folder / f"scratch-{name}.bin")


def _open(path: Path) -> io.FileIO:
    try:
        return io.FileIO(path, "r+" if path.exists() else "w+")
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path | None, error: OSError) -> FileError:
    return FileError(
        f"{path}: cannot be written ({error.strerror or error}). Free space, or name another work "
        "folder; what is done is kept."
    )
