"""Is this tensor already quantized, and with which scale?

Ternary weights that are rounded again keep their codes, but the absmean scale shrinks by the share
of non-zero codes (0.69 for weights that were Gaussian), at every pass. So every door that receives
float weights asks here first, and keeps codes and scale where the answer is yes.
"""

import torch
from torch import Tensor

from onebit.quant import parts
from onebit.quant.codes import EPSILON, Codes, join, split
from onebit.scheme import LinearScheme


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


def of_scheme(w_NK: Tensor, scheme: LinearScheme) -> Codes | None:
    """Return the codes of float weights (N, K) that lie on a grid this scheme allows, or None.

    One scale for the matrix suits every scheme; one for a row, a group, or a part, only those that
    share their scale as little.
    """
    K = w_NK.shape[1]
    if scheme.planes > 1:
        return None  # nine values, whose planes are not looked for
    if scheme.parts > 1:
        cut = [on_grid(part) for part in parts.cut(w_NK, scheme)]
        found = [q for q in cut if q is not None and fits(q, scheme)]
        return parts.glue(found, scheme) if len(found) == len(cut) else None
    groups: list[int | None] = [None]
    if scheme.weight_scale != "tensor":
        groups.append(K)
    if scheme.group:
        groups.append(scheme.group)
    for group in groups:
        if on_grid(w_NK[:1], group) is None:
            continue  # as nearly always; the first row says so at once
        q = on_grid(w_NK, group)
        if q is not None and fits(q, scheme):
            return q
    return None


def fits(q: Codes, scheme: LinearScheme) -> bool:
    """Whether the codes, and zero-points, are among those that the scheme's weights may have."""
    least, most = int(q.codes_NK.min()), int(q.codes_NK.max())
    if scheme.weight in ("ternary", "ternary2", "binary"):
        zeros = scheme.weight != "binary" or bool(q.codes_NK.all())
        return zeros and least >= -1 and most <= 1
    half: int = 2 ** (int(scheme.weight.removeprefix("int")) - 1)
    if q.zero_NG is not None:
        least, most = min(least, int(q.zero_NG.min())), max(most, int(q.zero_NG.max()))
    return least >= -half and most < half
