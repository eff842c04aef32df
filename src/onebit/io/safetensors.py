"""safetensors, the file format of Hugging Face: `Reader`, `Folder` and `Writer`, tensor by tensor.

    u64 length of the header · header, a JSON object padded with spaces · the tensors' bytes

The header maps each name to its dtype, shape and place, and "__metadata__" to strings. A file is
read as raw bytes through the system's paging, so bfloat16 needs no NumPy type and a tensor that is
never asked for costs nothing. What the format's own library refuses, this reader refuses.

Source: https://github.com/huggingface/safetensors, README, "Format".
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FileError, FormatError, MissingError, OptionError, ShapeError
from onebit.io.atomic import SlotFile
from onebit.io.json_file import parse_object, read_json
from onebit.io.mapped import map_file

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
INDEX_NAME = "model.safetensors.index.json"

BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32},
    **{"U64": 64, "I64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""dtype to the bits of one value."""


class TensorInfo(NamedTuple):
    """What the header says of a tensor."""

    name: str
    dtype: str
    """A key of `BITS`."""
    shape: tuple[int, ...]
    offset: int
    """Of the first byte in the file."""
    size_bytes: int


class Declared(NamedTuple):
    """A tensor that will be written."""

    name: str
    dtype: str
    """A key of `BITS`: "F32", "BF16", "U8" ..."""
    shape: tuple[int, ...]


class Reader:
    """One .safetensors file, its header checked, its tensors as views of the mapped file.

    Raises:
        MissingError: there is no such file.
        FormatError: it is no safetensors file, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._bytes = map_file(self.path)
        size = self._bytes.size
        length = int.from_bytes(self._bytes[:8].tobytes(), "little") if size >= 8 else size
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise FormatError(
                f"{self.path}: the header is said to take {length} bytes of a file of {size}, and "
                f"at most {MAX_HEADER_BYTES} are accepted. It is cut short, damaged or no "
                "safetensors file."
            )
        header = parse_object(self._bytes[8 : 8 + length].tobytes(), f"{self.path}: the header")
        self.metadata = _metadata(self.path, header.pop("__metadata__", {}))
        self.tensors = _tensors(self.path, header, 8 + length, size)
        """Names to descriptions, in the order of their bytes."""

    def data(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, a read-only view (size_bytes,).

        Raises:
            MissingError: there is no such tensor.
        """
        info = self.tensors.get(name)
        if info is None:
            raise MissingError(f"{self.path}: there is no tensor {name}.")
        return self._bytes[info.offset : info.offset + info.size_bytes]


