"""Scales for the channels of an input, folded into what is in front of it and behind it.

y = W x = (W diag(s)) (diag(1/s) x): the columns of the weights grow by s, and what makes the input
(a norm's weights, or the rows of a linear) shrinks by it. The float function stays; what is rounded
changes. `smoothquant` and `awq` differ in which s they try; here is how one is tried, and folded.

Shape letters: T tokens, N out and K in features of a linear, J key/value heads.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from onebit import quant
from onebit.ptq.method import Block, Stage
from onebit.ptq.stats import Stats
from onebit.scheme import LinearScheme

_SMALLEST = 1e-4
"""A scale below it would lift what it divides beyond reason."""

Weights = Sequence[tuple[Tensor, LinearScheme]]


def rounded_linears(block: Block, stage: Stage) -> Weights:
    """Return weights and schemes of the stage's linears that are rounded where scales can help.

    Behind an online Hadamard turn there are no channels left to scale.
    """
    targets = [(block.linear(name), block.targets[name]) for name in stage.linears]
    if any(scheme.hadamard != "none" for _, scheme in targets):
        return []
    return [(module.weight.detach(), how) for module, how in targets if how.weight != "fp"]


def search(
    scales: Callable[[float], Tensor], weights: Weights, x_TK: Tensor, exponents: Sequence[float]
) -> tuple[float, Tensor]:
    """Return the exponent of the least output error after rounding, and its scales.

    Args:
        scales: exponent -> s (K,).
        weights: of the linears of one input, and how each is rounded.
        x_TK: rows of that input.
        exponents: to try; the first of equals is taken. 0 should be among them.
    """
    tried = [(exponent, scales(exponent)) for exponent in exponents]
    errors = [output_error(s_K, weights, x_TK) for _, s_K in tried]
    return tried[min(range(len(tried)), key=errors.__getitem__)]


def output_error(s_K: Tensor, weights: Weights, x_TK: Tensor) -> float:
    """Return |Q(W s) Q(x / s) - W x|^2 over the linears; inputs are rounded where they will be."""
    error = 0.0
    for w_NK, scheme in weights:
        codes = quant.quantize_weight(w_NK * s_K, scheme)
        given_TK = x_TK / s_K
        if scheme.activation != "fp":
            given_TK = quant.activation.dequantize(_rounded(given_TK, scheme.activation))
        out_TN = given_TK @ quant.dequantize(codes).T - x_TK @ w_NK.T
        error += float(out_TN.square().sum())
    return error


def usable(s_K: Tensor) -> Tensor:
    """Return positive scales, brought to a range around 1; channels that are always 0 get 1."""
    live_K = torch.isfinite(s_K) & (s_K > 0)
    if not bool(live_K.any()):
        return torch.ones_like(s_K)
    middle = (s_K[live_K].max() * s_K[live_K].min()).sqrt()
    return torch.where(live_K, (s_K / middle).clamp(_SMALLEST, 1 / _SMALLEST), 1.0)


def shared(of_K: Tensor, block: Block, stage: Stage) -> Tensor:
    """Return a measure of the channels made equal, by its largest, where one row feeds several.

    Query heads that share a value head get their inputs from the same rows of v.
    """
    rows = len(_before(block, stage)[0])
    if rows == len(of_K):
        return of_K
    heads_JGD = _heads(of_K, block, rows)
    return heads_JGD.amax(dim=1, keepdim=True).expand_as(heads_JGD).reshape(-1)


@torch.no_grad()
def fold(block: Block, stage: Stage, stats: Stats, s_K: Tensor) -> None:
    """Multiply the columns of the stage's linears by s, and divide what makes their input by it.

    The statistics of that input become those of the scaled one.
    """
    for of_K in (stats.mean_K, stats.mean_abs_K, stats.max_abs_K, stats.min_K, stats.max_K):
        of_K.div_(s_K)
    stats.sample_TK.div_(s_K)
    if stats.gram_KK is not None:
        stats.gram_KK.div_(s_K).div_(s_K[:, None])
    for name in stage.linears:
        block.linear(name).weight.mul_(s_K)
    weight, bias = _before(block, stage)
    s_N = s_K if len(weight) == len(s_K) else _heads(s_K, block, len(weight))[:, 0].reshape(-1)
    weight.div_(s_N if weight.ndim == 1 else s_N[:, None])
    if bias is not None:
        bias.div_(s_N)


def _before(block: Block, stage: Stage) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of what makes the stage's input: a norm, or a linear."""
    module = block.layer.get_submodule(stage.before)
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    return weight, bias


def _heads(of_K: Tensor, block: Block, rows: int) -> Tensor:
    """Return (J, query heads of each, D)."""
    D = block.layer.self_attn.head_dim
    return of_K.view(rows // D, -1, D)


def _rounded(x_TK: Tensor, kind: str) -> quant.activation.Activations:
    return quant.activation.rounded(x_TK, per_token(kind))


def per_token(kind: str) -> str:
    """Return the rule that gives each token its own scale where a static one is not known yet."""
    bits, static, _ = kind.partition("_static")
    return f"{bits}_absmax" if static else kind
