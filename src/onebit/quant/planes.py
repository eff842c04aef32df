"""Weights as a sum of trit planes: value = a1 t1 + a2 t2, with t1 and t2 in {-1, 0, +1}.

Two planes are nine values for every pair of scales, 3.17 bits a weight, on a kernel that only adds
and subtracts. One plane is an ordinary ternary weight, so that whoever searches codes writes it
once for both. As Codes, the planes stand side by side: codes (N, P K), first all of t1, then all of
t2, and scales (N, P G) alike; the layer's input is repeated P times.

Shape letters: P planes, S shares of k weights each, N rows, K columns, G groups of a row.

Source: PTQTP, https://arxiv.org/abs/2509.16989 (per row alternating: least squares for the scales,
    the nearest of the nine values for the trits)
"""

import torch
from torch import Tensor

from onebit.quant import search, ternary
from onebit.quant.codes import EPSILON, Codes, split
from onebit.quant.codes import dequantize as _dequantize

PLANES = (1, 2)
_SECOND = (0.28, 0.4, 0.55)
"""Of the first scale: where the search for the second one starts."""
_ITERATIONS = 12


def quantize(w_NK: Tensor, group: int | None = None, importance_K: Tensor | None = None) -> Codes:
    """Round weights to two trit planes, without looking at any input.

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        group: columns that share their two scales; K is two per row; None is two for the matrix.
        importance_K: of each column, above 0; None is 1.

    Returns:
        Codes of (N, 2 K) with scales (N, 2 G) that are float16 values.

    Raises:
        ShapeError: not a matrix, or K is not a multiple of `group`.
    """
    w_Sk = split("planes.quantize", w_NK, group)
    h_Sk = None
    if importance_K is not None:
        h_Sk = split("planes.quantize", importance_K.expand(w_NK.shape), group)
    scale_PS = fit(w_Sk, 2, h_Sk).half().float()
    trits_PSk = nearest(w_Sk, scale_PS[..., None])
    N = len(w_NK)
    scale_PNG = scale_PS.view(2, 1, 1).expand(2, N, 1) if group is None else scale_PS.view(2, N, -1)
    return joined(trits_PSk.reshape(2, *w_NK.shape), scale_PNG)


def dequantize(q: Codes) -> Tensor:
    """Return the float32 weights (N, K) that codes (N, 2 K) of two planes stand for."""
    first_NK, second_NK = _dequantize(q).chunk(2, dim=1)
    return first_NK + second_NK


def joined(trits_PNK: Tensor, scale_PNG: Tensor) -> Codes:
    """Return planes as Codes, side by side."""
    side = [torch.cat(list(planes), dim=1) for planes in (trits_PNK, scale_PNG)]
    return Codes(side[0].to(torch.int8), side[1].float().contiguous())


def fit(w_Sk: Tensor, planes: int, h_Sk: Tensor | None = None) -> Tensor:
    """Return the scales (P, S) of the planes, the first the larger, for a small squared error.

    One plane's is the best there is. Of two, from several starts, trits and scales are improved in
    turn until that stops helping.

    Args:
        w_Sk: shares of weights, float32.
        planes: 1 or 2.
        h_Sk: their importance, above 0; None is 1.
    """
    one_S = ternary.best_scale(w_Sk, h_Sk).clamp(min=EPSILON * EPSILON)
    if planes == 1:
        return one_S[None]
    best_PS, least_S = torch.stack([one_S, one_S]), torch.full_like(one_S, float("inf"))
    for ratio in _SECOND:
        scale_PS = torch.stack([one_S, one_S * ratio])
        for turn in range(_ITERATIONS + 1):
            trits_PSk = nearest(w_Sk, scale_PS[..., None])
            miss_Sk = (trits_PSk * scale_PS[..., None]).sum(dim=0).sub_(w_Sk).square_()
            loss_S = (miss_Sk if h_Sk is None else miss_Sk.mul_(h_Sk)).sum(dim=1)
            better_S = loss_S < least_S
            least_S = torch.where(better_S, loss_S, least_S)
            best_PS = torch.where(better_S, scale_PS, best_PS)
            if turn < _ITERATIONS:
                h_trits_PSk = trits_PSk if h_Sk is None else trits_PSk * h_Sk
                solved_PS = least_squares(
                    (h_trits_PSk[:, None] * trits_PSk).sum(dim=-1), (h_trits_PSk * w_Sk).sum(dim=-1)
                )
                scale_PS = torch.where((solved_PS > 0).all(dim=0), solved_PS, scale_PS)
    return best_PS


def least_squares(products_PPS: Tensor, targets_PS: Tensor) -> Tensor:
    """Return the scales (P, S) with least error, of inner products of planes; 0 where none has.

    Args:
        products_PPS: of every plane with every plane, under the metric that measures the error.
        targets_PS: of every plane with the weights.
    """
    if len(targets_PS) == 1:
        return search.over(targets_PS, products_PPS[0])
    (aa_S, ab_S), (_, bb_S) = products_PPS
    a_S, b_S = targets_PS
    # a hair of the diagonal, so that planes that have become equal share what they explain
    aa_S, bb_S = aa_S * (1 + 1e-6), bb_S * (1 + 1e-6)
    spread_S = aa_S * bb_S - ab_S * ab_S
    first_S = search.over(a_S * bb_S - b_S * ab_S, spread_S)
    return torch.stack([first_S, search.over(b_S * aa_S - a_S * ab_S, spread_S)])


def nearest(w: Tensor, scale_P: Tensor) -> Tensor:
    """Return the trits (P, ...) whose value is nearest to weights of any shape.

    Args:
        w: weights.
        scale_P: above 0, P scales that spread over the shape of `w`.
    """
    if len(scale_P) == 1:
        return (w / scale_P[0]).round_().clamp_(-1, 1)[None]
    first, second = scale_P
    best, least = None, None
    for trit in (0.0, -1.0, 1.0):
        rest = w - first * trit
        other = (rest / second).round_().clamp_(-1, 1)
        miss = (rest - other * second).abs_()
        found = torch.stack([torch.full_like(w, trit), other])
        if best is None or least is None:
            best, least = found, miss
        else:
            best, least = torch.where(miss < least, found, best), torch.minimum(miss, least)
    assert best is not None
    return best
