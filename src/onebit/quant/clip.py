"""Where the range of integer codes ends: clipping.

The range from the smallest to the largest weight wastes its steps on the few at the ends. Cut off,
these are wrong by more and all others by less. The rules:

    none            the whole range
    ratio:R         this share of it, by hand
    percentile:P    what P percent of the values lie in
    mse             the cut with the least squared error of the weights (or weighted, by importance)
    output          the cut with the least squared error of the layer's output: e S e^T, S the Gram
                    matrix of its inputs
    kl              the cut whose rounding is nearest to the weights in KL divergence of histograms

Ends are cut, 0 never is: it stays one of the values.

Shape letters: N out features, K in features, G groups of a row, S shares of k weights each.
"""

import re

import torch
from torch import Tensor

from onebit.errors import InputError, OptionError, ShapeError
from onebit.quant import histogram
from onebit.quant.codes import Codes, join, split
from onebit.quant.span import nearest, of_range

RULES = ("none", "ratio:R", "percentile:P", "mse", "kl", "output")
SEARCHED = torch.arange(1.0, 0.19, -0.025).tolist()
"""Shares of the range that mse and output try, both ends at once."""
_FAR = [0.18 * 0.85**step for step in range(12)]
"""Tried too where many weights share a scale, of which the largest can be far out."""
_MANY = 1024
_ENDS = (0.95, 0.9, 0.8, 0.7)
"""Then of each end alone, where there is a zero-point."""
_CHUNK = 1 << 18
_LEAST_FOR_KL = 256


def quantize(
    w_NK: Tensor,
    bits: int,
    group: int | None = None,
    *,
    symmetric: bool = False,
    rule: str = "none",
    importance_K: Tensor | None = None,
    gram_KK: Tensor | None = None,
) -> Codes:
    """Round weights to integers in the range that a rule finds.

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        bits: 2 to 8.
        group: columns that share a scale; K is a scale per row; None is one for the matrix.
        symmetric: codes -L ... L with L = 2^(bits-1) - 1 and no zero-point; else all 2^bits codes.
        rule: see above.
        importance_K: of each column, for "mse"; None weighs all alike. Of inputs, mean x^2.
        gram_KK: mean x x^T of the inputs, for "output".

    Returns:
        Codes whose scales are float16 values; zero-points in -2^(bits-1) ... 2^(bits-1) - 1.

    Raises:
        OptionError: bits or rule, or kl with few weights to a scale.
        ShapeError: not a matrix, K is no multiple of `group`, or the Gram matrix is another's.
        InputError: a scale does not fit float16, or "output" without a Gram matrix.
    """
    scale_S, zero_S = factors(
        w_NK,
        bits,
        group,
        symmetric=symmetric,
        rule=rule,
        importance_K=importance_K,
        gram_KK=gram_KK,
    )
    w_Sk = split("clip.quantize", w_NK, group)
    codes_Sk = nearest(w_Sk, scale_S, zero_S, bits, symmetric)
    return join(w_NK.shape, codes_Sk, scale_S, None if symmetric else zero_S)


