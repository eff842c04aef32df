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

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onebit.errors import InputError
from onebit.pack.format import CHUNK, Bytes, slices
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


def _join_planes(values_Bk: NDArray[np.uint8], run: int, bits: int, planes: int) -> Bytes:
    """The inverse of `_planes`."""
    shift_p1 = (np.arange(planes, dtype=np.uint8) * np.uint8(bits))[:, None]
    values_Brpm = values_Bk.reshape(len(values_Bk), -1, planes, run) << shift_p1
    joined: Bytes = np.bitwise_or.reduce(values_Brpm, axis=2)
    return joined.reshape(len(values_Bk), -1)


def _join_scales_3(scale_Bg: NDArray[np.int16]) -> Bytes:
    """The inverse of `_scales_3`."""
    above_B16 = (scale_Bg + 32).astype(np.uint8)
    low_Bb = _join_planes(above_B16 & _LOW, run=8, bits=4, planes=2)
    high_Bb = _join_planes(above_B16 >> _FOUR, run=4, bits=2, planes=4)
    return np.concatenate([low_Bb, high_Bb], axis=1)


def _join_scales_4(scale_B8: NDArray[np.uint8], minimum_B8: NDArray[np.uint8]) -> Bytes:
    """The inverse of `_scales_4`."""
    (low_B4, high_B4), (low_m_B4, high_m_B4) = (
        (value_B8[:, :4], value_B8[:, 4:]) for value_B8 in (scale_B8, minimum_B8)
    )
    return np.concatenate(
        [
            low_B4 | ((high_B4 >> _FOUR) << 6),
            low_m_B4 | ((high_m_B4 >> _FOUR) << 6),
            (high_B4 & _LOW) | ((high_m_B4 & _LOW) << _FOUR),
        ],
        axis=1,
    )


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


