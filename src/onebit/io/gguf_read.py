"""Read a GGUF file: a head of metadata and tensor descriptions, then the tensors' bytes.

    "GGUF" · u32 version · u64 tensors · u64 keys · keys · tensor descriptions · padding · tensors

The file is a stranger's until shown otherwise. Every count, length and offset is compared with the
bytes that are there before anything is read or made from it, so a damaged or hostile file costs one
error line, never memory or time beyond its own size.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError, MissingError, UnsupportedError
from onebit.io.gguf_metadata import Metadata, find_strings
from onebit.io.gguf_types import (
    ALIGNMENTS,
    SHARED,
    TENSOR_TYPES,
    VALUE_TYPES,
    TensorType,
    ValueType,
)
from onebit.io.mapped import map_file

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_ELEMENTS = 1 << 24  # of all arrays together; the largest vocabularies come to under 2^21
MAX_NAME_BYTES = 1 << 16
MAX_DIMENSIONS = 4


class TensorInfo(NamedTuple):
    """What the head says of a tensor."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    """Slowest first, as in NumPy: (N, K) for a matrix of N rows."""
    offset: int
    """Of the first byte in the file."""
    size_bytes: int


class Reader:
    """A GGUF file, its head checked and read, its tensors as views of the mapped file.

    Raises:
        MissingError: there is no such file.
        FormatError: it is no GGUF, or damaged.
        UnsupportedError: it is big-endian or of a version that is not read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._bytes = map_file(self.path)
        head = _Head(self.path, self._bytes.data)
        n_tensors, n_keys = _start(head)
        self.metadata = Metadata()
        """Keys to Python values: int, float, bool, str, or a list of one of them."""
        self.kinds: dict[str, str] = {}
        """Keys to the type in the file: "uint32", "string" ..., "[int32]" for an array."""
        for _ in range(n_keys):
            self._read_key(head)
        self.alignment = _alignment(self.path, self.metadata, self.kinds)
        self.tensors = _tensors(head, n_tensors, self.alignment)
        """Names to descriptions, in the order of the file."""

    def data(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, a read-only view (size_bytes,).

        Raises:
            MissingError: there is no such tensor.
            UnsupportedError: its type does not say how many bytes are its own.
        """
        info = self.tensors.get(name)
        if info is None:
            raise MissingError(f"{self.path}: there is no tensor {name}.")
        if not info.type.block:
            raise UnsupportedError(
                f"{self.path}: {name} is of type {info.type.name}, which is not read. "
                "Convert the model to a type such as q8_0, tq2_0 or i2_s."
            )
        return self._bytes[info.offset : info.offset + info.size_bytes]

    def _read_key(self, head: "_Head") -> None:
        key = head.string("a metadata key", MAX_NAME_BYTES)
        if key in self.metadata:
            raise FormatError(f"{self.path}: the metadata key {key!r:.80} stands there twice.")
        kind = head.value_type(key)
        if kind.name == "array":
            kind = head.value_type(key)
            self.metadata.set_later(key, head.array(key, kind))
            self.kinds[key] = f"[{kind.name}]"
        else:
            self.metadata.set(key, head.scalar(key, kind))
            self.kinds[key] = kind.name


class _Head:
    """The bytes of the head, and how far they are read."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path = path
        self.view = view
        self.size = len(view)
        self.position = 0
        self.elements = 0

    def number(self, code: str, what: str) -> Any:
        """Read one number of the `struct` format `code`, little-endian."""
        size = struct.calcsize("<" + code)
        if size > self.size - self.position:
            raise self._ends(what)
        (value,) = struct.unpack_from("<" + code, self.view, self.position)
        self.position += size
        return value

    def string(self, what: str, limit: int | None = None) -> str:
        """Read a string: its length in bytes, then UTF-8."""
        length = self.number("Q", what)
        if limit is not None and length > limit:
            raise FormatError(
                f"{self.path}: {what!r:.80} is {length} bytes long; at most {limit} are accepted. "
                "The file is damaged."
            )
        if length > self.size - self.position:
            raise self._ends(what)
        start, self.position = self.position, self.position + length
        try:
            return str(self.view[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            raise self._not_utf8(what) from error

    def value_type(self, key: str) -> ValueType:
        """Read the number of a value type."""
        number = self.number("I", key)
        if number not in VALUE_TYPES:
            raise FormatError(
                f"{self.path}: the metadata key {key!r:.80} has value type {number}; "
                f"known are 0 to {max(VALUE_TYPES)}. The file is damaged or of a newer format."
            )
        return VALUE_TYPES[number]

    def scalar(self, key: str, kind: ValueType) -> Any:
        """Read one value that is no array."""
        return self.number(kind.code, key) if kind.code else self.string(key)

    def array(self, key: str, kind: ValueType) -> Callable[[], list[Any]]:
        """Pass over the count and the elements of an array; return what makes a list of them."""
        count = self.number("Q", key)
        if kind.name == "array":
            raise UnsupportedError(
                f"{self.path}: {key!r:.80} is an array of arrays, not read here."
            )
        if count > (self.size - self.position) // kind.size_bytes:
            raise self._ends(key)
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            raise FormatError(
                f"{self.path}: the metadata arrays up to {key!r:.80} have {self.elements} "
                f"elements; at most {MAX_ELEMENTS} are accepted."
            )
        if kind.name == "string":
            return self._strings(key, count)
        start, self.position = self.position, self.position + count * kind.size_bytes
        raw = np.frombuffer(self.view[start : self.position], f"<{kind.code}", count)
        return (raw.view(np.uint8) != 0 if kind.name == "bool" else raw).tolist

    def _strings(self, key: str, count: int) -> Callable[[], list[Any]]:
        strings = find_strings(np.frombuffer(self.view, np.uint8), self.position, count)
        if strings is None:
            raise self._ends(key)
        bad = strings.first_not_text(self.view)
        if bad is not None:
            raise self._not_utf8(f"element {bad} of {key}")
        self.position = strings.end
        return partial(strings.decode, self.view)

    def _ends(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: the file ends inside {what!r:.80} ({self.size} bytes in all). "
            "It is cut short or damaged; fetch it again."
        )

    def _not_utf8(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what!r:.80} is no UTF-8 text. The file is damaged.")


def _start(head: _Head) -> tuple[int, int]:
    """Read the fixed start and return the numbers of tensors and of keys."""
    if bytes(head.view[:4]) != b"GGUF":
        raise FormatError(
            f"{head.path}: a GGUF file starts with the letters GGUF; "
            f"this one with {bytes(head.view[:4])!r}."
        )
    head.position = 4
    version = head.number("I", "the version")
    if version not in (2, 3):
        if version and version & 0xFFFF == 0:
            raise UnsupportedError(f"{head.path}: a big-endian GGUF; only little-endian is read.")
        raise UnsupportedError(f"{head.path}: GGUF version {version}; read are versions 2 and 3.")
    counts = []
    # a key takes at least 13 bytes, a tensor's description at least 24
    for what, limit, least in (("tensors", MAX_TENSORS, 24), ("keys", MAX_KEYS, 13)):
        count = head.number("Q", f"the number of {what}")
        if count > min(limit, head.size // least):
            raise FormatError(
                f"{head.path}: claims {count} {what}; a file of {head.size} bytes holds at most "
                f"{min(limit, head.size // least)}. It is damaged."
            )
        counts.append(count)
    return counts[0], counts[1]


def _alignment(path: Path, metadata: Mapping[str, Any], kinds: dict[str, str]) -> int:
    """Return the number that every tensor's offset is a multiple of."""
    alignment = metadata.get("general.alignment", 32)
    if (
        kinds.get("general.alignment", "uint32") not in ("uint32", "uint64")
        or alignment not in ALIGNMENTS
    ):
        raise FormatError(
            f"{path}: general.alignment is {alignment!r:.40}; "
            f"accepted: a power of two up to {ALIGNMENTS[-1]}."
        )
    return int(alignment)


def _tensors(head: _Head, count: int, alignment: int) -> dict[str, TensorInfo]:
    """Read the descriptions, and check that the tensors lie in the file, each in its own bytes."""
    described: dict[str, tuple[TensorType, tuple[int, ...], int]] = {}
    for _ in range(count):
        name = head.string("a tensor's name", MAX_NAME_BYTES)
        if name in described:
            raise FormatError(f"{head.path}: the tensor {name!r:.80} stands there twice.")
        described[name] = _description(head, name, alignment)
    start = -(-head.position // alignment) * alignment
    order = sorted(described, key=lambda name: described[name][2])
    ends = [start + described[name][2] for name in order[1:]] + [max(head.size, start)]
    rooms = {
        name: end - (start + described[name][2])
        for name, end in zip(order, ends, strict=False)  # one end too many if there is no tensor
    }
    described |= _shared_numbers(described, rooms, order[-1:], alignment)
    placed = {}
    for name in order:
        (kind, shape, offset), room = described[name], rooms[name]
        size = kind.size_bytes(shape) if kind.block else max(room, 0)
        if size > room or room < 0:
            raise FormatError(
                f"{head.path}: {name!r:.80} ({kind.name}, {list(shape)}) needs {size} bytes from "
                f"offset {start + offset}, and {max(room, 0)} are there before the next tensor or "
                "the end. The file is cut short or damaged."
            )
        if kind.tail_bytes and room >= size + alignment:
            kind = TensorType("an old ggml type with Microsoft's number for i2_s")
        placed[name] = TensorInfo(name, kind, shape, start + offset, size)
    return {name: placed[name] for name in described}


def _shared_numbers(
    described: dict[str, tuple[TensorType, tuple[int, ...], int]],
    rooms: dict[str, int],
    last: list[str],
    alignment: int,
) -> dict[str, tuple[TensorType, tuple[int, ...], int]]:
    """Return those tensors anew whose type has a number that several types share.

    It is the first type whose size all of them have, up to the padding before the next tensor.
    """
    found: dict[str, tuple[TensorType, tuple[int, ...], int]] = {}
    for kinds in SHARED.values():
        those = {name: d for name, d in described.items() if d[0] is kinds[0]}

        def fits(kind: TensorType, names: Iterable[str] = those) -> bool:
            for name in names:
                shape, room = described[name][1], rooms[name]
                slack = room - kind.size_bytes(shape)
                if shape[-1] % kind.block or slack < 0 or (slack >= alignment and name not in last):
                    return False
            return True

        kind = next(filter(fits, kinds), None)
        if kind is None:  # an end before its size is told by whoever checks the sizes
            short = any(rooms[name] < kinds[-1].size_bytes(d[1]) for name, d in those.items())
            kind = kinds[0] if short else TensorType(f"{kinds[0].name} or another of its number")
        found |= {name: (kind, *d[1:]) for name, d in those.items()}
    return found


def _description(head: _Head, name: str, alignment: int) -> tuple[TensorType, tuple[int, ...], int]:
    """Read what follows a tensor's name: its type, shape, and offset from the tensors' start."""
    n_dimensions = head.number("I", name)
    if n_dimensions > MAX_DIMENSIONS:
        raise FormatError(
            f"{head.path}: {name!r:.80} has {n_dimensions} dimensions; "
            f"at most {MAX_DIMENSIONS} are accepted. The file is damaged."
        )
    widths = [head.number("Q", name) for _ in range(n_dimensions)]
    number, offset = head.number("I", name), head.number("Q", name)
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        raise FormatError(
            f"{head.path}: {name!r:.80} has tensor type {number}, which is none that onebit knows. "
            "The file is damaged or made for another program."
        )
    if not all(widths):
        raise FormatError(f"{head.path}: {name!r:.80} has a dimension of 0: {widths[::-1]}.")
    if kind.block > 1 and (not widths or widths[0] % kind.block):
        raise FormatError(
            f"{head.path}: {name!r:.80} is {kind.name} with rows of {widths[0] if widths else 1}; "
            f"they must be a multiple of {kind.block}. The file is damaged."
        )
    if offset % alignment:
        raise FormatError(
            f"{head.path}: {name!r:.80} is at offset {offset}, no multiple of {alignment}."
        )
    return kind, tuple(reversed(widths)), offset
