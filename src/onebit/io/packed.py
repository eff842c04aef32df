"""Tensors in onebit's own formats: plain integers in a standard container, named in its metadata.

The key "onebit.tensors" holds a JSON object, name -> {"format": "t1_6", "shape": [N, K]}, for each
integer tensor whose bytes are packed codes; `<name>_scale` is its scale, and where codes have a
zero-point, `<name>_zero` holds it in the same format. Files of before have a minimum in its place,
`<name>_minimum`, which is added. docs/formats/container.md is the specification.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError, MissingError
from onebit.io.json_file import parse_object

TENSORS_KEY = "onebit.tensors"
SCHEME_KEY = "onebit.scheme"
MAX_WIDTH = 1 << 31

_FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8}


class Packed(NamedTuple):
    """How the bytes of a packed tensor are to be read."""

    format: str
    shape: tuple[int, int]


def scale_name(name: str) -> str:
    """Return the name of the scale of the packed tensor `name`."""
    return f"{name}_scale"


def minimum_name(name: str) -> str:
    """Return the name of the minimum of the packed tensor `name`, should it have one."""
    return f"{name}_minimum"


def zero_name(name: str) -> str:
    """Return the name of the zero-points of the packed tensor `name`, should it have any."""
    return f"{name}_zero"


def beside(name: str) -> tuple[str, str, str]:
    """Return the names of all that may stand beside the packed tensor `name`."""
    return scale_name(name), minimum_name(name), zero_name(name)


def to_json(tensors: Mapping[str, Packed]) -> str:
    """Return the value of the key "onebit.tensors"."""
    return json.dumps(
        {name: {"format": p.format, "shape": list(p.shape)} for name, p in tensors.items()}
    )


def read(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    integer: str,
    where: str,
) -> dict[str, Packed]:
    """Return what a file says under "onebit.tensors", each held against the tensor it speaks of.

    Args:
        metadata: of the file.
        tensors: names to (type, shape), of the file.
        integer: the type that packed bytes have in this container.
        where: names the file in errors.

    Raises:
        FormatError: it is not what `to_json` writes, or a tensor is of another type or height.
        MissingError: a tensor is not there.
    """
    text = metadata.get(TENSORS_KEY, "{}")
    if not isinstance(text, str):
        raise FormatError(f"{where}: {TENSORS_KEY} must be a string of JSON.")
    found = {}
    for name, entry in parse_object(text, f"{where}: {TENSORS_KEY}").items():
        found[name] = _entry(name, entry, where)
        if name not in tensors:
            raise MissingError(f"{where}: {TENSORS_KEY} names {name!r:.80}, which is not there.")
        kind, shape = tensors[name]
        N = found[name].shape[0]
        if kind != integer or len(shape) != 2 or shape[0] != N:
            raise FormatError(
                f"{where}: {name!r:.80} holds {N} rows of {found[name].format}; its tensor is "
                f"{kind} {list(shape)}, and {integer} [{N}, bytes per row] is expected."
            )
    return found


def _entry(name: str, entry: object, where: str) -> Packed:
    if isinstance(entry, dict) and set(entry) == {"format", "shape"}:
        form, shape = entry["format"], entry["shape"]
        if (
            isinstance(form, str)
            and re.fullmatch(r"[a-z][a-z0-9_]{0,23}", form)
            and isinstance(shape, list)
            and len(shape) == 2
            and all(type(width) is int and 0 < width <= MAX_WIDTH for width in shape)
        ):
            return Packed(form, (shape[0], shape[1]))
    raise FormatError(
        f"{where}: {TENSORS_KEY} says {entry!r:.80} of {name!r:.80}; "
        'expected {"format": a name, "shape": [N, K]}.'
    )


def floats(form: str, data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return float32 values of bytes in f32, f16, bf16 or f64."""
    if form == "bf16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape)
    code = {"f32": "<f4", "f16": "<f2", "f64": "<f8"}[form]
    with np.errstate(over="ignore", invalid="ignore"):  # a large float64 becomes infinite
        return np.frombuffer(data, code).astype(np.float32).reshape(shape)


def read_factor(
    name: str, form: str, data: NDArray[np.uint8], stored: tuple[int, ...], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return the scale or minimum of a packed tensor, checked to broadcast to (N, G).

    Args:
        name: of the scale or minimum, for errors.
        form: the type of its bytes `data`; `stored` is its shape.
        shape: (N, K), of the packed tensor.

    Raises:
        FormatError: it is not of floats, or its shape is none of (), (1,), (N,), (1, G), (N, G).
    """
    N, K = shape[0], shape[-1]
    fits = stored in ((), (1,), (N,)) or (
        len(stored) == 2 and stored[0] in (1, N) and stored[1] > 0 and K % stored[1] == 0
    )
    if form not in _FLOAT_BYTES or not fits:
        word = name.rpartition("_")[2]
        raise FormatError(
            f"{name}: is {form} of shape {list(stored)}; a {word} of {N} x {K} weights "
            f"is floats of shape [], [1], [{N}], [1, G] or [{N}, G], where G divides {K}."
        )
    factor = floats(form, data, stored)
    if not np.isfinite(factor).all():
        raise FormatError(f"{name}: is not finite everywhere. The file is damaged.")
    return factor


def read_zero(
    name: str, integer: bool, data: NDArray[np.uint8], stored: tuple[int, ...], rows: int
) -> NDArray[np.uint8]:
    """Return the bytes of a packed tensor's zero-points, (R, B).

    Args:
        name: of the zero-points, for errors.
        integer: whether their type is the container's for packed bytes.
        data: the bytes; `stored` is their shape.
        rows: N, of the packed tensor.

    Raises:
        FormatError: they are no rows of packed bytes, one or N.
    """
    if not integer or len(stored) != 2 or stored[0] not in (1, rows):
        raise FormatError(
            f"{name}: is no rows of packed bytes ({list(stored)}); zero-points of {rows} rows "
            f"are [1 or {rows}, bytes per row]. The file is damaged."
        )
    return data.reshape(stored)
