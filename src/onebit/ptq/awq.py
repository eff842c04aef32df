"""AWQ: weights that meet large inputs are made larger before they are rounded, and so matter less
to their step.

    s_k = mean |x_k|^alpha,  W' = Q(W diag(s)) diag(1/s)

and alpha is the one with the least output error over the calibration rows. The paper's search for
clipped ranges is the option `clip = "output"` of the rounding that follows.

Source: Lin et al., AWQ, section 3.2 and equations 4 and 5, https://arxiv.org/abs/2306.00978

Shape letters: K in features.
"""

from torch import Tensor

from onebit.ptq import channel_scales
from onebit.ptq.method import Block, Method, Stage
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats


def awq(block: Block, stage: Stage, stats: Stats, options: Options) -> None:
    """Scale the weights of a stage by how large their inputs are, in place.

    Args:
        block: with float weights; its function stays.
        stage: whose weights are to be rounded; behind a Hadamard turn nothing is done.
        stats: of its inputs.
        options: `alpha`, or `grid` values of it from 0 on to choose from.
    """
    weights = channel_scales.rounded_linears(block, stage)
    if not weights:
        stats.notes.append("awq: no input whose scales would matter")
        return
    mean_abs_K = channel_scales.shared(stats.mean_abs_K, block, stage)

    def scales(alpha: float) -> Tensor:
        return channel_scales.usable(mean_abs_K.pow(alpha))

    given = options.alpha
    tries = [i / options.grid for i in range(options.grid)] if given is None else [given]
    alpha, s_K = channel_scales.search(scales, weights, stats.sample_TK, tries)
    stats.notes.append(f"awq: alpha {alpha:.2f}")
    channel_scales.fold(block, stage, stats, s_K)


METHOD = Method(
    "transform",
    awq,
    frozenset({"alpha", "grid"}),
    calibrates=True,
    rounds_with="rtn",
)
