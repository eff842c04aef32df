"""q2_k to q6_k: blocks of 256 columns, in 8 or 16 groups with small integer scales of their own.

A group's scale is the block's float16 d times a small integer, and where there is a minimum it is
minus the block's float16 dmin times another. Both products are taken in float32, in this order, so
that the weights come out as ggml's to the last bit.

    format  bytes  layout                                                           groups  codes
    q2_k    84     16 scales (low half: scale, high half: minimum), 64 pairs, d, dmin   16  0..3
    q3_k    110    32 third bits, 64 pairs, 12 packed scales, d                         16  -4..3
    q4_k    144    d, dmin, 12 packed scales, 128 halves                                 8  0..15
    q5_k    176    d, dmin, 12 packed scales, 32 fifth bits, 128 halves                  8  0..31
    q6_k    210    128 halves, 64 pairs, 16 signed scales, d                            16  -32..31

The columns are planes of 32: plane p is columns 32p to 32p + 31, and one run of 32 bytes holds a
piece of several planes at the same place of each byte.
"""

import numpy as np
from numpy.typing import NDArray

from onebit.pack.format import Bytes
from onebit.pack.ggml.block import BlockFormat
from onebit.pack.unpacked import Unpacked

_LOW, _FOUR = np.uint8(15), np.uint8(4)


def _planes(data_Bb: Bytes, run: int, bits: int, planes: int) -> NDArray[np.uint8]:
    """Cut runs of `run` bytes into `planes` planes of `bits` bits, the lowest first: (B, columns).

    With run 32, bits 2 and 4 planes, byte m of the first run holds columns m, 32 + m, 64 + m and
    96 + m from its lowest bits up, the second run columns 128 + m and so on.
    """
    shift_p1 = (np.arange(planes, dtype=np.uint8) * np.uint8(bits))[:, None]
    data_Br1m = data_Bb.reshape(len(data_Bb), -1, 1, run)
    values: NDArray[np.uint8] = (data_Br1m >> shift_p1) & np.uint8((1 << bits) - 1)
    return values.reshape(len(data_Bb), -1)


def _scales_3(data_Bb: Bytes) -> NDArray[np.int8]:
    """Return the 16 scales -32..31 of q3_k from 12 bytes.

    The low four bits stand in bytes 0 to 7 (scales 0..7 in the low halves, 8..15 in the high), the
    upper two in bytes 8 to 11 (scales 0..3 in the lowest bit pairs, then 4..7, 8..11, 12..15).
    """
    low_B16 = _planes(data_Bb[:, :8], run=8, bits=4, planes=2)
    high_B16 = _planes(data_Bb[:, 8:], run=4, bits=2, planes=4)
    return (low_B16 | (high_B16 << 4)).view(np.int8) - np.int8(32)


def _scales_4(data_Bb: Bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the 8 scales and 8 minima 0..63 of q4_k and q5_k from 12 bytes.

    The first four scales are the low six bits of bytes 0 to 3, the first four minima those of bytes
    4 to 7. The others take their low four bits from the halves of bytes 8 to 11 (scale low, minimum
    high) and their upper two bits from what the first eight bytes left.
    """
    scale_B4, minimum_B4, rest_B4 = data_Bb[:, :4], data_Bb[:, 4:8], data_Bb[:, 8:]
    scale_B8 = np.concatenate([scale_B4 & 63, (rest_B4 & 15) | ((scale_B4 >> 6) << 4)], axis=1)
    minimum_B8 = np.concatenate(
        [minimum_B4 & 63, (rest_B4 >> 4) | ((minimum_B4 >> 6) << 4)], axis=1
    )
    return scale_B8, minimum_B8


def _with_minimum(
    codes_Bk: NDArray[np.uint8],
    factors_Bf: NDArray[np.float32],
    scale_Bg: NDArray[np.uint8],
    minimum_Bg: NDArray[np.uint8],
) -> Unpacked:
    return Unpacked(
        codes_Bk.view(np.int8),
        factors_Bf[:, :1] * scale_Bg.astype(np.float32),
        -(factors_Bf[:, 1:] * minimum_Bg.astype(np.float32)),
    )


class Q2_K(BlockFormat):
    """2.625 bits per weight: 16 groups of 16."""

    name = "q2_k"
    columns = 256
    codes = (0, 3)
    block_bytes = 84
    factors = (80, 82)
    groups = 16
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        scales_Bg = blocks_Bb[:, :16]
        codes_Bk = _planes(blocks_Bb[:, 16:80], run=32, bits=2, planes=4)
        return _with_minimum(codes_Bk, factors_Bf, scales_Bg & _LOW, scales_Bg >> _FOUR)


class Q3_K(BlockFormat):
    """3.4375 bits per weight: 16 groups of 16. A third bit of 0 takes 4 away."""

    name = "q3_k"
    columns = 256
    codes = (-4, 3)
    block_bytes = 110
    factors = (108,)
    groups = 16

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        third_Bk = _planes(blocks_Bb[:, :32], run=32, bits=1, planes=8)
        codes_Bk = _planes(blocks_Bb[:, 32:96], run=32, bits=2, planes=4) | (third_Bk << 2)
        scale_Bg = factors_Bf * _scales_3(blocks_Bb[:, 96:108]).astype(np.float32)
        return Unpacked(codes_Bk.view(np.int8) - np.int8(4), scale_Bg)


class Q4_K(BlockFormat):
    """4.5 bits per weight: 8 groups of 32."""

    name = "q4_k"
    columns = 256
    codes = (0, 15)
    block_bytes = 144
    factors = (0, 2)
    groups = 8
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        codes_Bk = _planes(blocks_Bb[:, 16:], run=32, bits=4, planes=2)
        return _with_minimum(codes_Bk, factors_Bf, *_scales_4(blocks_Bb[:, 4:16]))


class Q5_K(BlockFormat):
    """5.5 bits per weight: 8 groups of 32."""

    name = "q5_k"
    columns = 256
    codes = (0, 31)
    block_bytes = 176
    factors = (0, 2)
    groups = 8
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        fifth_Bk = _planes(blocks_Bb[:, 16:48], run=32, bits=1, planes=8)
        codes_Bk = _planes(blocks_Bb[:, 48:], run=32, bits=4, planes=2) | (fifth_Bk << _FOUR)
        return _with_minimum(codes_Bk, factors_Bf, *_scales_4(blocks_Bb[:, 4:16]))


class Q6_K(BlockFormat):
    """6.5625 bits per weight: 16 groups of 16. Its halves come in runs of 64 bytes."""

    name = "q6_k"
    columns = 256
    codes = (-32, 31)
    block_bytes = 210
    factors = (208,)
    groups = 16

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        high_Bk = _planes(blocks_Bb[:, 128:192], run=32, bits=2, planes=4)
        codes_Bk = _planes(blocks_Bb[:, :128], run=64, bits=4, planes=2) | (high_Bk << 4)
        scale_Bg = factors_Bf * blocks_Bb[:, 192:208].view(np.int8).astype(np.float32)
        return Unpacked(codes_Bk.view(np.int8) - np.int8(32), scale_Bg)
