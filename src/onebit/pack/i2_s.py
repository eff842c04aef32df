"""i2_s: Microsoft's bitnet.cpp, ternary codes in bit pairs. Page: docs/formats/i2_s.md.

Blocks of 128 columns take 32 bytes: byte g of a block holds the codes, plus 1, of columns g (its
two highest bits), 32 + g, 64 + g and 96 + g (its two lowest). One float32 scale for the whole
tensor follows the last block, in a tail of 32 bytes.

This is the layout of the official model file and of x86 builds. ARM builds and one x86 build option
of bitnet.cpp arrange the same number of bytes otherwise, and nothing in such a file tells: the
bytes are read as the layout above.

Source: https://github.com/microsoft/BitNet, src/ggml-bitnet-mad.cpp
"""

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError, InputError
from onebit.pack import pairs
from onebit.pack.format import DAMAGED, Bytes, Format
from onebit.pack.unpacked import Unpacked

_TAIL_BYTES = 32
_SHIFTS = (6, 4, 2, 0)  # of the four quarters of a block


class I2_S(Format):
    """Four ternary codes to a byte, 32 columns apart, and one scale for the tensor."""

    name = "i2_s"
    scale_inside = True
    columns = 128
    codes = (-1, 1)

    def _size_bytes(self, N: int, K: int) -> int:
        return N * K // 4 + _TAIL_BYTES

    def _pack(self, weights: Unpacked) -> Bytes:
        codes_NK, scale_NG, _ = weights
        scale = scale_NG.flat[0]
        if (scale_NG != scale).any():
            raise InputError(
                "i2_s: the format holds one scale for the whole tensor and these weights have "
                f"{np.unique(scale_NG).size}. Quantize with one, or choose another format."
            )
        codes_Bqg = codes_NK.reshape(-1, 4, 32)
        data = np.zeros(self._size_bytes(*codes_NK.shape), np.uint8)
        blocks_Bg = data[:-_TAIL_BYTES].reshape(-1, 32)
        for q, shift in enumerate(_SHIFTS):
            blocks_Bg |= pairs.join(codes_Bqg[:, q], shift)
        data[-_TAIL_BYTES:][:4] = np.array([scale], "<f4").view(np.uint8)
        return data

    def _unpack(self, data: Bytes, N: int, K: int, scale_NG: NDArray[np.float32]) -> Unpacked:
        body, tail = data[:-_TAIL_BYTES], data[-_TAIL_BYTES:]
        bad = pairs.first_invalid(body)
        if bad is not None:
            row, byte = divmod(bad, K // 4)
            self._refuse_byte(f"byte {byte} of row {row}", int(body[bad]), pairs.INVALID)
        scale = tail[:4].copy().view("<f4").astype(np.float32)
        if not np.isfinite(scale[0]):
            raise FormatError(f"i2_s: the scale after the last row is {scale[0]}. {DAMAGED}")
        codes_Bqg = np.empty((body.size // 32, 4, 32), np.int8)
        for q, shift in enumerate(_SHIFTS):
            codes_Bqg[:, q] = pairs.split(body.reshape(-1, 32), shift)
        return Unpacked(codes_Bqg.reshape(N, K), np.full((N, 1), scale[0]))
