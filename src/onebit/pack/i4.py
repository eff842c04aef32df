"""i4: integer codes -8 to 7, two to a byte, 4 bits per weight. Page: docs/formats/i4.md.

The low half of byte b of a row holds the code of column 2b, plus 8; the high half that of column
2b + 1. A row is padded to whole bytes with code 0. The scale is stored apart, and a minimum too
where there is one.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onebit.pack.format import Bytes
from onebit.pack.rows import RowFormat


class I4(RowFormat):
    """Two integer codes to a byte, the first in the low half."""

    name = "i4"
    codes = (-8, 7)
    takes_minimum: ClassVar[bool] = True
    per_byte = 2
    table = (((np.arange(256)[:, None] >> (0, 4)) & 15) - 8).astype(np.int8)

    def _join(self, codes_BJ: NDArray[np.int8]) -> Bytes:
        nibbles_BJ = (codes_BJ + np.int8(8)).view(np.uint8)
        return nibbles_BJ[:, 0] | (nibbles_BJ[:, 1] << np.uint8(4))
