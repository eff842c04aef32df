"""ggml's block formats, Q2_K to Q8_0 and TQ1_0, TQ2_0, with the importance of each column.

The importance is what llama.cpp's imatrix holds: the mean square of what enters a column. Without
calibration all columns count alike. What is least is exactly the sum of importance times squared
error, in ggml's formats; both, the plain error and that sum, come out below ggml's own quantizers.

With `iterations`, the codes are then chosen anew under the fixed factors of the blocks, so that
columns make up for one another (`quant.descent`). That lowers the error of the layer's output,
which is what counts, and raises that of the weights. No file of ggml's tools has this.

Source: https://github.com/ggml-org/llama.cpp, ggml/src/ggml-quants.c and tools/imatrix

Shape letters: N rows, K columns, G groups of k columns each.
"""

import torch
from torch import Tensor

from onebit.errors import InputError, OptionError, ShapeError
from onebit.nn import native_blocks
from onebit.ptq import native_columns
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats
from onebit.quant import Codes, descent
from onebit.scheme import LinearScheme

FORMATS = {**native_blocks.FORMATS, **native_blocks.TERNARY}
"""Name of a format -> what rounds to it."""
_RANGE = {
    **{"q8_0": (-127, 127), "q6_k": (-32, 31), "q5_k": (0, 31), "q5_1": (0, 31), "q5_0": (-16, 15)},
    **{"q4_k": (0, 15), "q4_1": (0, 15), "q4_0": (-8, 7), "q3_k": (-4, 3), "q2_k": (0, 3)},
    **dict.fromkeys(native_blocks.TERNARY, (-1, 1)),
}


def kquants(w_NK: Tensor, scheme: LinearScheme, stats: Stats | None, options: Options) -> Codes:
    """Round a layer's weights to the block format `options.format`.

    Args:
        w_NK: float weights.
        scheme: not used: a layer in such blocks is "fp" to it.
        stats: of the inputs; their mean squares are the importance. None weighs all alike.
        options: `format`, `damping` and `iterations` (sweeps; 0 is none).

    Raises:
        OptionError: the format is none of `FORMATS`.
        ShapeError: its blocks do not divide K, or the statistics are another layer's.
        InputError: weights that are not finite, or too large for float16 scales.
    """
    if options.format not in FORMATS:
        raise OptionError(
            f"kquants: format is {options.format!r:.40}; accepted: {', '.join(FORMATS)}."
        )
    w_NK = w_NK.detach().float()
    if not bool(torch.isfinite(w_NK).all()):
        raise InputError(
            "kquants: weights that are not finite. The file is damaged, or the run that made it "
            "failed; take an earlier one."
        )
    rounded = FORMATS[options.format](w_NK, None if stats is None else importance(stats))
    factors = [factor for factor in (rounded.scale_NG, rounded.minimum_NG) if factor is not None]
    if not all(bool(torch.isfinite(factor).all()) for factor in factors):
        raise InputError(
            f"kquants: {options.format} holds scales as float16, and weights of "
            f"{float(w_NK.abs().max()):g} do not fit. Choose f16 or f32 for this layer."
        )
    if stats is None or not options.iterations:
        return rounded
    return _swept(w_NK, rounded, stats, options)


def importance(stats: Stats) -> Tensor:
    """Return the mean square (K,) of what enters each column: of all tokens, or of the sample."""
    if stats.gram_KK is not None:
        return stats.gram_KK.diagonal()
    return stats.sample_TK.float().square().mean(dim=0)


def _swept(w_NK: Tensor, rounded: Codes, stats: Stats, options: Options) -> Codes:
    """Choose the codes anew, column by column, as long as the output's error falls."""
    K = w_NK.shape[1]
    if stats.gram().shape != (K, K):
        raise ShapeError(
            f"kquants: a Gram matrix of shape {tuple(stats.gram().shape)} for {K} columns. Pass "
            f"({K}, {K})."
        )
    gram_KK = descent.damped(stats.gram(), options.damping)
    codes = _RANGE[options.format]
    return descent.improved(
        w_NK, rounded, gram_KK, codes, options.iterations, False, native_columns.sweeping()
    )


METHOD = Method("rounding", kquants, frozenset({"format", "damping", "iterations"}), gram=True)
