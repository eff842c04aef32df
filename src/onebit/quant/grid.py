"""Is this tensor already quantized, and with which scale?

Ternary weights that are rounded again keep their codes, but the absmean scale shrinks by the share
of non-zero codes (0.69 for weights that were Gaussian), at every pass. So every door that receives
float weights asks here first, and keeps codes and scale where the answer is yes.
"""

import torch
from torch import Tensor

from onebit.quant.codes import EPSILON, Codes, join, split


def on_grid(w_NK: Tensor, group: int | None = None) -> Codes | None:
    """Return the codes and scale of weights that already lie on {-s, 0, +s}, or None.

    Equal magnitudes stay equal in bf16 and float16, so storage in these does not hide a grid. The
    test is exact: weights that are merely near a grid are not on it.

    Args:
        w_NK: weights, any float dtype.
        group: columns that would share a scale s; K asks row by row; None asks for one s.

    Returns:
        Ternary Codes that `dequantize` to exactly these weights (all-zero shares get the smallest
        scale), or None when any share has two magnitudes or holds a value that is not finite.

    Raises:
        ShapeError: not a matrix, or K is not a multiple of `group`.
    """
    w_Sk = split("on_grid", w_NK, group)
    size_Sk = w_Sk.abs()
    scale_S = size_Sk.amax(dim=1)
    if not bool(torch.isfinite(scale_S).all()):
        return None
    on_Sk = (size_Sk == scale_S[:, None]) | (size_Sk == 0)
    if not bool(on_Sk.all()):
        return None
    return join(w_NK.shape, w_Sk.sign(), torch.where(scale_S > 0, scale_S, EPSILON))
