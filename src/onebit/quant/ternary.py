"""Ternary weights: w is approximated by codes * scale, with codes in {-1, 0, +1}.

A code carries log2(3) = 1.58 bits. The three rules differ in where they put the threshold between
0 and 1 and in the scale; docs/methods/ternary.md measures them. To train, use `absmean`: the
network grows around its scale. To round a model that was trained in float, use `least_squares`.

Shape letters: N out features, K in features, G groups of a row, S shares of k weights each.
"""

import torch
from torch import Tensor

from onebit.quant.codes import EPSILON, Codes, dequantize, join, split

TWN_THRESHOLD = 0.75
"""Share of the mean magnitude below which least_squares gives 0; near the optimum for Gaussians."""


def quantize_absmean(w_NK: Tensor, group: int | None = None) -> Codes:
    """Round weights to {-1, 0, +1} times the mean magnitude of their share.

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        group: columns that share a scale; K is a scale per row; None is one for the matrix.

    Returns:
        Codes with G = K // group, or 1.

    Raises:
        ShapeError: not a matrix, or K is not a multiple of `group`.

    Source: BitNet b1.58, equations 1-3, https://arxiv.org/abs/2402.17764
    """
    w_Sk = split("quantize_absmean", w_NK, group)
    return _round(w_NK.shape, w_Sk, absmean(w_Sk))


def absmean(w_Sk: Tensor) -> Tensor:
    """Return the scale of each share, float32 (S,); one share is the whole matrix or a row."""
    return w_Sk.abs().mean(dim=1).clamp(min=EPSILON)


def quantize_absmedian(w_NK: Tensor, group: int | None = None) -> Codes:
    """Round weights to {-1, 0, +1} times the median magnitude of their share.

    The median is less moved by a few large weights, as in small networks; of an even number of
    weights it is the lower of the middle two. Arguments, shapes and errors as `quantize_absmean`.

    Source: named by BitNet b1.58 Reloaded, https://arxiv.org/abs/2407.09527
    """
    w_Sk = split("quantize_absmedian", w_NK, group)
    return _round(w_NK.shape, w_Sk, w_Sk.abs().median(dim=1).values)


def quantize_least_squares(w_NK: Tensor, group: int | None = None) -> Codes:
    """Round weights above a threshold to +-1, with the scale that then has the least error.

    The threshold is 0.75 of the mean magnitude. For codes t, |w - s t|^2 is least at
    s = (w . t) / (t . t), the mean magnitude of the weights that were kept.
    Arguments, shapes and errors as `quantize_absmean`.

    Source: Ternary Weight Networks, section 2, https://arxiv.org/abs/1605.04711
    """
    w_Sk = split("quantize_least_squares", w_NK, group)
    size_Sk = w_Sk.abs()
    kept_Sk = size_Sk > TWN_THRESHOLD * size_Sk.mean(dim=1, keepdim=True)
    kept_S = kept_Sk.sum(dim=1).clamp(min=1)
    scale_S = (size_Sk * kept_Sk).sum(dim=1) / kept_S
    return join(w_NK.shape, w_Sk.sign() * kept_Sk, scale_S.clamp(min=EPSILON))


def best_scale(w_Sk: Tensor, h_Sk: Tensor | None = None) -> Tensor:
    """Return the scale (S,) of ternary codes with the least squared error there is.

    For scale s the nearest codes keep the weights above s / 2, and the error falls by
    (sum of h |w| over those kept)^2 / (sum of h): so the best m to keep are the m largest, and of
    all m the one where that is greatest is taken. Then s, that sum of h |w| / (sum of h), is exact.

    Args:
        w_Sk: shares of weights, float32.
        h_Sk: their importance, above 0; None is 1.

    Source: Ternary Weight Networks, equation 6, https://arxiv.org/abs/1605.04711, solved by sorting
        instead of by assuming a distribution
    """
    size_Sk, order_Sk = w_Sk.abs().sort(dim=1, descending=True)
    if h_Sk is None:
        kept_Sk = torch.arange(1, w_Sk.shape[1] + 1, dtype=torch.float64).expand_as(size_Sk)
        sum_Sk = size_Sk.double().cumsum(dim=1)
    else:
        h_sorted_Sk = h_Sk.gather(1, order_Sk).double()
        kept_Sk = h_sorted_Sk.cumsum(dim=1)
        sum_Sk = (h_sorted_Sk * size_Sk).cumsum(dim=1)
    best_S1 = (sum_Sk.square() / kept_Sk).argmax(dim=1, keepdim=True)
    return (sum_Sk.gather(1, best_S1) / kept_Sk.gather(1, best_S1))[:, 0].float()


def latent_absmean(q: Codes, group: int | None = None) -> Tensor:
    """Return float weights, (N, K), that `quantize_absmean` rounds to these codes and scale.

    The codes times the scale do not do: their mean magnitude is the scale times the share p of
    non-zero codes, so rounding them again would shrink the scale by p. Divided by p, they do; this
    is how training goes on from packed weights without a jump.

    Args:
        q: ternary codes whose scale is constant within each group.
        group: as `quantize_absmean` will be called.
    """
    w_Sk = split("latent_absmean", dequantize(q), group)
    share_S = w_Sk.ne(0).float().mean(dim=1).clamp(min=1 / w_Sk.shape[1])
    return (w_Sk / share_S[:, None]).view(q.codes_NK.shape)


def _round(shape: torch.Size, w_Sk: Tensor, scale_S: Tensor) -> Codes:
    """Round to the nearest code, ties to even: |w| of half the scale gives 0."""
    scale_S = scale_S.clamp(min=EPSILON)
    codes_Sk = (w_Sk * scale_S.reciprocal()[:, None]).round_().clamp_(-1, 1)
    return join(shape, codes_Sk, scale_S)
