"""The products of a BitLinear: of integer codes where a sum has one scale, else of their values.

Shape letters: T tokens (any leading shape), N out features, K in features, G groups of a row or
parts of the columns.
"""

import torch
from torch import Tensor

from onebit.nn.codes_product import product
from onebit.quant import Codes, straight_through
from onebit.quant.activation import Activations


def has_whole_sums(q: Codes, a: Activations | None) -> bool:
    """Whether every sum is over whole numbers and scaled once, not where the scale changes in it.

    Parts of the columns, each with its own scales of weights and input, are as many sums.
    """
    parts = 1 if a is None else a.scale.shape[-1]
    return q.zero_NG is None and q.minimum_NG is None and q.scale_NG.shape[1] in (1, parts)


def of_codes(
    x_TK: Tensor, w_NK: Tensor, a: Activations | None, q: Codes, one_scale: bool
) -> Tensor:
    """Return the product of codes, (T, N), with gradients to x and w; `has_whole_sums` is true.

    Args:
        x_TK: the input that was rounded; it takes the gradient.
        w_NK: what takes the gradient of the rounded weights.
        a: the input's codes, float32, and scale; None when it is not rounded.
        q: the weights' codes and scale.
        one_scale: whether all rows have the same scales.
    """
    scale_w = q.scale_NG[0] if one_scale else q.scale_NG
    if a is None:
        return product(x_TK, w_NK, x_TK.detach(), None, q.codes_NK, scale_w[..., 0])
    parts = a.scale.shape[-1]
    if parts == 1:
        return _of_part(x_TK, w_NK, a, q.codes_NK, scale_w[..., 0])
    scale_w = scale_w.expand(*scale_w.shape[:-1], parts)
    cut = (t.chunk(parts, dim=-1) for t in (x_TK, w_NK, a.codes, a.scale, q.codes_NK, scale_w))
    low = [None] * parts if a.minimum is None else a.minimum.chunk(parts, dim=-1)
    sums = [
        _of_part(x, w, Activations(codes_x, scale_x, minimum), codes_w, scale[..., 0])
        for x, w, codes_x, scale_x, codes_w, scale, minimum in zip(*cut, low, strict=True)
    ]
    return torch.stack(sums).sum(dim=0) if parts > 2 else sums[0] + sums[1]


def _of_part(
    x_Tk: Tensor, w_Nk: Tensor, a: Activations, codes_Nk: Tensor, scale_w: Tensor
) -> Tensor:
    """Return the product of one part of the columns, in which a token has one scale."""
    y_TN = product(x_Tk, w_Nk, a.codes, a.scale, codes_Nk, scale_w)
    if a.minimum is None:
        return y_TN
    # sum over k of (code_x scale_x + minimum) w_hat: the minimum goes with the sum of a row
    row_N = codes_Nk.sum(dim=1, dtype=torch.float32) * scale_w
    row_N = straight_through(w_Nk.float().sum(dim=1), row_N)
    return y_TN + (a.minimum * row_N).to(y_TN.dtype)
