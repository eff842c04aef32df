"""t1_6: ternary codes, five to a byte, 1.6 bits per weight. Page: docs/formats/t1_6.md.

Five trits t = code + 1 make a number in base 3, the first trit the most significant, and the byte
is that number as a fraction of 1 in 8 bits, rounded up:

    q = 81 t0 + 27 t1 + 9 t2 + 3 t3 + t4        0 <= q <= 242
    byte = ceil(q * 256 / 243)

Trit n is then the integer part of 3 * frac(byte * 3^n / 256): multiplications and a shift, where a
plain base-3 number would need divisions. Of the 256 byte values, 243 are written; the 13 others are
refused when read, so that equal weights have equal bytes and damage shows.

A row is padded to whole bytes with code 0. The scale is stored apart.

Source: the arithmetic is that of TQ1_0, https://github.com/ggml-org/llama.cpp/pull/8151
"""

import numpy as np
from numpy.typing import NDArray

from onebit.pack.format import Bytes
from onebit.pack.rows import RowFormat

_POWERS = 3 ** np.arange(5)  # of digit n, on the way out

BYTE_OF = ((np.arange(243) * 256 + 242) // 243).astype(np.uint8)
"""(243,): the byte of each number q."""

TRITS_OF = (((np.arange(256)[:, None] * _POWERS) % 256 * 3) >> 8).astype(np.uint8)
"""(256, 5): the trits of each byte, 0 to 2."""


def number(trits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return q for trits whose last axis is the five digits, the most significant first."""
    q = trits[..., 0].copy()
    for n in range(1, 5):
        q *= np.uint8(3)
        q += trits[..., n]
    return q


class T1_6(RowFormat):
    """Five ternary codes to a byte, as a number in base 3."""

    name = "t1_6"
    codes = (-1, 1)
    per_byte = 5
    table = TRITS_OF.astype(np.int8) - np.int8(1)
    valid = np.isin(np.arange(256), BYTE_OF)
    invalid = "which no five trits make"

    def _join(self, codes_BJ: NDArray[np.int8]) -> Bytes:
        return BYTE_OF[number((codes_BJ + np.int8(1)).view(np.uint8))]
