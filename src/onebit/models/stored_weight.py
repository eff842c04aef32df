"""A tensor of a checkpoint, as a layer or an export wants it: codes and scale, or floats.

A weight is quantized once. Codes that are packed in the file are kept with their scale; floats are
first asked whether they already lie on a grid; only what is neither is a float master. Whoever
reads weights reads them here.

Shape letters: N rows, K columns, G groups of a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from onebit import pack, quant
from onebit.errors import FormatError, NotTernaryError, OnebitError
from onebit.io import StoredTensor
from onebit.pack import Unpacked, plain
from onebit.quant import Codes
from onebit.scheme import LinearScheme


def values(stored: StoredTensor) -> NDArray[np.float32]:
    """Return the tensor as float32, of its own shape; a new array.

    Raises:
        FormatError: it holds plain integers, or its bytes are damaged.
    """
    with named(stored.name):
        if stored.format not in plain.SIZE_BYTES and stored.format not in pack.FORMATS:
            raise FormatError(
                f"holds {stored.format}, and weights are floats ({', '.join(plain.SIZE_BYTES)}) or "
                "packed codes. The file is damaged or is not a model."
            )
        factors = (stored.scale, stored.minimum, stored.zero)
        return pack.decode(stored.format, stored.data, stored.shape, *factors)


def unpacked(stored: StoredTensor) -> Unpacked | None:
    """Return the codes and factors that the file holds of a matrix (N, K); None for floats.

    Raises:
        FormatError: its bytes are damaged.
    """
    if stored.format not in pack.FORMATS:
        return None
    with named(stored.name):
        return pack.FORMATS[stored.format].unpack(
            stored.data, stored.shape, stored.scale, stored.minimum, stored.zero
        )


def codes(stored: StoredTensor, scheme: LinearScheme) -> Codes | None:
    """Return the codes of a matrix that is quantized already, or None for float masters.

    Args:
        stored: a matrix (N, K).
        scheme: what the model says of its layer; its weight is not "fp".

    Raises:
        NotTernaryError: it is packed, and not as codes of this scheme. Rounding it again would be
            rounding twice.
        FormatError: its bytes are damaged.
    """
    found = find_codes(stored, scheme)
    if found is None and stored.format in pack.FORMATS:
        raise NotTernaryError(
            f"{stored.name}: packed as {stored.format}, and its values are no codes of the scheme "
            f"({scheme.weight} per {scheme.weight_scale}). Take the file it was made from."
        )
    return found


def find_codes(stored: StoredTensor, scheme: LinearScheme) -> Codes | None:
    """Return the codes that the scheme could have given a matrix, packed or as floats, or None.

    Raises:
        FormatError: its bytes are damaged.
    """
    packed = unpacked(stored)
    q = None if packed is None else _codes(packed)
    if q is not None and quant.grid.fits(q, scheme):
        if q.zero_NG is None:
            return quant.fewest_scales(q)
        if has_zero_point(scheme):
            return q
    return quant.grid.of_scheme(torch.from_numpy(values(stored)), scheme)


def has_zero_point(scheme: LinearScheme) -> bool:
    """Whether 0 has a code of its own, which a file says by its zero-points."""
    return scheme.weight_rule == "zero_point" and scheme.weight != "fp"


def minimum(q: Codes) -> NDArray[np.float32] | None:
    """Return what is added to code * scale, (N, G); None for nothing."""
    if q.zero_NG is not None:
        lowest_NG: NDArray[np.float32] = quant.integer.minimum_of_zero(q).numpy()
        return lowest_NG
    return None if q.minimum_NG is None else q.minimum_NG.numpy()


def _codes(packed: Unpacked) -> Codes | None:
    """Return codes that are packed, their minimum as a zero-point; None where it is none."""
    low_NG = None if packed.minimum_NG is None else torch.from_numpy(packed.minimum_NG)
    codes_NK, scale_NG = torch.from_numpy(packed.codes_NK), torch.from_numpy(packed.scale_NG)
    return quant.integer.zero_of_minimum(Codes(codes_NK, scale_NG, minimum_NG=low_NG))


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put a tensor's name in front of errors raised inside."""
    try:
        yield
    except OnebitError as error:
        raise type(error)(f"{name}: {error}") from error
