"""SmoothQuant: outliers of the inputs are moved into the weights, which have room for them.

    s_k = max |x_k|^alpha / max |w_k|^(1 - alpha)        x_k / s_k,  s_k w_k

Alpha 0.5 makes the largest input and the largest weight of every channel equal. Without a given
one, each stage takes the alpha with the least output error after weights and inputs are rounded.

Source: Xiao et al., SmoothQuant, equation 4, https://arxiv.org/abs/2211.10438

Shape letters: N out and K in features.
"""

import torch
from torch import Tensor

from onebit.ptq import channel_scales
from onebit.ptq.method import Block, Method, Stage
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats


def smoothquant(block: Block, stage: Stage, stats: Stats, options: Options) -> None:
    """Scale the channels of a stage's input, and its weights, in place.

    Args:
        block: with float weights; its function stays.
        stage: whose inputs are to be rounded. Where none are, or behind a Hadamard turn, nothing
            is done.
        stats: of those inputs.
        options: `alpha`, or `grid` + 1 values of it from 0 to 1 and no scaling to choose from.
    """
    weights = channel_scales.rounded_linears(block, stage)
    if not weights:
        stats.notes.append("smoothquant: no input whose scales would matter")
        return
    max_abs_K = channel_scales.shared(stats.max_abs_K, block, stage)
    largest_K = torch.stack([w_NK.abs().amax(dim=0) for w_NK, _ in weights]).amax(dim=0)
    largest_K = channel_scales.shared(largest_K, block, stage)

    def scales(alpha: float) -> Tensor:
        return channel_scales.usable(smoothing(max_abs_K, largest_K, alpha))

    alpha = options.alpha
    if alpha is None:
        tries = [(i + 1) / options.grid for i in range(options.grid)]
        plain = channel_scales.output_error(torch.ones_like(max_abs_K), weights, stats.sample_TK)
        alpha, s_K = channel_scales.search(scales, weights, stats.sample_TK, tries)
        if channel_scales.output_error(s_K, weights, stats.sample_TK) >= plain:
            stats.notes.append("smoothquant: no scaling is better")
            return
    stats.notes.append(f"smoothquant: alpha {alpha:.2f}")
    channel_scales.fold(block, stage, stats, scales(alpha))


def smoothing(max_abs_K: Tensor, largest_K: Tensor, alpha: float) -> Tensor:
    """Return the scales of equation 4.

    Args:
        max_abs_K: largest magnitudes of the inputs' channels.
        largest_K: largest magnitudes of the weights' columns.
        alpha: 0 to 1: how much of the difficulty goes to the weights.
    """
    return max_abs_K.pow(alpha) / largest_K.pow(1 - alpha)


METHOD = Method(
    "transform",
    smoothquant,
    frozenset({"alpha", "grid"}),
    calibrates=True,
    rounds_with="rtn",
)
