"""Weights in blocks of a file format, rounded for what the file holds.

Codes of q8_0 come out equal to ggml's to the bit, so that a file written here and one written there
are the same file. In the smaller formats a search finds the scales (`search.py`), with an error
below that of ggml's own quantizers; the codes are the nearest to what the file's factors can say.

    FORMATS["q6_k"](w)      Codes that pack.FORMATS["q6_k"] packs as they are

Shape letters as in `codes.py`; B blocks of g groups.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from onebit.quant import search
from onebit.quant.codes import Codes, join, split

BLOCK = 32
K_BLOCK = 256
TINY = torch.finfo(torch.float32).tiny  # below it, 1 / d overflows; float16 holds 0 for d anyway


def q8_0(w_NK: Tensor) -> Codes:
    """Round weights to int8 per 32 columns, as ggml's Q8_0.

    With d = max|w| / 127 in float32, a code is w * (1 / d) rounded half away from zero. The scale
    is d as the file holds it, rounded to float16 after the codes were taken.

    Args:
        w_NK: weights, any float dtype; K is a multiple of 32.

    Returns:
        Codes with G = K // 32; every scale is a float16 value.

    Raises:
        ShapeError: not a matrix, or K is not a multiple of 32.

    Source: ggml, quantize_row_q8_0_ref, https://github.com/ggml-org/ggml
    """
    w_Sk = split("blockwise.q8_0", w_NK, BLOCK)
    d_S = w_Sk.abs().amax(dim=1) / 127
    inverse_S = torch.where(d_S >= TINY, d_S.reciprocal(), 0)
    codes_Sk = _round_half_away(w_Sk * inverse_S[:, None])
    return join(w_NK.shape, codes_Sk, d_S.half())


def symmetric(name: str, half: int) -> Callable[[Tensor], Codes]:
    """Return the rounding of ggml's Q4_0 (half 8) and Q5_0 (16): per 32 columns, a float16 scale.

    Codes go from -half to half - 1. The functions raise ShapeError as `q8_0` does.
    """

    def rounded(w_NK: Tensor) -> Codes:
        w_Sk = split(f"blockwise.{name}", w_NK, BLOCK)
        scale_S = search.scales(w_Sk, half).half().float()
        return join(w_NK.shape, _nearest(w_Sk, scale_S, -half, half - 1), scale_S)

    return rounded


def with_minimum(name: str, most: int) -> Callable[[Tensor], Codes]:
    """Return the rounding of Q4_1 (most 15) and Q5_1 (31): float16 scale and minimum per 32."""

    def rounded(w_NK: Tensor) -> Codes:
        w_Sk = split(f"blockwise.{name}", w_NK, BLOCK)
        found = search.scales_and_minima(w_Sk, most, with_zero=False)
        scale_S, minimum_S = (value_S.half().float() for value_S in found)
        codes_Sk = _nearest(w_Sk, scale_S, 0, most, minimum_S)
        return join(w_NK.shape, codes_Sk, scale_S, minimum_S=minimum_S)

    return rounded


def k_with_minimum(name: str, most: int) -> Callable[[Tensor], Codes]:
    """Return the rounding of Q4_K (most 15) and Q5_K (31).

    Blocks of 256: groups of 32 whose scales and minima are 0..63 times the block's two float16.
    """

    def rounded(w_NK: Tensor) -> Codes:
        split(f"blockwise.{name}", w_NK, K_BLOCK)  # the width
        w_Sk = split(f"blockwise.{name}", w_NK, BLOCK)
        scale_S, minimum_S = search.scales_and_minima(w_Sk, most, with_zero=True)
        scale_S, minimum_S = _multiples(scale_S), -_multiples(-minimum_S)
        codes_Sk = _nearest(w_Sk, scale_S, 0, most, minimum_S)
        return join(w_NK.shape, codes_Sk, scale_S, minimum_S=minimum_S)

    return rounded


def q6_k(w_NK: Tensor) -> Codes:
    """Round weights to -32..31 per 16 columns, as Q6_K: scales are int8 times a float16 per 256."""
    split("blockwise.q6_k", w_NK, K_BLOCK)  # the width
    w_Sk = split("blockwise.q6_k", w_NK, 16)
    scale_Bg = search.scales(w_Sk, 32).view(-1, 16)
    top_B1 = scale_Bg.gather(1, scale_Bg.abs().argmax(dim=1, keepdim=True))
    d_B1 = _factor(top_B1, -128)
    scale_S = (search.over(scale_Bg, d_B1).round().clamp(-128, 127) * d_B1).view(-1)
    return join(w_NK.shape, _nearest(w_Sk, scale_S, -32, 31), scale_S)


FORMATS: dict[str, Callable[[Tensor], Codes]] = {
    "q8_0": q8_0,
    "q6_k": q6_k,
    "q5_k": k_with_minimum("q5_k", 31),
    "q5_1": with_minimum("q5_1", 31),
    "q5_0": symmetric("q5_0", 16),
    "q4_k": k_with_minimum("q4_k", 15),
    "q4_1": with_minimum("q4_1", 15),
    "q4_0": symmetric("q4_0", 8),
}
"""Float weights -> what the format of this name holds."""


def _multiples(value_S: Tensor) -> Tensor:
    """Return values of 0 or more as q4_k holds them: 0..63 times a float16, one for 8 of them."""
    value_Bg = value_S.view(-1, K_BLOCK // BLOCK)
    d_B1 = _factor(value_Bg.amax(dim=1, keepdim=True), 63)
    return (search.over(value_Bg, d_B1).round().clamp(0, 63) * d_B1).view(-1)


def _factor(top_B1: Tensor, most: int) -> Tensor:
    """Return the float16 nearest to top / most, or the next larger one where top would be cut off.

    It is below 6e-5, where float16's steps are 6e-8, that the nearest can be much too small, or 0.
    """
    d_B1 = (top_B1 / most).half()
    short_B1 = top_B1.abs() > (abs(most) + 0.5) * d_B1.float().abs()
    # one more in its bits is the next float16 away from 0, of either sign
    return (d_B1.view(torch.int16) + short_B1.short()).view(torch.float16).float()


def _nearest(
    w_Sk: Tensor, scale_S: Tensor, least: int, most: int, minimum_S: Tensor | None = None
) -> Tensor:
    """Return the code whose value is nearest, and that of 0 where the scale is 0."""
    inverse_S1 = search.over(torch.ones_like(scale_S), scale_S)[:, None]
    from_Sk = w_Sk if minimum_S is None else w_Sk - minimum_S[:, None]
    return (from_Sk * inverse_S1).round().clamp(least, most)


def _round_half_away(x: Tensor) -> Tensor:
    """C's roundf. x - trunc(x) is exact, where adding one half first would itself round."""
    whole = x.trunc()
    return whole + (x - whole).abs().ge(0.5) * x.sign()