def factors(
    w_NK: Tensor,
    bits: int,
    group: int | None = None,
    *,
    symmetric: bool = False,
    rule: str = "none",
    importance_K: Tensor | None = None,
    gram_KK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return scale and zero-point (S,) of each share; arguments and errors as `quantize`.

    Zero-points are whole float32 numbers, all 0 where the codes are symmetric.
    """
    if bits not in range(2, 9):
        raise OptionError(f"clip: {bits!r} bits; accepted: a whole number from 2 to 8.")
    kind, number = parse(rule)
    w_Sk = split("clip.factors", w_NK, group)
    low_S, high_S = w_Sk.amin(dim=1).clamp(max=0), w_Sk.amax(dim=1).clamp(min=0)
    if symmetric:
        high_S = torch.maximum(-low_S, high_S)
        low_S = -high_S
    if kind == "ratio":
        low_S, high_S = low_S * number, high_S * number
    elif kind == "percentile":
        low_S, high_S = _percentile(w_Sk, number / 100, symmetric)
    elif kind == "kl":
        low_S, high_S = _by_divergence(w_Sk, low_S, high_S, bits, symmetric)
    elif kind in ("mse", "output"):
        gram_Gkk = _gram_blocks(w_NK, group, gram_KK) if kind == "output" else None
        h_NK = None
        if importance_K is not None and kind == "mse":
            if importance_K.shape != w_NK.shape[1:]:
                raise ShapeError(
                    f"clip: importance of shape {tuple(importance_K.shape)} for "
                    f"{w_NK.shape[1]} columns. Pass one number for each column."
                )
            h_NK = importance_K.float().expand(w_NK.shape)
        h_Sk = None if h_NK is None else split("clip.factors", h_NK, group)
        low_S, high_S = _searched(w_Sk, low_S, high_S, bits, symmetric, h_Sk, gram_Gkk)
    return of_range(low_S, high_S, bits, symmetric)


def parse(rule: str) -> tuple[str, float]:
    """Return the kind of a rule and its number: ("percentile", 99.9), ("ratio", 0.9), ("mse", 0).

    Raises:
        OptionError: it is none of `RULES`, or the number is outside of it.
    """
    if rule in ("none", "mse", "kl", "output"):
        return rule, 0.0
    kind, _, number = str(rule).partition(":")
    if kind in ("ratio", "percentile") and re.fullmatch(r"[0-9]{0,3}\.?[0-9]{1,6}", number):
        value = float(number)
        if 0 < value <= 1 if kind == "ratio" else 50 <= value <= 100:
            return kind, value
    raise OptionError(
        f"clip: {rule!r:.40} is no rule; accepted: {', '.join(RULES)}. R is above 0 and at "
        "most 1, P from 50 to 100."
    )


def of_values(
    values: histogram.Histogram, rule: str, bits: int, symmetric: bool
) -> tuple[float, float]:
    """Return least and greatest value to round to, by any rule but "output".

    Args:
        values: of all that calibration saw, for instance of what enters a layer.
        rule, bits, symmetric: as `quantize`.

    Raises:
        OptionError: the rule is unknown, or asks for more than values.
        InputError: nothing was counted.
    """
    kind, number = parse(rule)
    if kind == "output":
        raise OptionError(
            'clip: "output" weighs the error of weights; for activations accepted: none, ratio:R, '
            "percentile:P, mse, kl."
        )
    if not int(values.counts_B.sum()):
        raise InputError("clip: no value was counted. Calibrate with at least one token.")
    low, high = values.low, values.high
    if symmetric:
        high = max(-low, high)
        low = -high
    if kind == "ratio":
        return low * number, high * number
    if kind == "percentile":
        return values.percentile(number / 100, symmetric)
    if kind == "none" or not high > low:
        return low, high
    search = histogram.kl_share if kind == "kl" else histogram.mse_share
    low_S, high_S = torch.tensor([[low], [high]], dtype=torch.float64)
    counts_SB, middle_SB = values.counts_B[None].double(), values.middles()[None]
    share_S = search(counts_SB, middle_SB, low_S, high_S, bits, symmetric)
    return low * float(share_S), high * float(share_S)


def _percentile(w_Sk: Tensor, kept: float, symmetric: bool) -> tuple[Tensor, Tensor]:
    if symmetric:
        high_S = _quantile(w_Sk.abs().sort(dim=1).values, kept)
        return -high_S, high_S
    sorted_Sk, cut = w_Sk.sort(dim=1).values, (1 - kept) / 2
    low_S, high_S = _quantile(sorted_Sk, cut), _quantile(sorted_Sk, 1 - cut)
    return low_S.clamp(max=0), high_S.clamp(min=0)


def _quantile(sorted_Sk: Tensor, share: float) -> Tensor:
    """Return the value below which this share lies, between its two neighbours (numpy's linear)."""
    at = share * (sorted_Sk.shape[1] - 1)
    below, rest = int(at), at - int(at)
    above = min(below + 1, sorted_Sk.shape[1] - 1)
    return torch.lerp(sorted_Sk[:, below], sorted_Sk[:, above], rest)


def _by_divergence(
    w_Sk: Tensor, low_S: Tensor, high_S: Tensor, bits: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    k = w_Sk.shape[1]
    if k < _LEAST_FOR_KL:
        raise OptionError(
            f'clip: "kl" compares histograms, and {k} weights that share a scale make none; '
            f"accepted: {_LEAST_FOR_KL} or more. Share by row or tensor, or take mse."
        )
    bins = min(2048, 1 << (k // 2).bit_length())
    shares = []
    for first in range(0, len(w_Sk), max(1, _CHUNK // bins)):
        part = slice(first, first + max(1, _CHUNK // bins))
        counts_SB, middle_SB = histogram.of_shares(w_Sk[part], low_S[part], high_S[part], bins)
        ends = low_S[part], high_S[part]
        shares.append(histogram.kl_share(counts_SB, middle_SB, *ends, bits, symmetric))
    share_S = torch.cat(shares).float()
    return low_S * share_S, high_S * share_S


def _gram_blocks(w_NK: Tensor, group: int | None, gram_KK: Tensor | None) -> Tensor:
    """Return the blocks (G, k, k) of a Gram matrix on its diagonal, one for each group."""
    K = w_NK.shape[1]
    if gram_KK is None:
        raise InputError(
            'clip: "output" needs the Gram matrix of the inputs, and there is none. Calibrate, or '
            "choose mse."
        )
    if gram_KK.shape != (K, K):
        raise ShapeError(
            f"clip: a Gram matrix of shape {tuple(gram_KK.shape)} for {K} columns. Pass ({K}, {K})."
        )
    k = group or K
    blocks_GkGk = gram_KK.float().view(K // k, k, K // k, k)
    return blocks_GkGk.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def _searched(
    w_Sk: Tensor,
    low_S: Tensor,
    high_S: Tensor,
    bits: int,
    symmetric: bool,
    h_Sk: Tensor | None,
    gram_Gkk: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the ends with the least error, tried in chunks that stay in the cache."""
    G = 1 if gram_Gkk is None else len(gram_Gkk)
    step = max(1, _CHUNK // (w_Sk.shape[1] * G)) * G
    lows, highs = [], []
    for first in range(0, len(w_Sk), step):
        part = slice(first, first + step)
        low, high = _searched_part(
            w_Sk[part],
            low_S[part],
            high_S[part],
            bits,
            symmetric,
            None if h_Sk is None else h_Sk[part],
            gram_Gkk,
        )
        lows.append(low)
        highs.append(high)
    return torch.cat(lows), torch.cat(highs)


def _searched_part(
    w_Sk: Tensor,
    low_S: Tensor,
    high_S: Tensor,
    bits: int,
    symmetric: bool,
    h_Sk: Tensor | None,
    gram_Gkk: Tensor | None,
) -> tuple[Tensor, Tensor]:
    least_S = torch.full_like(low_S, float("inf"))
    best_low_S, best_high_S = low_S.clone(), high_S.clone()

    def attempt(try_low_S: Tensor, try_high_S: Tensor) -> None:
        scale_S, zero_S = of_range(try_low_S, try_high_S, bits, symmetric)
        codes_Sk = nearest(w_Sk, scale_S, zero_S, bits, symmetric)
        miss_Sk = codes_Sk.sub_(zero_S[:, None]).mul_(scale_S[:, None]).sub_(w_Sk)
        loss_S = _loss(miss_Sk, h_Sk, gram_Gkk)
        better_S = loss_S < least_S
        for value_S, kept_S in (
            (loss_S, least_S),
            (try_low_S, best_low_S),
            (try_high_S, best_high_S),
        ):
            torch.where(better_S, value_S, kept_S, out=kept_S)

    for share in SEARCHED + (_FAR if w_Sk.shape[1] >= _MANY else []):
        attempt(low_S * share, high_S * share)
    if not symmetric:
        for share in _ENDS:
            attempt(best_low_S * share, best_high_S.clone())
        for share in _ENDS:
            attempt(best_low_S.clone(), best_high_S * share)
    return best_low_S, best_high_S


def _loss(miss_Sk: Tensor, h_Sk: Tensor | None, gram_Gkk: Tensor | None) -> Tensor:
    if gram_Gkk is None:
        squared_Sk = miss_Sk.square()
        return (squared_Sk if h_Sk is None else squared_Sk.mul_(h_Sk)).sum(dim=1)
    G, k, _ = gram_Gkk.shape
    if miss_Sk.shape[1] != k:  # one share for the matrix
        miss_NK = miss_Sk.view(-1, k)
        return ((miss_NK @ gram_Gkk[0]) * miss_NK).sum().view(1)
    miss_GNk = miss_Sk.view(-1, G, k).transpose(0, 1)
    return ((miss_GNk @ gram_Gkk) * miss_GNk).sum(dim=2).T.reshape(-1)
