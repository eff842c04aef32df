"""Write a GGUF file tensor by tensor: all types and shapes first, then each tensor's bytes.

One tensor at a time is in memory, and the file takes its name only when it is complete.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3).
"""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onebit.errors import OptionError, ShapeError
from onebit.io.atomic import SlotFile
from onebit.io.gguf_types import ALIGNMENTS, NAMED, TENSOR_IDS, VALUE_IDS, VALUE_TYPES

MAX_TENSOR_NAME_BYTES = 63  # llama.cpp refuses longer ones
_RANGE = {"uint32": (0, 2**32), "int32": (-(2**31), 2**31), "uint64": (0, 2**64)}


class Declared(NamedTuple):
    """A tensor that will be written."""

    name: str
    type: str
    """A type of `gguf_types.NAMED`: "f32", "q8_0", "tq2_0", "i8" ..."""
    shape: tuple[int, ...]
    """Slowest first, as in NumPy: (N, K) for a matrix of N rows."""


class Writer(SlotFile):
    """Writes a GGUF file. Use it as a context manager: the end of the block gives the file its
    name, an error in the block leaves what was there before.

        with Writer("model.gguf", metadata, [Declared("w", "f32", (2, 3))]) as file:
            file.write("w", array)

    A metadata value is bool, int, float, str, a NumPy scalar, or a list or NumPy array of them.
    A NumPy value keeps its type. A Python int is written as uint32 (int32 below zero, 64 bits
    where it must be), a list of ints as int32, and floats as float32: what llama.cpp expects.
    `kinds` names the type of a key where that is wrong, in the words of `Reader.kinds`.

    Raises:
        OptionError: a key, value or type cannot be written.
        ShapeError: a shape does not fit its type.
        FileError: the system refused.
    """

    def __init__(
        self,
        path: str | Path,
        metadata: Mapping[str, Any],
        tensors: Iterable[Declared],
        *,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(path, *_laid_out(metadata, tensors, kinds or {}))


def size_bytes(metadata: Mapping[str, Any], tensors: Iterable[Declared]) -> int:
    """Return how long the file will be that `Writer` writes, without writing it.

    Raises:
        OptionError, ShapeError: as `Writer`.
    """
    return _laid_out(metadata, tensors, {})[2]


def _laid_out(
    metadata: Mapping[str, Any], tensors: Iterable[Declared], kinds: Mapping[str, str]
) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Return the head of a file, the places (offset, bytes) of its tensors, and its size."""
    declared = list(tensors)
    alignment = metadata.get("general.alignment", 32)
    if alignment not in ALIGNMENTS:
        raise OptionError(
            f"gguf: general.alignment is {alignment!r:.40}; "
            f"accepted: a power of two up to {ALIGNMENTS[-1]}."
        )
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(declared), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _value(key, value, kinds.get(key))
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for tensor in declared:
        if tensor.name in places:
            raise OptionError(f"gguf: the tensor {tensor.name} is declared twice.")
        size = _check(tensor)
        head += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", TENSOR_IDS[tensor.type], end)
        places[tensor.name] = (end, size)
        end = _aligned(end + size, alignment)
    start = _aligned(len(head), alignment)
    slots = {name: (start + offset, size) for name, (offset, size) in places.items()}
    return bytes(head), slots, start + end


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _check(tensor: Declared) -> int:
    """Check a declaration, and return the tensor's bytes."""
    if tensor.type not in TENSOR_IDS:
        raise OptionError(
            f"gguf: {tensor.name} is to be written as {tensor.type!r}; "
            f"accepted: {', '.join(TENSOR_IDS)}."
        )
    if not 0 < len(tensor.name.encode()) <= MAX_TENSOR_NAME_BYTES:
        raise OptionError(
            f"gguf: the tensor name {tensor.name!r} has {len(tensor.name.encode())} bytes; "
            f"accepted: 1 to {MAX_TENSOR_NAME_BYTES}."
        )
    kind = NAMED[tensor.type]
    fits = all(width > 0 for width in tensor.shape) and len(tensor.shape) <= 4
    if not fits or (kind.block > 1 and (not tensor.shape or tensor.shape[-1] % kind.block)):
        raise ShapeError(
            f"gguf: {tensor.name} has shape {list(tensor.shape)}; {kind.name} takes up to 4 "
            f"dimensions above 0, the last a multiple of {kind.block}."
        )
    return kind.size_bytes(tensor.shape)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Any, kind: str | None) -> bytes:
    """Return a metadata value with the number of its type in front."""
    kind = kind or _kind_of(key, value)
    element = kind.strip("[]")
    number = VALUE_IDS.get(element)
    if number is None or element == "array":
        raise OptionError(f"gguf: {key} has type {kind!r}; accepted: {', '.join(VALUE_IDS)}.")
    try:
        if not kind.startswith("["):
            return struct.pack("<I", number) + _scalar(value, number)
        head = struct.pack("<IIQ", VALUE_IDS["array"], number, len(value))
        if element == "string":
            return head + b"".join(_text(item) for item in value)
        code = VALUE_TYPES[number].code
        return head + struct.pack(f"<{len(value)}{code}", *value)
    except (struct.error, AttributeError, TypeError, OverflowError) as error:
        raise OptionError(f"gguf: {key} cannot be written as {kind} ({error}).") from error


def _scalar(value: Any, number: int) -> bytes:
    return _text(value) if number == VALUE_IDS["string"] else _number(value, number)


def _number(value: Any, number: int) -> bytes:
    return struct.pack("<" + VALUE_TYPES[number].code, value)


def _kind_of(key: str, value: Any) -> str:
    """Return the type that a value is written as."""
    if isinstance(value, np.generic | np.ndarray):
        name = "string" if value.dtype.kind == "U" else value.dtype.name
        if name not in VALUE_IDS or value.ndim > 1:
            raise OptionError(
                f"gguf: {key} is a NumPy {value.dtype} of {value.ndim} dimensions; "
                f"accepted: at most one dimension of {', '.join(VALUE_IDS)}."
            )
        return f"[{name}]" if value.ndim else name
    if isinstance(value, list | tuple):
        return f"[{_element_kind(key, value)}]"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return next((k for k in _RANGE if _RANGE[k][0] <= value < _RANGE[k][1]), "int64")
    if isinstance(value, float):
        return "float32"
    if isinstance(value, str):
        return "string"
    raise OptionError(
        f"gguf: {key} is {type(value).__name__}; accepted: bool, int, float, str, NumPy scalars, "
        "and lists or NumPy arrays of them."
    )


def _element_kind(key: str, values: list[Any] | tuple[Any, ...]) -> str:
    if not values:
        raise OptionError(f"gguf: {key} is an empty list; give a NumPy array to say its type.")
    types = {type(value) for value in values}
    if types == {bool}:
        return "bool"
    if types == {str}:
        return "string"
    if types == {int}:
        low, high = _RANGE["int32"]
        return "int32" if low <= min(values) and max(values) < high else "int64"
    if types <= {int, float}:
        return "float32"
    raise OptionError(f"gguf: {key} mixes {sorted(t.__name__ for t in types)}; give one type.")
