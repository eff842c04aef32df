"""q4_0, q4_1, q5_0, q5_1 and q8_0: blocks of 32 columns with one float16 scale d.

    format  bytes  layout                                     weight
    q4_0    18     d, 16 bytes of halves                      d * (q - 8)
    q4_1    20     d, minimum m, 16 bytes of halves           d * q + m
    q5_0    22     d, 4 bytes of fifth bits, 16 of halves     d * (q - 16)
    q5_1    24     d, m, 4 bytes of fifth bits, 16 of halves  d * q + m
    q8_0    34     d, 32 signed bytes                         d * q

Byte j of the halves holds the low four bits of columns j (low half) and j + 16 (high half). Bit i
of the fifth bits, counted from the lowest of the first byte, belongs to column i.
"""

import numpy as np
from numpy.typing import NDArray

from onebit.pack.format import Bytes
from onebit.pack.ggml.block import WritableBlockFormat
from onebit.pack.unpacked import Unpacked


def _nibbles(data_Bj: Bytes) -> NDArray[np.int8]:
    """Return the 32 values 0..15 of 16 bytes: the low halves, then the high halves."""
    return np.concatenate([data_Bj & 15, data_Bj >> 4], axis=1).view(np.int8)


def _fifth_bits(data_Bb: Bytes) -> NDArray[np.int8]:
    """Return 0 or 16 for each of 32 columns from 4 bytes."""
    return (np.unpackbits(data_Bb, axis=1, bitorder="little") << 4).view(np.int8)


def _join_nibbles(values_Bk: NDArray[np.int8]) -> Bytes:
    """Return the 16 bytes of 32 values; only their low four bits are taken."""
    half_Bk = values_Bk.view(np.uint8) & np.uint8(15)
    return half_Bk[:, :16] | (half_Bk[:, 16:] << np.uint8(4))


def _join_fifth(values_Bk: NDArray[np.int8]) -> Bytes:
    """Return the 20 bytes of 32 values 0..31: the fifth bits, then the halves."""
    fifth_Bb = np.packbits((values_Bk >> 4).view(np.uint8), axis=1, bitorder="little")
    return np.concatenate([fifth_Bb, _join_nibbles(values_Bk)], axis=1)


class Q4_0(WritableBlockFormat):
    """Codes -8 to 7."""

    name = "q4_0"
    columns = 32
    codes = (-8, 7)
    block_bytes = 18

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        return Unpacked(_nibbles(blocks_Bb[:, 2:]) - np.int8(8), factors_Bf)

    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        return _join_nibbles(codes_Bk + np.int8(8))


class Q4_1(WritableBlockFormat):
    """Codes 0 to 15, and a minimum."""

    name = "q4_1"
    columns = 32
    codes = (0, 15)
    block_bytes = 20
    factors = (0, 2)
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        return Unpacked(_nibbles(blocks_Bb[:, 4:]), factors_Bf[:, :1], factors_Bf[:, 1:])

    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        return _join_nibbles(codes_Bk)


class Q5_0(WritableBlockFormat):
    """Codes -16 to 15."""

    name = "q5_0"
    columns = 32
    codes = (-16, 15)
    block_bytes = 22

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        codes_Bk = _nibbles(blocks_Bb[:, 6:]) | _fifth_bits(blocks_Bb[:, 2:6])
        return Unpacked(codes_Bk - np.int8(16), factors_Bf)

    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        return _join_fifth(codes_Bk + np.int8(16))


class Q5_1(WritableBlockFormat):
    """Codes 0 to 31, and a minimum."""

    name = "q5_1"
    columns = 32
    codes = (0, 31)
    block_bytes = 24
    factors = (0, 2)
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        codes_Bk = _nibbles(blocks_Bb[:, 8:]) | _fifth_bits(blocks_Bb[:, 4:8])
        return Unpacked(codes_Bk, factors_Bf[:, :1], factors_Bf[:, 1:])

    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        return _join_fifth(codes_Bk)


class Q8_0(WritableBlockFormat):
    """Codes -128 to 127; ggml's own quantizer stops at -127."""

    name = "q8_0"
    columns = 32
    codes = (-128, 127)
    block_bytes = 34

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        return Unpacked(blocks_Bb[:, 2:].view(np.int8), factors_Bf)

    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        return codes_Bk.view(np.uint8)
