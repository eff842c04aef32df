"""Weights in blocks of a file format, rounded as the format's own writer rounds them.

Codes come out equal to ggml's to the bit, so that a file written here and one written there are
the same file.
"""

import torch
from torch import Tensor

from onebit.quant.codes import Codes, join, split

Q8_0_BLOCK = 32
TINY = torch.finfo(torch.float32).tiny  # below it, 1 / d overflows; float16 holds 0 for d anyway


def q8_0(w_NK: Tensor) -> Codes:
    """Round weights to int8 per 32 columns, as ggml's Q8_0.

    With d = max|w| / 127 in float32, a code is w * (1 / d) rounded half away from zero. The scale
    is d as the file holds it, rounded to float16 after the codes were taken.

    Args:
        w_NK: weights, any float dtype; K is a multiple of 32.

    Returns:
        Codes with G = K // 32; every scale is a float16 value.

    Raises:
        ShapeError: not a matrix, or K is not a multiple of 32.

    Source: ggml, quantize_row_q8_0_ref, https://github.com/ggml-org/ggml
    """
    w_Sk = split("blockwise.q8_0", w_NK, Q8_0_BLOCK)
    d_S = w_Sk.abs().amax(dim=1) / 127
    inverse_S = torch.where(d_S >= TINY, d_S.reciprocal(), 0)
    codes_Sk = _round_half_away(w_Sk * inverse_S[:, None])
    return join(w_NK.shape, codes_Sk, d_S.half())


def _round_half_away(x: Tensor) -> Tensor:
    """C's roundf. x - trunc(x) is exact, where adding one half first would itself round."""
    whole = x.trunc()
    return whole + (x - whole).abs().ge(0.5) * x.sign()
