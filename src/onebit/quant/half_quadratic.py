"""Integer weights whose errors are sparse, not small: half-quadratic splitting, without any input.

A few weights far out need not be met well. So what is least here is sum |w - v|^p with p < 1, which
forgives large errors and presses small ones to 0. It is split in two that are easy, in turn:

    e = shrink(w - v)               the error that is let be: |x| less |x|^(p-1) / beta, not below 0
    scale, zero of w - e            least squares, beta growing

Departures from the published code: errors are measured in steps of their own share, so that beta
means the same for weights of any size; the scale is fitted too, not the zero-point alone; the
zero-point is a whole number, as files hold it; every share keeps its best turn, where the published
code stops all at once.

The start is the whole range, as there. From ranges cut shorter the sum becomes smaller still, and
models far worse: it forgives exactly the few large weights that they cannot do without.

Shape letters: S shares of k weights each.

Source: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023,
    https://mobiusml.github.io/hqq_blog/
"""

import torch
from torch import Tensor

from onebit.errors import OptionError
from onebit.quant import search, span
from onebit.quant.codes import Codes, join, split

ITERATIONS = 20
POWER = 0.7
_BETA, _GROWTH = 10.0, 1.05
_CHUNK = 1 << 18


def quantize(
    w_NK: Tensor,
    bits: int,
    group: int | None = None,
    *,
    symmetric: bool = False,
    iterations: int = ITERATIONS,
) -> Codes:
    """Round weights to integers with a small sum of |error|^0.7.

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        bits: 2 to 8.
        group: columns that share a scale; K is a scale per row; None is one for the matrix.
        symmetric: codes -L ... L with L = 2^(bits-1) - 1 and no zero-point; else all 2^bits codes.
        iterations: rounds of fitting.

    Returns:
        Codes whose scales are float16 values. The sum is never above that of the whole range.

    Raises:
        OptionError: bits is not 2 to 8.
        ShapeError: not a matrix, or K is not a multiple of `group`.
        InputError: a scale does not fit float16.
    """
    if bits not in range(2, 9):
        raise OptionError(f"half_quadratic: {bits!r} bits; accepted: a whole number from 2 to 8.")
    w_Sk = split("half_quadratic.quantize", w_NK, group)
    parts = torch.split(w_Sk, max(1, _CHUNK // w_Sk.shape[1]))
    found = [_factors(part_Sk, bits, symmetric, iterations) for part_Sk in parts]
    scale_S, zero_S = (torch.cat(values) for values in zip(*found, strict=True))
    codes_Sk = span.nearest(w_Sk, scale_S, zero_S, bits, symmetric)
    return join(w_NK.shape, codes_Sk, scale_S, None if symmetric else zero_S)


def shrink(x: Tensor, beta: float) -> Tensor:
    """Return what of an error, in steps, is let be: the proximal step of |x|^0.7 / beta."""
    return x.sign() * (x.abs() - x.abs().clamp(min=1e-8) ** (POWER - 1) / beta).clamp_(min=0)


def _factors(w_Sk: Tensor, bits: int, symmetric: bool, iterations: int) -> tuple[Tensor, Tensor]:
    low_S, high_S = w_Sk.amin(dim=1).clamp(max=0), w_Sk.amax(dim=1).clamp(min=0)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale_S, zero_S = span.of_range(low_S, high_S, bits, symmetric)
    best_scale_S, best_zero_S = scale_S, zero_S
    best_S = torch.full_like(low_S, float("inf"))
    beta = _BETA
    for turn in range(iterations + 1):
        codes_Sk = span.nearest(w_Sk, scale_S, zero_S, bits, symmetric)
        step_Sk = codes_Sk - zero_S[:, None]
        miss_Sk = w_Sk - step_Sk * scale_S[:, None]
        sum_S = (miss_Sk.abs() ** POWER).sum(dim=1)
        better_S = sum_S < best_S
        best_S = torch.where(better_S, sum_S, best_S)
        best_scale_S = torch.where(better_S, scale_S, best_scale_S)
        best_zero_S = torch.where(better_S, zero_S, best_zero_S)
        if turn == iterations:
            break
        target_Sk = w_Sk - shrink(miss_Sk / scale_S[:, None], beta) * scale_S[:, None]
        new_S = search.over((step_Sk * target_Sk).sum(dim=1), step_Sk.square().sum(dim=1))
        scale_S = torch.where(new_S > 0, span.half(new_S), scale_S)
        if not symmetric:
            zero_S = (codes_Sk - target_Sk / scale_S[:, None]).mean(dim=1).round_()
            zero_S = zero_S.clamp_(least, most)
        beta *= _GROWTH
    return best_scale_S, best_zero_S
