"""Ternary codes in bit pairs, pair = code + 1: what t2, tq2_0, i2_s and hf_2bit have in common.

They differ only in which weights share a byte. Pair 3 means nothing in any of them.
"""

import numpy as np
from numpy.typing import NDArray

from onebit.pack.format import Bytes

INVALID = "which holds bit pair 3; pairs must be 0, 1 or 2"


def first_invalid(data: Bytes) -> int | None:
    """Return the index of the first byte of 1-D `data` that holds a pair 3, or None."""
    both = data & (data >> 1)  # the low bit of each pair: both bits set
    both &= 0x55
    return int((both != 0).argmax()) if both.any() else None


def split(data: Bytes, shift: int) -> NDArray[np.int8]:
    """Return the codes in bits `shift` and `shift` + 1 of each byte."""
    return ((data >> shift) & 3).view(np.int8) - np.int8(1)


def join(codes: NDArray[np.int8], shift: int) -> Bytes:
    """Return bytes that hold the codes in bits `shift` and `shift` + 1, and 0 elsewhere."""
    return (codes + np.int8(1)).view(np.uint8) << np.uint8(shift)
