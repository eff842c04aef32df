"""Weights in blocks of a file format, rounded for what the file holds.

Codes of q8_0 come out equal to ggml's to the bit, so that a file written here and one written there
are the same file. In the smaller formats a search finds the scales (`search.py`), with an error
below that of ggml's own quantizers; the codes are the nearest to what the file's factors can say.

    FORMATS["q6_k"](w)                  Codes that pack.FORMATS["q6_k"] packs as they are
    FORMATS["q6_k"](w, importance)      columns weighed, for instance by their inputs' mean square

Shape letters as in `codes.py`; B blocks of g groups.
"""

from typing import Protocol

import torch
from torch import Tensor

from onebit.errors import InputError, ShapeError
from onebit.quant import k_factors, search, ternary
from onebit.quant.codes import Codes, join, split

BLOCK = 32
K_BLOCK = 256
TINY = torch.finfo(torch.float32).tiny  # below it, 1 / d overflows; float16 holds 0 for d anyway
_FLOOR = 1e-6
"""Of the mean importance, that every column has at least."""


class BlockQuantizer(Protocol):
    """What rounds weights (N, K) to a block format; `importance_K` weighs the squared errors."""

    def __call__(self, w_NK: Tensor, importance_K: Tensor | None = None) -> Codes: ...


def q8_0(w_NK: Tensor, importance_K: Tensor | None = None) -> Codes:
    """Round weights to int8 per 32 columns, as ggml's Q8_0.

    With d = max|w| / 127 in float32, a code is w * (1 / d) rounded half away from zero. The scale
    is d as the file holds it, rounded to float16 after the codes were taken.

    Args:
        w_NK: weights, any float dtype; K is a multiple of 32.
        importance_K: not used: ggml knows none here, and the error is small.

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


def symmetric(name: str, half: int) -> BlockQuantizer:
    """Return the rounding of ggml's Q4_0 (half 8) and Q5_0 (16): per 32 columns, a float16 scale.

    Codes go from -half to half - 1. The functions raise ShapeError as `q8_0` does.
    """

    def rounded(w_NK: Tensor, importance_K: Tensor | None = None) -> Codes:
        w_Sk = split(f"blockwise.{name}", w_NK, BLOCK)
        h_Sk = _shares(importance_K, w_NK, BLOCK)
        scale_S = search.scales(w_Sk, half, h_Sk).half().float()
        return join(w_NK.shape, _nearest(w_Sk, scale_S, -half, half - 1), scale_S)

    return rounded


def with_minimum(name: str, most: int) -> BlockQuantizer:
    """Return the rounding of Q4_1 (most 15) and Q5_1 (31): float16 scale and minimum per 32."""

    def rounded(w_NK: Tensor, importance_K: Tensor | None = None) -> Codes:
        w_Sk = split(f"blockwise.{name}", w_NK, BLOCK)
        h_Sk = _shares(importance_K, w_NK, BLOCK)
        found = search.scales_and_minima(w_Sk, most, with_zero=False, h_Sk=h_Sk)
        scale_S, minimum_S = (value_S.half().float() for value_S in found)
        codes_Sk = _nearest(w_Sk, scale_S, 0, most, minimum_S)
        return join(w_NK.shape, codes_Sk, scale_S, minimum_S=minimum_S)

    return rounded


def k_quant(name: str, grid: k_factors.Grid) -> BlockQuantizer:
    """Return the rounding of Q2_K to Q6_K: blocks of 256, in groups with small integer scales."""

    def rounded(w_NK: Tensor, importance_K: Tensor | None = None) -> Codes:
        w_Bgk = split(f"blockwise.{name}", w_NK, K_BLOCK).view(
            -1, K_BLOCK // grid.group, grid.group
        )
        h_Bk = _shares(importance_K, w_NK, K_BLOCK)
        h_Bgk = None if h_Bk is None else h_Bk.view(w_Bgk.shape)
        factors = k_factors.fit(w_Bgk, h_Bgk, grid)
        codes_kBg = k_factors.nearest(w_Bgk.permute(2, 0, 1), factors, grid.codes)
        low_Bg = factors.minimum_Bg
        return join(
            w_NK.shape,
            codes_kBg.permute(1, 2, 0).contiguous(),
            factors.scale_Bg.reshape(-1),
            minimum_S=None if low_Bg is None else low_Bg.reshape(-1),
        )

    return rounded


def ternary_block(name: str) -> BlockQuantizer:
    """Return the rounding of TQ1_0 and TQ2_0: ternary, a float16 scale per 256 columns.

    Both the codes and the scale are those of least error, where ggml takes the largest magnitude
    for the scale, which only weights that are ternary already survive.
    """

    def rounded(w_NK: Tensor, importance_K: Tensor | None = None) -> Codes:
        w_Sk = split(f"blockwise.{name}", w_NK, K_BLOCK)
        h_Sk = _shares(importance_K, w_NK, K_BLOCK)
        scale_S = ternary.best_scale(w_Sk, h_Sk).half().float()
        return join(w_NK.shape, _nearest(w_Sk, scale_S, -1, 1), scale_S)

    return rounded


GRIDS = {
    "q6_k": k_factors.Grid(16, (-32, 31), (-128, 127), False),
    "q5_k": k_factors.Grid(32, (0, 31), (0, 63), True),
    "q4_k": k_factors.Grid(32, (0, 15), (0, 63), True),
    "q3_k": k_factors.Grid(16, (-4, 3), (-32, 31), False),
    "q2_k": k_factors.Grid(16, (0, 3), (0, 15), True),
}
FORMATS: dict[str, BlockQuantizer] = {
    "q8_0": q8_0,
    "q6_k": k_quant("q6_k", GRIDS["q6_k"]),
    "q5_k": k_quant("q5_k", GRIDS["q5_k"]),
    "q5_1": with_minimum("q5_1", 31),
    "q5_0": symmetric("q5_0", 16),
    "q4_k": k_quant("q4_k", GRIDS["q4_k"]),
    "q4_1": with_minimum("q4_1", 15),
    "q4_0": symmetric("q4_0", 8),
    "q3_k": k_quant("q3_k", GRIDS["q3_k"]),
    "q2_k": k_quant("q2_k", GRIDS["q2_k"]),
}
"""Float weights, and the importance of their columns -> what the format of this name holds."""

TERNARY: dict[str, BlockQuantizer] = {
    "tq2_0": ternary_block("tq2_0"),
    "tq1_0": ternary_block("tq1_0"),
}
"""The same for the blocks that hold ternary codes."""


def relative_importance(importance_K: Tensor | None, w_NK: Tensor) -> Tensor | None:
    """Return the importance (K,) of columns around 1, float32, or None.

    Raises:
        ShapeError: it is not one number for each column.
        InputError: a number is negative or not finite.
    """
    if importance_K is None:
        return None
    if importance_K.shape != w_NK.shape[1:]:
        raise ShapeError(
            f"importance of shape {tuple(importance_K.shape)} for {w_NK.shape[1]} columns. Pass "
            "one number for each column."
        )
    h_K = importance_K.float()
    if not bool((torch.isfinite(h_K) & (h_K >= 0)).all()):
        raise InputError("importance: accepted are finite numbers of 0 or more. Calibrate again.")
    mean = h_K.mean()
    # only ratios count: around 1, no sum of squares leaves float32; and no column counts nothing
    return h_K / mean + _FLOOR if mean > 0 else torch.ones_like(h_K)


def _shares(importance_K: Tensor | None, w_NK: Tensor, columns: int) -> Tensor | None:
    """Return the importance of each weight in shares of `columns`, or None."""
    h_K = relative_importance(importance_K, w_NK)
    return None if h_K is None else split("importance", h_K.expand(w_NK.shape), columns)


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
