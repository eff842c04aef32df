"""b1: binary codes, eight to a byte, 1 bit per weight. Page: docs/formats/b1.md.

Bit i of byte b of a row holds column 8b + i: 1 is code +1, 0 is code -1. There is no zero. A row is
padded to whole bytes with 0 bits. The scale is stored apart.
"""

import numpy as np
from numpy.typing import NDArray

from onebit.errors import NotTernaryError
from onebit.pack.format import Bytes
from onebit.pack.rows import RowFormat

_BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8)


class B1(RowFormat):
    """Eight signs to a byte, the first in the lowest bit."""

    name = "b1"
    codes = (-1, 1)
    per_byte = 8
    pad = -1
    table = (2 * _BITS - 1).astype(np.int8)

    def _join(self, codes_BJ: NDArray[np.int8]) -> Bytes:
        return np.packbits((codes_BJ > 0).reshape(-1), bitorder="little")

    def _check_codes(self, codes_NK: NDArray[np.int8]) -> None:
        super()._check_codes(codes_NK)
        if not codes_NK.all():
            row, column = np.argwhere(codes_NK == 0)[0]
            raise NotTernaryError(
                f"b1: the code at row {row}, column {column} is 0; accepted: -1 and 1. "
                "Pack ternary codes as t2 or t1_6."
            )
