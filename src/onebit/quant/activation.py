"""Activations: the input of a linear layer, rounded anew for every token while the model runs.

The arithmetic is a contract with the native code: float32, IEEE, in exactly this order, so that
both give the same integers. Division by a tensor is on purpose: in torch `127 / m` is
`m.reciprocal() * 127`, which rounds twice.

Shape letters: T tokens (any leading shape), K features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from onebit.errors import OptionError
from onebit.quant.codes import EPSILON


class Activations(NamedTuple):
    """An input as integers: value = code * scale."""

    codes: Tensor
    """The shape of the input. Whole numbers, float32 from `rounded`, int8 from `quantize`."""
    scale: Tensor
    """float32, > 0. The shape of the input with 1 for the last dimension, or 1 throughout."""


def quantize(x: Tensor, kind: str) -> Activations:
    """Round an input by the named rule to int8 codes and a float32 scale.

    Args:
        x: (..., K), any float dtype; the maths is done in float32.
        kind: "int8_absmax", "int8_absmax_tensor" or "int4_absmean".

    Raises:
        OptionError: `kind` is none of these.
    """
    codes, scale = rounded(x, kind)
    return Activations(codes.to(torch.int8), scale)


def rounded(x: Tensor, kind: str) -> Activations:
    """Return what `quantize` does, with the codes still float32: what a float product takes."""
    if kind not in RULES:
        raise OptionError(f"activation: {kind!r} is not a rule; accepted: {', '.join(RULES)}.")
    return RULES[kind](x.detach().float())


def int8_absmax(x: Tensor) -> Activations:
    """Scale each token by its largest magnitude to -127 ... 127.

    Source: BitNet a4.8, equation 3, https://arxiv.org/abs/2411.04965
    """
    return _int8(x, x.abs().amax(dim=-1, keepdim=True))


def int8_absmax_tensor(x: Tensor) -> Activations:
    """Scale the whole input by its largest magnitude to -127 ... 127.

    Source: BitNet, section 2.1 (per tensor while training), https://arxiv.org/abs/2310.11453
    """
    return _int8(x, x.abs().amax().view([1] * x.ndim))


def int4_absmean(x: Tensor) -> Activations:
    """Scale each token by its mean magnitude to -8 ... 7, with sqrt(7) codes to the mean.

    Large values are clipped, which for bell-shaped inputs costs less than wide steps would.

    Source: BitNet a4.8, equation 7, https://arxiv.org/abs/2411.04965
    """
    mean = x.abs().mean(dim=-1, keepdim=True, dtype=torch.float64).float().clamp_(min=EPSILON)
    root = mean.new_full((), 7.0).sqrt_()
    return Activations((x * torch.div(root, mean)).round_().clamp_(-8, 7), mean / root)


def _int8(x: Tensor, largest: Tensor) -> Activations:
    largest = largest.clamp(min=EPSILON)
    steps = largest.new_full((), 127.0)
    # |x| <= largest, so that x * (127 / largest) is at most 127 and a few ulp: it rounds to 127
    # and there is nothing to clamp
    return Activations((x * torch.div(steps, largest)).round_(), torch.div(largest, steps))


RULES: dict[str, Callable[[Tensor], Activations]] = {
    "int8_absmax": int8_absmax,
    "int8_absmax_tensor": int8_absmax_tensor,
    "int4_absmean": int4_absmean,
}
