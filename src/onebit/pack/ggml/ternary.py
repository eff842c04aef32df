"""tq1_0 and tq2_0: ternary codes in blocks of 256, with a float16 scale after the codes.

tq1_0, 54 bytes, 1.6875 bits per weight. Five trits to a byte in the arithmetic of t1_6, taken not
from neighbours but from planes, so that a vector unit unpacks them in order:

    bytes  0..31   byte m holds columns m + 32n, n = 0..4        (columns   0..159)
    bytes 32..47   byte m holds columns 160 + m + 16n            (columns 160..239)
    bytes 48..51   byte m holds columns 240 + m + 4n, n = 0..3   (columns 240..255), times 3
    bytes 52, 53   the scale

tq2_0, 66 bytes, 2.0625 bits per weight. Two halves of 128 columns in 32 bytes each: bits 2n and
2n + 1 of byte m hold column m + 32n, plus 1. Then the scale.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onebit.pack import pairs
from onebit.pack.format import Bytes
from onebit.pack.ggml.block import WritableBlockFormat
from onebit.pack.t1_6 import BYTE_OF, TRITS_OF, number
from onebit.pack.unpacked import Unpacked


class _Planes(NamedTuple):
    """Bytes of `width`, from `byte`, hold `planes` planes of as many columns, from `column`."""

    byte: int
    width: int
    column: int
    planes: int


_PLANES = (_Planes(0, 32, 0, 5), _Planes(32, 16, 160, 5), _Planes(48, 4, 240, 4))
_CODE_OF = np.ascontiguousarray(TRITS_OF.T).astype(np.int8) - np.int8(1)  # (5, 256)


class TQ1_0(WritableBlockFormat):
    """Five trits to a byte. Every byte value has trits, as in ggml; 243 of them are written."""

    name = "tq1_0"
    columns = 256
    codes = (-1, 1)
    block_bytes = 54
    factors = (52,)

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        codes_Bk = np.empty((len(blocks_Bb), 256), np.int8)
        for byte, width, column, planes in _PLANES:
            data = blocks_Bb[:, byte : byte + width]
            for n in range(planes):
                at = column + n * width
                codes_Bk[:, at : at + width] = _CODE_OF[n][data]
        return Unpacked(codes_Bk, factors_Bf)

    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        trits_Bk = (codes_Bk + np.int8(1)).view(np.uint8)
        data_Bb = np.empty((len(codes_Bk), 52), np.uint8)
        for byte, width, column, planes in _PLANES:
            trits_Bpm = trits_Bk[:, column : column + planes * width].reshape(-1, planes, width)
            digits_Bm5 = np.zeros((len(codes_Bk), width, 5), np.uint8)
            digits_Bm5[..., :planes] = trits_Bpm.transpose(0, 2, 1)
            data_Bb[:, byte : byte + width] = BYTE_OF[number(digits_Bm5)]
        return data_Bb


class TQ2_0(WritableBlockFormat):
    """Bit pairs. Pair 3 would be a weight of twice the scale, and is refused."""

    name = "tq2_0"
    columns = 256
    codes = (-1, 1)
    block_bytes = 66
    factors = (64,)

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        data_Bhm = blocks_Bb[:, :64].reshape(-1, 2, 32)
        codes_Bhnm = np.stack([pairs.split(data_Bhm, 2 * n) for n in range(4)], axis=2)
        return Unpacked(codes_Bhnm.reshape(-1, 256), factors_Bf)

    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        codes_Bhnm = codes_Bk.reshape(-1, 2, 4, 32)
        data_Bhm = pairs.join(codes_Bhnm[:, :, 0], 0)
        for n in (1, 2, 3):
            data_Bhm |= pairs.join(codes_Bhnm[:, :, n], 2 * n)
        return data_Bhm.reshape(-1, 64)

    def _check_blocks(self, blocks_Bb: Bytes, first: int, K: int) -> None:
        data = blocks_Bb[:, :64].reshape(-1)
        bad = pairs.first_invalid(data)
        if bad is not None:
            row, block = divmod(first + bad // 64, K // 256)
            where = f"byte {bad % 64} of block {block} of row {row}"
            self._refuse_byte(where, int(data[bad]), pairs.INVALID)
