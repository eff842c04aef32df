"""i8: integer codes -128 to 127, one to a byte, 8 bits per weight. Page: docs/formats/i8.md.

Byte k of a row is the code of column k in two's complement. Nothing is padded. The scale is stored
apart, and a minimum too where there is one.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onebit.pack.format import Bytes
from onebit.pack.rows import RowFormat


class I8(RowFormat):
    """One integer code to a byte."""

    name = "i8"
    codes = (-128, 127)
    takes_minimum: ClassVar[bool] = True
    per_byte = 1
    table = np.arange(256, dtype=np.uint8).view(np.int8)[:, None]

    def _join(self, codes_BJ: NDArray[np.int8]) -> Bytes:
        return codes_BJ[:, 0].view(np.uint8)
