"""Scales and minima with a small squared error, found by trying.

The scale that takes the largest weight to the last code is not the best one: a slightly smaller or
larger step often rounds the others better. So some twenty steps are tried; each gives codes, the
codes give the scale (and minimum) of least squares, and the best of these is kept. The sums run
over the k weights of a share, which lie in k rows here, so a whole column of shares is one vector.

Every weight may have an importance h: then it is h times its squared error that is summed. What is
smallest is that sum, where ggml blends in the magnitude of the weights.

The native kernels compute the same numbers, bit for bit (csrc/block_search.h): so sums have a fixed
order here, that of `by_fours`.

Sources: ggml, make_qx_quants and make_qkx2_quants, https://github.com/ggml-org/ggml
"""

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Weights handled at a time: the temporaries of a step stay in the cache."""
_STEPS = [tenths / 10 for tenths in range(-30, 11, 2)]
"""Added to the number of codes that the largest weight spans."""
_FEW = 8
"""Codes up to which steps are tried more densely: the first code that a weight leaves is far."""
_STEPS_OF_FEW = [twentieths / 20 for twentieths in range(-36, 21, 2)]


def scales(w_Sk: Tensor, half: int, h_Sk: Tensor | None = None) -> Tensor:
    """Return the scale (S,) of each share of weights, for codes from -half to half - 1.

    The weight of largest magnitude goes to -half, which one code more can reach than half - 1, so
    scales are negative where that weight is positive. A share of zeros has scale 0.

    Args:
        w_Sk: shares of weights, float32.
        half: half the number of codes.
        h_Sk: their importance, 0 or more; None is 1.
    """
    parts = zip(_chunks(w_Sk), _chunks_or_none(h_Sk, w_Sk), strict=True)
    return torch.cat([_scales(_rows(w), half, None if h is None else _rows(h)) for w, h in parts])


def scales_and_minima(
    w_Sk: Tensor, most: int, with_zero: bool, h_Sk: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return scale and minimum (S,) of each share, for codes from 0 to `most`.

    Args:
        w_Sk: shares of weights, float32.
        most: the greatest code.
        with_zero: the minimum is 0 or less.
        h_Sk: their importance, 0 or more; None is 1.
    """
    found = [
        _scales_and_minima(_rows(w), most, with_zero, None if h is None else _rows(h))
        for w, h in zip(_chunks(w_Sk), _chunks_or_none(h_Sk, w_Sk), strict=True)
    ]
    return torch.cat([scale_S for scale_S, _ in found]), torch.cat([low_S for _, low_S in found])


def over(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is 0 or a / b no finite number."""
    quotient = a / b
    return torch.where(torch.isfinite(quotient), quotient, 0.0)


def by_fours(x_kS: Tensor) -> Tensor:
    """Return the sum over the first dimension: each fourth in turn, then these four by halves.

    A fixed order, which the native kernels have too. k is a multiple of 4.
    """
    sum_4S = x_kS[:4].clone()
    for first in range(4, len(x_kS), 4):
        sum_4S += x_kS[first : first + 4]
    half_2S = sum_4S[:2] + sum_4S[2:]
    return half_2S[0] + half_2S[1]


def _rows(x_Sk: Tensor) -> Tensor:
    return x_Sk.T.contiguous()


def _chunks(w_Sk: Tensor) -> tuple[Tensor, ...]:
    return torch.split(w_Sk, max(1, CHUNK // w_Sk.shape[1]))


def _chunks_or_none(h_Sk: Tensor | None, w_Sk: Tensor) -> tuple[Tensor | None, ...]:
    return (None,) * len(_chunks(w_Sk)) if h_Sk is None else _chunks(h_Sk)


def _steps(codes: int) -> list[float]:
    return _STEPS if codes > _FEW else _STEPS_OF_FEW


def _scales(w_kS: Tensor, half: int, h_kS: Tensor | None) -> Tensor:
    top_S = w_kS.gather(0, w_kS.abs().argmax(dim=0, keepdim=True))[0]
    best_S, gain_S = torch.zeros_like(top_S), torch.zeros_like(top_S)
    hw_kS = w_kS if h_kS is None else w_kS * h_kS

    def attempt(inverse_S: Tensor) -> None:
        codes_kS = (w_kS * inverse_S).round_().clamp_(-half, half - 1)
        wq_S = by_fours(hw_kS * codes_kS)
        squared_kS = codes_kS.square_()
        qq_S = by_fours(squared_kS if h_kS is None else squared_kS.mul_(h_kS))
        scale_S = over(wq_S, qq_S)  # least squares; it lowers the squared error by wq^2 / qq
        better_S = wq_S * scale_S > gain_S
        torch.where(better_S, wq_S * scale_S, gain_S, out=gain_S)
        torch.where(better_S, scale_S, best_S, out=best_S)

    for step in _steps(2 * half):
        attempt(over(torch.full_like(top_S, -(half + step)), top_S))
    if 2 * half <= _FEW:  # the last code of the other side for the largest weight, too
        for step in _steps(2 * half):
            attempt(over(torch.full_like(top_S, half - 1 + step), top_S))
    attempt(over(torch.ones_like(top_S), best_S))
    return best_S


def _scales_and_minima(
    w_kS: Tensor, most: int, with_zero: bool, h_kS: Tensor | None
) -> tuple[Tensor, Tensor]:
    h_S: Tensor | int = len(w_kS) if h_kS is None else by_fours(h_kS)
    low_S, high_S = w_kS.amin(dim=0), w_kS.amax(dim=0)
    if with_zero:
        low_S = low_S.clamp(max=0)
    hw_kS = w_kS if h_kS is None else w_kS * h_kS
    w_S = by_fours(hw_kS)
    error_S = torch.full_like(low_S, float("inf"))
    scale_S, minimum_S = torch.zeros_like(low_S), low_S.clone()

    def attempt(inverse_S: Tensor, start_S: Tensor) -> None:
        codes_kS = ((w_kS - start_S) * inverse_S).round_().clamp_(0, most)
        hq_kS = codes_kS if h_kS is None else codes_kS * h_kS
        q_S, qq_S = by_fours(hq_kS), by_fours(hq_kS * codes_kS)
        wq_S = by_fours(hw_kS * codes_kS)
        spread_S = h_S * qq_S - q_S * q_S
        slope_S = over(h_S * wq_S - w_S * q_S, spread_S)
        offset_S = torch.where(spread_S > 0, over(qq_S * w_S - q_S * wq_S, spread_S), w_S / h_S)
        offset_S = torch.where(torch.isfinite(offset_S), offset_S, 0.0)  # of no importance at all
        if with_zero:
            above_S = offset_S > 0
            slope_S = torch.where(above_S, over(wq_S, qq_S), slope_S)
            offset_S = offset_S.clamp(max=0)
        left_kS = (w_kS - codes_kS * slope_S - offset_S).square_()
        left_S = by_fours(left_kS if h_kS is None else left_kS.mul_(h_kS))
        better_S = (left_S < error_S) & (slope_S >= 0)
        for value_S, kept_S in ((left_S, error_S), (slope_S, scale_S), (offset_S, minimum_S)):
            torch.where(better_S, value_S, kept_S, out=kept_S)

    for step in _steps(most + 1):
        attempt(over(torch.full_like(low_S, most + step), high_S - low_S), low_S)
    attempt(over(torch.ones_like(scale_S), scale_S), minimum_S.clone())
    return scale_S, minimum_S