class Folder:
    """The tensors of a folder: of the files that its index names, or of `model.safetensors`, or
    else of every .safetensors file in it.

    Raises:
        MissingError: a file that the index names, or any file at all, is not there.
        FormatError: a file or the index is damaged, or a name stands in two files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._index: dict[str, str] | None = None
        self.readers = [Reader(file) for file in self._files()]
        self._reader_of: dict[str, Reader] = {}
        for reader in self.readers:
            for name in reader.tensors:
                if name in self._reader_of:
                    raise FormatError(
                        f"{self.path}: the tensor {name!r:.80} is in {reader.path.name} and in "
                        f"{self._reader_of[name].path.name}. Keep one of them."
                    )
                self._reader_of[name] = reader
        index: dict[str, str] = self._index or {}
        for name, home in index.items():
            if name not in self._reader_of or self._reader_of[name].path.name != home:
                raise MissingError(
                    f"{self.path}: {INDEX_NAME} puts {name!r:.80} in {home}; not there."
                )

    def names(self) -> list[str]:
        """Return the names of all tensors, file by file."""
        return list(self._reader_of)

    def reader(self, name: str) -> Reader:
        """Return the reader of the file that the tensor `name` is in.

        Raises:
            MissingError: there is no such tensor.
        """
        if name not in self._reader_of:
            raise MissingError(f"{self.path}: there is no tensor {name}.")
        return self._reader_of[name]

    def _files(self) -> list[Path]:
        index = self.path / INDEX_NAME
        if index.exists():
            self._index = _weight_map(index)
            return [self.path / name for name in sorted(set(self._index.values()))]
        single = self.path / "model.safetensors"
        if single.exists():
            return [single]
        try:
            files = sorted(self.path.glob("*.safetensors"))
        except OSError as error:
            raise FileError(f"{self.path}: cannot be read ({error.strerror}).") from error
        if not files:
            raise MissingError(f"{self.path}: there is no .safetensors file in this folder.")
        return files


class Writer(SlotFile):
    """Writes a .safetensors file. Use it as a context manager: the end of the block gives the file
    its name, an error in the block leaves what was there before. Tensors are written in any order.

    Raises:
        OptionError: a name or dtype cannot be written.
        ShapeError: a shape does not fit its dtype.
        FileError: the system refused.
    """

    def __init__(
        self,
        path: str | Path,
        tensors: Iterable[Declared],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        places: dict[str, tuple[int, int]] = {}
        end = 0
        # wide types first: then every tensor begins at a multiple of its width
        for tensor in sorted(tensors, key=lambda t: (-BITS.get(t.dtype, 0), t.name)):
            if tensor.name in places or tensor.name == "__metadata__":
                raise OptionError(f"safetensors: the name {tensor.name!r} is declared twice.")
            size = _size_bytes(tensor)
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [end, end + size],
            }
            places[tensor.name] = (end, size)
            end += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER_BYTES:
            raise OptionError(f"safetensors: a header of {len(text)} bytes; at most 100 MB.")
        start = 8 + len(text)
        slots = {name: (start + offset, size) for name, (offset, size) in places.items()}
        super().__init__(path, struct.pack("<Q", len(text)) + text, slots, start + end)


def _size_bytes(tensor: Declared) -> int:
    if tensor.dtype not in BITS:
        raise OptionError(
            f"safetensors: {tensor.name} has dtype {tensor.dtype!r}; accepted: {', '.join(BITS)}."
        )
    bits = BITS[tensor.dtype]
    for width in tensor.shape:
        bits *= width
    if bits % 8 or any(width < 0 for width in tensor.shape):
        raise ShapeError(
            f"safetensors: {tensor.name} has shape {list(tensor.shape)}, which fills no whole "
            f"number of bytes of {tensor.dtype}."
        )
    return bits // 8


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise FormatError(f"{path}: __metadata__ must map names to strings. The file is damaged.")
    return found


def _tensors(path: Path, header: dict[str, Any], start: int, size: int) -> dict[str, TensorInfo]:
    """Check that the tensors fill the bytes after the header, without a gap or an overlap."""
    found = [_described(path, name, entry, start) for name, entry in header.items()]
    end = start
    for info in sorted(found, key=lambda info: (info.offset, info.size_bytes)):
        if info.offset != end:
            raise FormatError(
                f"{path}: {info.name!r:.80} begins at byte {info.offset}, and the tensor before it "
                f"ends at {end}. The file is damaged."
            )
        end += info.size_bytes
    if end != size:
        raise FormatError(
            f"{path}: the tensors end at byte {end}, the file at {size}. It is damaged."
        )
    return {info.name: info for info in sorted(found, key=lambda info: info.offset)}


def _described(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    """Check one entry of the header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{path}: {name!r:.80} must have dtype, shape and data_offsets alone.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FormatError(
            f"{path}: {name!r:.80} has dtype {dtype!r:.40}; known are {', '.join(BITS)}."
        )
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or len(shape) > 32:
        raise FormatError(
            f"{path}: {name!r:.80} has shape {shape!r:.60} and data_offsets {offsets!r:.60}; "
            "they must be lists of whole numbers, of offsets two."
        )
    bits = BITS[dtype]
    for width in shape:
        bits *= width
    if bits != 8 * (offsets[1] - offsets[0]):
        raise FormatError(
            f"{path}: {name!r:.80} ({dtype}, {shape!r:.60}) needs {-(-bits // 8)} bytes; "
            f"its own are {offsets[0]} to {offsets[1]}. The file is damaged."
        )
    return TensorInfo(name, dtype, tuple(shape), start + offsets[0], bits // 8)


def _sizes(found: Any) -> bool:
    """Whether `found` is a list of whole numbers that 64 bits hold."""
    return isinstance(found, list) and all(type(n) is int and 0 <= n < 1 << 64 for n in found)


def _weight_map(index: Path) -> dict[str, str]:
    """Return the index's map of tensor names to file names, all of them in this folder."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise FormatError(f"{index}: weight_map must map tensor names to file names.")
    for file in set(map(str, found.values())):
        if Path(file).name != file or "\\" in file or file in ("", ".", "..") or "\0" in file:
            raise FormatError(
                f"{index}: {file!r:.80} must be the plain name of a file in this folder."
            )
    if not all(isinstance(file, str) for file in found.values()):
        raise FormatError(f"{index}: weight_map must map tensor names to file names.")
    return found
