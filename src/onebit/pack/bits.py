"""Integers of 2 to 7 bits as one string of bits per row: what i2, i3, i5, i6 and i7 have in common.

The code of column k, less the smallest one, takes bits b k to b k + b - 1 of its row; bit i of a
row is bit i % 8 of byte i // 8. So eight codes fill b bytes, in which no bit is lost. A row is
padded to whole bytes with bits 0. The scale is stored apart, and a minimum too where there is one.

Shape letters: U units of eight codes; J = 8 codes of a unit.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError
from onebit.pack.format import CHUNK, DAMAGED, Bytes, Format, slices
from onebit.pack.unpacked import Unpacked

_UNIT = 8
"""Codes that fill whole bytes, as many as a code has bits."""
_WORD_BYTES = 8


class BitsFormat(Format):
    """Codes of `bits` bits, -2^(bits-1) to 2^(bits-1) - 1, without a gap between them."""

    scale_inside = False
    takes_minimum: ClassVar[bool] = True
    bits: ClassVar[int]

    def _row_bytes(self, K: int) -> int:
        return -(-K * self.bits // 8)

    def _size_bytes(self, N: int, K: int) -> int:
        return N * self._row_bytes(K)

    def _pack(self, weights: Unpacked) -> Bytes:
        N, K = weights.codes_NK.shape
        data_NB = np.empty((N, self._row_bytes(K)), np.uint8)
        left = -K % _UNIT
        shift_J = np.arange(0, _UNIT * self.bits, self.bits, dtype=np.uint64)
        for rows in slices(N, max(1, CHUNK // K)):
            above_NK = weights.codes_NK[rows].astype(np.int16) - self.codes[0]
            above_NK = np.pad(above_NK, ((0, 0), (0, left)))  # of which bits 0 stay
            words_U = np.bitwise_or.reduce(
                above_NK.reshape(-1, _UNIT).astype(np.uint64) << shift_J, axis=1
            )
            bytes_UB = words_U.astype("<u8").view(np.uint8).reshape(-1, _WORD_BYTES)
            whole_NB = bytes_UB[:, : self.bits].reshape(len(above_NK), -1)
            data_NB[rows] = whole_NB[:, : data_NB.shape[1]]
        return data_NB.reshape(-1)

    def _unpack(self, data: Bytes, N: int, K: int, scale_NG: NDArray[np.float32]) -> Unpacked:
        data_NB = data.reshape(N, -1)
        codes_NK = np.empty((N, K), np.int8)
        units = -(-K // _UNIT)
        mask, least = np.uint64((1 << self.bits) - 1), np.int8(self.codes[0])
        for rows in slices(N, max(1, CHUNK // K)):
            part_NB = data_NB[rows]
            whole_NB = np.pad(part_NB, ((0, 0), (0, units * self.bits - part_NB.shape[1])))
            bytes_UB = np.zeros((len(part_NB) * units, _WORD_BYTES), np.uint8)
            bytes_UB[:, : self.bits] = whole_NB.reshape(-1, self.bits)
            words_U = bytes_UB.view("<u8")[:, 0]
            above_UJ = np.empty((len(words_U), _UNIT), np.int8)
            for j in range(_UNIT):
                above_UJ[:, j] = words_U >> np.uint64(j * self.bits) & mask
            above_NP = above_UJ.reshape(len(part_NB), -1)  # P: K and its padding
            if above_NP[:, K:].any():
                row = rows.start + int(above_NP[:, K:].any(axis=1).argmax())
                raise FormatError(
                    f"{self.name}: row {row} goes on after its {K} columns, where only bits 0 may "
                    f"stand. {DAMAGED}"
                )
            np.add(above_NP[:, :K], least, out=codes_NK[rows])
        return Unpacked(codes_NK, scale_NG)
