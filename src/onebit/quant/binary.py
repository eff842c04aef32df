"""Binary weights: w is approximated by codes * scale, with codes in {-1, +1}.

The sign is taken of the centred weights, and the scale is applied once, to the result. Some code
multiplies by the scale before the sign and some after; docs/methods/binary.md shows that these are
one formula when the scale is applied exactly once.
"""

import torch
from torch import Tensor

from onebit.quant.codes import Codes, join, split


def quantize(w_NK: Tensor, group: int | None = None) -> Codes:
    """Round weights to the sign of (w - mean w), times the mean magnitude of their share.

    Sign(0) = -1, so that the codes are strictly -1 and +1: `torch.sign` would add a third value.
    The mean only moves the threshold; value = code * scale does not add it back.

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        group: columns that share a mean and a scale; K is one per row; None one for the matrix.

    Returns:
        Codes with G = K // group, or 1. The scale of an all-zero share is 0.

    Raises:
        ShapeError: not a matrix, or K is not a multiple of `group`.

    Source: BitNet, equations 1-3, and beta below equation 11, https://arxiv.org/abs/2310.11453
    """
    w_Sk = split("binary.quantize", w_NK, group)
    positive_Sk = w_Sk > w_Sk.mean(dim=1, keepdim=True)
    codes_Sk = positive_Sk.to(torch.int8).mul_(2).sub_(1)
    return join(w_NK.shape, codes_Sk, w_Sk.abs().mean(dim=1))
