"""Formats that cut each row into bytes of a fixed number of codes, with the scale stored apart.

A row of any width takes whole bytes: what is left of the last byte is padded, and the padding is
checked when it is read. Such a format is a table of 256 lines (what each byte means) and one
function the other way, so unpacking is a look-up and runs at memory speed.
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError
from onebit.pack.format import CHUNK, DAMAGED, Bytes, Format, slices
from onebit.pack.unpacked import Unpacked


class RowFormat(Format):
    """`per_byte` codes to a byte, each row padded to whole bytes. J below is `per_byte`."""

    scale_inside = False
    per_byte: ClassVar[int]
    pad: ClassVar[int] = 0
    """The code that fills what is left of a row's last byte."""
    table: ClassVar[NDArray[np.int8]]
    """(256, J): the codes of each byte value."""
    valid: ClassVar[NDArray[np.bool_]] = np.ones(256, np.bool_)
    """(256,): whether the byte value is one that packing writes."""
    invalid: ClassVar[str] = ""
    """What is wrong with the byte values that are not valid, as the end of a sentence."""

    @abstractmethod
    def _join(self, codes_BJ: NDArray[np.int8]) -> Bytes:
        """Return the byte of each line of codes."""

    def _row_bytes(self, K: int) -> int:
        return -(-K // self.per_byte)

    def _size_bytes(self, N: int, K: int) -> int:
        return N * self._row_bytes(K)

    def _pack(self, weights: Unpacked) -> Bytes:
        codes_NK = weights.codes_NK
        K = codes_NK.shape[1]
        left = self._row_bytes(K) * self.per_byte - K
        if left:
            codes_NK = np.pad(codes_NK, ((0, 0), (0, left)), constant_values=self.pad)
        codes_BJ = codes_NK.reshape(-1, self.per_byte)
        data = np.empty(len(codes_BJ), np.uint8)
        for part in slices(data.size, CHUNK):
            data[part] = self._join(codes_BJ[part])
        return data

    def _unpack(self, data: Bytes, N: int, K: int, scale_NG: NDArray[np.float32]) -> Unpacked:
        codes_BJ = np.empty((data.size, self.per_byte), np.int8)
        for part in slices(data.size, CHUNK):
            valid = self.valid[data[part]]
            if not valid.all():
                self._refuse(data, part.start + int(valid.argmin()), K)
            np.take(self.table, data[part], axis=0, out=codes_BJ[part], mode="clip")
        codes_NP = codes_BJ.reshape(N, -1)  # P: K and its padding
        padding = codes_NP[:, K:]
        if (padding != self.pad).any():
            row = int((padding != self.pad).any(axis=1).argmax())
            raise FormatError(
                f"{self.name}: row {row} goes on after its {K} columns, where only padding with "
                f"code {self.pad} may stand. {DAMAGED}"
            )
        return Unpacked(np.ascontiguousarray(codes_NP[:, :K]), scale_NG)

    def _refuse(self, data: Bytes, at: int, K: int) -> None:
        row, byte = divmod(at, self._row_bytes(K))
        self._refuse_byte(f"byte {byte} of row {row}", int(data[at]), self.invalid)