class _WritableKQuant(BlockFormat):
    """A k format that onebit writes too: of factors that already are multiples of a float16."""

    packs = True
    multiples: ClassVar[tuple[int, int]]
    """What a group's scale may be times the block's factor."""

    @abstractmethod
    def _encode(self, codes_Bk: NDArray[np.int8], multiples: Sequence[NDArray[np.int16]]) -> Bytes:
        """Return the bytes of blocks, their float16 factors left 0.

        Args:
            codes_Bk: of each block.
            multiples: (B, g), of the scale, and of minus the minimum where there is one.
        """

    def _pack(self, weights: Unpacked) -> Bytes:
        codes_NK, scale_NG, minimum_NG = weights
        K = codes_NK.shape[1]
        codes_Bk = codes_NK.reshape(-1, self.columns)
        given = [self._spread(scale_NG, K)]
        if self.has_minimum:
            least = np.zeros_like(scale_NG) if minimum_NG is None else minimum_NG
            given.append(self._spread(-least, K))
        blocks_Bb = np.empty((len(codes_Bk), self.block_bytes), np.uint8)
        for part in slices(len(codes_Bk), CHUNK // self.columns):
            found = [self._factored(value_Bg[part], part.start, K) for value_Bg in given]
            blocks_Bb[part] = self._encode(codes_Bk[part], [s_Bg for _, s_Bg in found])
            for at, (d_B, _) in zip(self.factors, found, strict=True):
                blocks_Bb[part, at : at + 2] = d_B[:, None].view(np.uint8)
        return blocks_Bb.reshape(-1)

    def _factored(
        self, value_Bg: NDArray[np.float32], first: int, K: int
    ) -> tuple[NDArray[np.float16], NDArray[np.int16]]:
        """Return a float16 and small integers for each block whose products are these values.

        The largest value is tried as -128 (or 63) times the float16, then as -127, and so on; what
        has been read from a file, or rounded for one, is found, mostly at once.

        Raises:
            InputError: the values of a block have no such factor.
        """
        least, most = self.multiples
        at_B1 = np.abs(value_Bg).argmax(axis=1)[:, None]
        top_B1 = np.take_along_axis(value_Bg, at_B1, axis=1)
        d_B = np.zeros(len(value_Bg), "<f2")
        multiple_Bg = np.zeros(value_Bg.shape, np.int16)
        left = np.flatnonzero(top_B1)
        for largest in range(max(-least, most), 0, -1):
            if not left.size:
                break
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                d_L1 = (top_B1[left] / np.float32(-largest if least else largest)).astype("<f2")
                wide_L1 = d_L1.astype(np.float32)
                # a product's quotient is a whole number; what is not fails the comparison
                s_Lg = np.clip(value_Bg[left] / wide_L1, least, most).astype(np.int16)
            exact = (s_Lg * wide_L1 == value_Bg[left]).all(axis=1)
            d_B[left[exact]] = d_L1[exact, 0]
            multiple_Bg[left[exact]] = s_Lg[exact]
            left = left[~exact]
        if left.size:
            row, block = divmod(first + int(left[0]), K // self.columns)
            raise InputError(
                f"{self.name}: the scales or minima of block {block} of row {row} are not {least} "
                f"to {most} times one float16. Round with quant.blockwise, or choose another "
                "format."
            )
        return d_B, multiple_Bg


class Q2_K(_WritableKQuant):
    """2.625 bits per weight: 16 groups of 16."""

    name = "q2_k"
    columns = 256
    codes = (0, 3)
    block_bytes = 84
    factors = (80, 82)
    multiples = (0, 15)
    groups = 16
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        scales_Bg = blocks_Bb[:, :16]
        codes_Bk = _planes(blocks_Bb[:, 16:80], run=32, bits=2, planes=4)
        return _with_minimum(codes_Bk, factors_Bf, scales_Bg & _LOW, scales_Bg >> _FOUR)

    def _encode(self, codes_Bk: NDArray[np.int8], multiples: Sequence[NDArray[np.int16]]) -> Bytes:
        scale_Bg, minimum_Bg = (s_Bg.astype(np.uint8) for s_Bg in multiples)
        pairs_Bb = _join_planes(codes_Bk.view(np.uint8), run=32, bits=2, planes=4)
        scales_Bb = scale_Bg | (minimum_Bg << _FOUR)
        return np.concatenate([scales_Bb, pairs_Bb, _room(codes_Bk, 4)], axis=1)


class Q3_K(_WritableKQuant):
    """3.4375 bits per weight: 16 groups of 16. A third bit of 0 takes 4 away."""

    name = "q3_k"
    columns = 256
    codes = (-4, 3)
    block_bytes = 110
    factors = (108,)
    multiples = (-32, 31)
    groups = 16

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        third_Bk = _planes(blocks_Bb[:, :32], run=32, bits=1, planes=8)
        codes_Bk = _planes(blocks_Bb[:, 32:96], run=32, bits=2, planes=4) | (third_Bk << 2)
        scale_Bg = factors_Bf * _scales_3(blocks_Bb[:, 96:108]).astype(np.float32)
        return Unpacked(codes_Bk.view(np.int8) - np.int8(4), scale_Bg)

    def _encode(self, codes_Bk: NDArray[np.int8], multiples: Sequence[NDArray[np.int16]]) -> Bytes:
        values_Bk = (codes_Bk + np.int8(4)).view(np.uint8)
        third_Bb = _join_planes(values_Bk >> np.uint8(2), run=32, bits=1, planes=8)
        pairs_Bb = _join_planes(values_Bk & np.uint8(3), run=32, bits=2, planes=4)
        scales_Bb = _join_scales_3(multiples[0])
        return np.concatenate([third_Bb, pairs_Bb, scales_Bb, _room(codes_Bk, 2)], axis=1)


class Q4_K(_WritableKQuant):
    """4.5 bits per weight: 8 groups of 32."""

    name = "q4_k"
    columns = 256
    codes = (0, 15)
    block_bytes = 144
    factors = (0, 2)
    multiples = (0, 63)
    groups = 8
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        codes_Bk = _planes(blocks_Bb[:, 16:], run=32, bits=4, planes=2)
        return _with_minimum(codes_Bk, factors_Bf, *_scales_4(blocks_Bb[:, 4:16]))

    def _encode(self, codes_Bk: NDArray[np.int8], multiples: Sequence[NDArray[np.int16]]) -> Bytes:
        scales_Bb = _join_scales_4(*(s_Bg.astype(np.uint8) for s_Bg in multiples))
        halves_Bb = _join_planes(codes_Bk.view(np.uint8), run=32, bits=4, planes=2)
        return np.concatenate([_room(codes_Bk, 4), scales_Bb, halves_Bb], axis=1)


class Q5_K(_WritableKQuant):
    """5.5 bits per weight: 8 groups of 32."""

    name = "q5_k"
    columns = 256
    codes = (0, 31)
    block_bytes = 176
    factors = (0, 2)
    multiples = (0, 63)
    groups = 8
    has_minimum = True

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        fifth_Bk = _planes(blocks_Bb[:, 16:48], run=32, bits=1, planes=8)
        codes_Bk = _planes(blocks_Bb[:, 48:], run=32, bits=4, planes=2) | (fifth_Bk << _FOUR)
        return _with_minimum(codes_Bk, factors_Bf, *_scales_4(blocks_Bb[:, 4:16]))

    def _encode(self, codes_Bk: NDArray[np.int8], multiples: Sequence[NDArray[np.int16]]) -> Bytes:
        scales_Bb = _join_scales_4(*(s_Bg.astype(np.uint8) for s_Bg in multiples))
        values_Bk = codes_Bk.view(np.uint8)
        fifth_Bb = _join_planes(values_Bk >> _FOUR, run=32, bits=1, planes=8)
        halves_Bb = _join_planes(values_Bk & _LOW, run=32, bits=4, planes=2)
        return np.concatenate([_room(codes_Bk, 4), scales_Bb, fifth_Bb, halves_Bb], axis=1)


class Q6_K(_WritableKQuant):
    """6.5625 bits per weight: 16 groups of 16. Its halves come in runs of 64 bytes."""

    name = "q6_k"
    columns = 256
    codes = (-32, 31)
    block_bytes = 210
    factors = (208,)
    multiples = (-128, 127)
    groups = 16

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        high_Bk = _planes(blocks_Bb[:, 128:192], run=32, bits=2, planes=4)
        codes_Bk = _planes(blocks_Bb[:, :128], run=64, bits=4, planes=2) | (high_Bk << 4)
        scale_Bg = factors_Bf * blocks_Bb[:, 192:208].view(np.int8).astype(np.float32)
        return Unpacked(codes_Bk.view(np.int8) - np.int8(32), scale_Bg)

    def _encode(self, codes_Bk: NDArray[np.int8], multiples: Sequence[NDArray[np.int16]]) -> Bytes:
        values_Bk = (codes_Bk + np.int8(32)).view(np.uint8)
        halves_Bb = _join_planes(values_Bk & _LOW, run=64, bits=4, planes=2)
        pairs_Bb = _join_planes(values_Bk >> _FOUR, run=32, bits=2, planes=4)
        scales_Bb = multiples[0].astype(np.int8).view(np.uint8)
        return np.concatenate([halves_Bb, pairs_Bb, scales_Bb, _room(codes_Bk, 2)], axis=1)


def _room(codes_Bk: NDArray[np.int8], size: int) -> Bytes:
    """Zeros where the factors of each block will stand."""
    return np.zeros((len(codes_Bk), size), np.uint8)
