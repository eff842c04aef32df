"""hf_2bit: packed BitNet checkpoints of Hugging Face transformers. Page: docs/formats/hf_2bit.md.

Four rows share a byte, and not four neighbours: with R = ceil(N / 4), the bytes are a matrix of
R rows and K columns, and bits 2i and 2i + 1 of its row r hold the code of row i * R + r, plus 1.
If N is not a multiple of 4, the places of the missing last rows hold 0 bits.

The scale is stored apart, under one of two conventions (multiply or divide); here it multiplies.

Source: https://github.com/huggingface/transformers, src/transformers/integrations/bitnet.py
"""

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError
from onebit.pack import pairs
from onebit.pack.format import DAMAGED, Bytes, Format
from onebit.pack.unpacked import Unpacked


class HF_2BIT(Format):
    """Four ternary codes to a byte, a quarter of the rows apart."""

    name = "hf_2bit"
    scale_inside = False
    codes = (-1, 1)

    def _size_bytes(self, N: int, K: int) -> int:
        return -(-N // 4) * K

    def _pack(self, weights: Unpacked) -> Bytes:
        codes_NK = weights.codes_NK
        N, K = codes_NK.shape
        R = -(-N // 4)
        data_RK = np.zeros((R, K), np.uint8)
        for i in range(4):
            quarter = codes_NK[i * R : (i + 1) * R]
            data_RK[: len(quarter)] |= pairs.join(quarter, 2 * i)
        return data_RK.reshape(-1)

    def _unpack(self, data: Bytes, N: int, K: int, scale_NG: NDArray[np.float32]) -> Unpacked:
        data_RK = data.reshape(-1, K)
        bad = pairs.first_invalid(data)
        if bad is not None:
            row, byte = divmod(bad, K)
            self._refuse_byte(f"byte {byte} of packed row {row}", int(data[bad]), pairs.INVALID)
        codes_NK = np.empty((N, K), np.int8)
        R = len(data_RK)
        for i in range(4):
            quarter = codes_NK[i * R : (i + 1) * R]
            codes = pairs.split(data_RK, 2 * i)
            quarter[:] = codes[: len(quarter)]
            if (codes[len(quarter) :] != -1).any():
                raise FormatError(
                    f"hf_2bit: the bytes hold a row after the {N} rows of the tensor, where only "
                    f"0 bits may stand. {DAMAGED}"
                )
        return Unpacked(codes_NK, scale_NG)
