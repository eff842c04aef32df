"""q1_0, q2_0 and q2_0_g128: a float16 scale d, then one or two bits for each column in order.

    format     columns  bytes  weight
    q1_0       128      18     d * (2 q - 1), bit i of byte b: column 8b + i
    q2_0       64       18     d * (q - 1), bits 2i and 2i + 1 of byte b: column 4b + i
    q2_0_g128  128      34     the same

The two widths of q2_0 share the number 42 in GGUF files, in llama.cpp and in a fork of it: io tells
them apart by the room that a tensor has. Its fourth value, twice the scale, is a weight like the
others.

Source: https://github.com/ggml-org/llama.cpp/pull/24448 (q2_0), ggml/src/ggml-common.h
"""

import numpy as np
from numpy.typing import NDArray

from onebit.pack.format import Bytes
from onebit.pack.ggml.block import BlockFormat
from onebit.pack.unpacked import Unpacked


class Q1_0(BlockFormat):
    """Signs: codes -1 and 1."""

    name = "q1_0"
    columns = 128
    codes = (-1, 1)
    block_bytes = 18

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        bits_Bk = np.unpackbits(blocks_Bb[:, 2:], axis=1, bitorder="little").view(np.int8)
        return Unpacked(2 * bits_Bk - np.int8(1), factors_Bf)


class Q2_0(BlockFormat):
    """Codes -1 to 2."""

    name = "q2_0"
    columns = 64
    codes = (-1, 2)
    block_bytes = 18

    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        shift_4 = np.arange(0, 8, 2, dtype=np.uint8)
        pairs_Bk = ((blocks_Bb[:, 2:, None] >> shift_4) & np.uint8(3)).reshape(len(blocks_Bb), -1)
        return Unpacked(pairs_Bk.view(np.int8) - np.int8(1), factors_Bf)


class Q2_0_G128(Q2_0):
    """The same with a scale for 128 columns."""

    name = "q2_0_g128"
    columns = 128
    block_bytes = 34
