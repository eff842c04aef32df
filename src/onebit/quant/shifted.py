"""Ternary weights around a mean: value = scale * t + mean, with t in {-1, 0, +1}.

The mean of a share costs a second float and an addition per group of the product, and our engine
has no kernel for it: what runs is the symmetric form. These are the published formulas, to study
what the mean would buy (docs/methods/ternary-ptq.md measures it).

Shape letters: S shares of k weights each.

Source: PT2-LLM, https://arxiv.org/abs/2510.03267
"""

import torch
from torch import Tensor

from onebit.quant import search
from onebit.quant.codes import Codes, join, split
from onebit.quant.ternary import TWN_THRESHOLD

ITERATIONS = 10


def quantize(w_NK: Tensor, group: int | None = None, iterations: int = ITERATIONS) -> Codes:
    """Round weights by iterative ternary fitting: scale and mean by least squares, then trits.

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        group: columns that share scale and mean; K is one per row; None is one for the matrix.
        iterations: of fitting; 0 leaves the start, Ternary Weight Networks around the mean.

    Returns:
        Codes with a minimum, the mean.

    Raises:
        ShapeError: not a matrix, or K is not a multiple of `group`.
    """
    w_Sk = split("shifted.quantize", w_NK, group)
    mean_S = w_Sk.mean(dim=1)
    away_Sk = w_Sk - mean_S[:, None]
    kept_Sk = away_Sk.abs() > TWN_THRESHOLD * away_Sk.abs().mean(dim=1, keepdim=True)
    trits_Sk = away_Sk.sign() * kept_Sk
    scale_S = search.over((trits_Sk * away_Sk).sum(dim=1), trits_Sk.abs().sum(dim=1))
    for _ in range(iterations):
        scale_S, mean_S = factors(trits_Sk, w_Sk, None)
        trits_Sk = nearest(w_Sk, scale_S, mean_S)
    return join(w_NK.shape, trits_Sk, scale_S, minimum_S=mean_S)


def nearest(w_Sk: Tensor, scale_S: Tensor, mean_S: Tensor) -> Tensor:
    """Return the trit whose value is nearest, 0 where the scale is 0."""
    inverse_S = search.over(torch.ones_like(scale_S), scale_S)
    return ((w_Sk - mean_S[:, None]) * inverse_S[:, None]).round_().clamp_(-1, 1)


def factors(trits_Sk: Tensor, w_Sk: Tensor, gram_kk: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return scale and mean (S,) with the least error of the output, the trits as they are.

    The error of a share is (w - a t - m 1) A (w - a t - m 1)^T. Its gradient is 0 at

        a = (d tAw - v 1Aw) / (d tAt - v^2)      m = (tAt 1Aw - v tAw) / (d tAt - v^2)

    with d = 1A1 and v = tA1. (The paper prints (w * t)A1 for tAw, which is the same only where A is
    diagonal.) Where trits are all alike, the mean alone explains them, and the scale is 0.

    Args:
        trits_Sk: -1, 0, 1.
        w_Sk: the weights that are to be met.
        gram_kk: A, of the inputs of these columns; None is the identity: the error of the weights.
    """
    through_Sk = trits_Sk if gram_kk is None else trits_Sk @ gram_kk
    ones_k = torch.ones(w_Sk.shape[1]) if gram_kk is None else gram_kk.sum(dim=0)
    d = ones_k.sum()
    tw_S, tt_S = (through_Sk * w_Sk).sum(dim=1), (through_Sk * trits_Sk).sum(dim=1)
    v_S, ow_S = trits_Sk @ ones_k, w_Sk @ ones_k
    spread_S = d * tt_S - v_S * v_S
    alone_S = spread_S <= 1e-6 * d * tt_S  # both would say the same
    scale_S = torch.where(alone_S, 0.0, search.over(d * tw_S - v_S * ow_S, spread_S))
    mean_S = torch.where(alone_S, ow_S / d, search.over(tt_S * ow_S - v_S * tw_S, spread_S))
    return scale_S, mean_S
