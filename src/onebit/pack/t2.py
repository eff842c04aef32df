"""t2: ternary codes, four to a byte, 2 bits per weight. Page: docs/formats/t2.md.

Bits 2i and 2i + 1 of byte b of a row hold the code of column 4b + i, plus 1. A row is padded to
whole bytes with code 0. The scale is stored apart.
"""

import numpy as np
from numpy.typing import NDArray

from onebit.pack import pairs
from onebit.pack.format import Bytes
from onebit.pack.rows import RowFormat

_PAIRS = (np.arange(256)[:, None] >> (0, 2, 4, 6)) & 3  # (256, 4)


class T2(RowFormat):
    """Four ternary codes to a byte, the first in the lowest bits."""

    name = "t2"
    codes = (-1, 1)
    per_byte = 4
    table = (_PAIRS - 1).astype(np.int8)
    valid = np.asarray((_PAIRS < 3).all(axis=1))
    invalid = pairs.INVALID

    def _join(self, codes_BJ: NDArray[np.int8]) -> Bytes:
        data = pairs.join(codes_BJ[:, 0], 0)
        for i in (1, 2, 3):
            data |= pairs.join(codes_BJ[:, i], 2 * i)
        return data
