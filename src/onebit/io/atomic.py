"""Write a file so that it is either wholly there or not there at all.

The bytes go to a temporary file in the same folder, are forced to the disk, and only then take the
final name, in one step of the file system. If the disk fills up, the program is killed or an error
is raised, the file that had the name before is still there, untouched. An error also removes the
temporary file; a kill cannot, and leaves `.<name>.<random>.tmp`.
"""

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FileError, InputError


class Draft(ABC):
    """A file that is not there before `commit`. As a context manager it commits at the end of the
    block, and discards what was written if the block raises."""

    @abstractmethod
    def commit(self) -> None:
        """Give the file its name."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what was written; the old file, if any, stays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


class AtomicFile(Draft):
    """A binary file that takes its name in `commit`.

    Raises (from every method):
        FileError: the system refused, for instance because the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.name:
            raise FileError(f"{path}: is a folder. Give the name of a file to write.")
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}.tmp")
        try:
            self._file = open(self._temporary, "xb")  # noqa: SIM115  closed by commit or discard
        except OSError as error:
            raise self._refused(error) from error

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write the bytes of `data` at `offset`; what no write touches reads as zeros."""
        try:
            self._file.seek(offset)
            self._file.write(data)
        except OSError as error:
            self.discard()
            raise self._refused(error) from error

    def commit(self, size: int | None = None) -> None:
        """Cut or fill the file to `size` bytes, force it to the disk and give it its name."""
        try:
            if size is not None:
                self._file.truncate(size)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            self.discard()
            raise self._refused(error) from error

    def discard(self) -> None:
        """Remove what was written; the old file, if any, stays."""
        with suppress(OSError):
            self._file.close()  # flushes, which fails again on a full disk
        self._temporary.unlink(missing_ok=True)

    def _refused(self, error: OSError) -> FileError:
        return FileError(
            f"{self.path}: cannot be written ({error.strerror or error}). "
            "Nothing was changed; free space or choose another place."
        )


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file at once, atomically.

    Raises:
        FileError: the system refused; what was at `path` before is still there.
    """
    with AtomicFile(path) as file:
        file.write_at(0, data)


class SlotFile(Draft):
    """An atomic file of a head and named places of fixed size, filled in any order.

    Tensor files are written through it: the head says where each tensor lies, so all shapes are
    known first, and then one tensor at a time is in memory.
    """

    def __init__(
        self, path: str | Path, head: bytes, slots: Mapping[str, tuple[int, int]], size: int
    ) -> None:
        """`slots` maps a name to (offset, bytes); `size` is that of the whole file."""
        self._slots = dict(slots)
        self._missing = set(slots)
        self._size = size
        self._file = AtomicFile(path)
        self._file.write_at(0, head)

    def write(self, name: str, data: bytes | NDArray[Any]) -> None:
        """Write the bytes of the tensor `name`: any array, row by row, little-endian.

        Raises:
            InputError: the name was not declared, was written before, or has another size.
            FileError: the system refused.
        """
        if name not in self._missing:
            raise InputError(
                f"{self._file.path}: {name} was "
                f"{'written twice' if name in self._slots else 'not declared'}. "
                "Declare every tensor first, then write each once."
            )
        offset, size = self._slots[name]
        raw = data if isinstance(data, bytes) else _bytes_of(data)
        if len(raw) != size:
            raise InputError(
                f"{self._file.path}: {name} has {len(raw)} bytes; "
                f"its declared type and shape take {size}."
            )
        self._file.write_at(offset, raw)
        self._missing.discard(name)

    def commit(self) -> None:
        """Give the file its name.

        Raises:
            InputError: a declared tensor was never written; nothing is kept.
            FileError: the system refused.
        """
        if self._missing:
            self._file.discard()
            raise InputError(
                f"{self._file.path}: {len(self._missing)} declared tensors were never written, "
                f"among them {min(self._missing)}. Write each before `commit`."
            )
        self._file.commit(self._size)

    def discard(self) -> None:
        """Drop what was written; the old file, if any, stays."""
        self._file.discard()


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _sync_folder(folder: Path) -> None:
    """Force the folder's new entry to the disk, where the system has a way to; the file itself is
    there already."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
