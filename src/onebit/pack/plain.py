"""Weights stored as floats: f32, f16, bf16 and f64, little-endian. No codes, no scale."""

import math

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError, InputError, ShapeError
from onebit.pack.format import DAMAGED, Bytes

SIZE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8}
"""Bytes of one weight."""
_DTYPES = {"f32": "<f4", "f16": "<f2", "f64": "<f8"}


def decode(format: str, data: Bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the floats in `data` (uint8, 1-D) as float32 of any `shape`.

    Raises:
        ShapeError: a length in `shape` is negative.
        FormatError: the bytes are too few or too many.
    """
    if data.ndim != 1 or data.dtype != np.uint8:
        raise InputError(
            f"{format}: the data is {data.dtype} of shape {data.shape}; "
            "accepted: uint8 of one dimension."
        )
    if any(length < 0 for length in shape):
        raise ShapeError(f"{format}: the shape is {shape}; lengths must not be negative.")
    size = math.prod(shape) * SIZE_BYTES[format]
    if data.size != size:
        raise FormatError(
            f"{format}: weights of shape {shape} take {size} bytes, and there are {data.size}. "
            + DAMAGED
        )
    data = np.ascontiguousarray(data)
    if format == "bf16":  # the upper half of a float32
        return (data.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):  # a large f64 becomes infinite, NaN stays
        return data.view(_DTYPES[format]).astype(np.float32).reshape(shape)
