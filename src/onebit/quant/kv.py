"""Keys, values and queries of low bits: what attention sees when they are held as codes.

The arithmetic is that of the engine's cache (csrc/cache.cpp, csrc/attention_codes.inl), in float32
and in its order, so that training meets the very values that the engine stores. For every position
and head, over its D numbers, with levels = 2^bits - 1:

    minimum = half(min x)   scale = half((max x - min x) / levels)      half: IEEE half precision
    code = clamp(round((x - minimum) * (1 / scale)), 0, levels)
    value = code * scale + minimum

A key is turned by a Hadamard matrix before it is rounded: a few of its channels are far larger than
the others, and would take the range for themselves. The first position, which all others may look
at, is kept in half precision. All of it happens after RoPE.

Gradients pass straight through. Shape letters: T positions, D numbers of a head.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from onebit.errors import OptionError
from onebit.quant.activation import rounded
from onebit.quant.straight_through import straight_through

BITS = (8, 4, 3, 2)
"""Bits of a key or value that is held as a code; the engine has all but 2."""
_LARGEST = 65504.0  # the largest finite number of half precision


def round_keys(k_TD: Tensor, bits: int, first: bool = True) -> Tensor:
    """Return keys (..., T, D) as a cache of these bits gives them back.

    Args:
        k_TD: any float dtype; the maths is done in float32.
        bits: 8, 4, 3 or 2.
        first: whether position 0 of T is the sequence's first.

    Raises:
        OptionError: other bits.
    """
    turned = turn(k_TD.detach().float())
    return straight_through(k_TD, turn(_held(turned, bits, first)).to(k_TD.dtype))


def round_values(v_TD: Tensor, bits: int, first: bool = True) -> Tensor:
    """Return values (..., T, D) as a cache of these bits gives them back; else as `round_keys`."""
    return straight_through(v_TD, _held(v_TD.detach().float(), bits, first).to(v_TD.dtype))


def round_queries(q_TD: Tensor, bits: int) -> Tensor:
    """Return queries (..., T, D) rounded by the largest magnitude of each token and head.

    The arithmetic is that of the activation rule "int{bits}_absmax".

    Raises:
        OptionError: bits other than 2 to 8.
    """
    codes, scale, _ = rounded(q_TD, f"int{bits}_absmax")
    return straight_through(q_TD, (codes * scale).to(q_TD.dtype))


def round_absmax(x_TD: Tensor, bits: int, first: bool = False) -> Tensor:
    """Return keys or values rounded as the papers do, for comparison; the engine does not.

    scale = max |x| / (2^(bits-1) - 1) for each position and head; the unsigned code is round(x /
    scale) + 2^(bits-1). Half of the codes serve each sign, and no minimum is kept.
    `first` as in `round_keys`.

    Raises:
        OptionError: bits other than 2 to 8.

    Source: BitNet a4.8, section 2.3, https://arxiv.org/abs/2411.04965; BitNet v2, section 2.3,
        https://arxiv.org/abs/2504.18415 ("unsigned integers using the absmax function").
    """
    held = round_queries(x_TD.detach(), bits)
    return straight_through(x_TD, _first_kept(held, x_TD) if first else held)


class Rule(NamedTuple):
    """How keys, and how values, are held."""

    keys: Callable[[Tensor, int], Tensor]
    values: Callable[[Tensor, int], Tensor]


_absmax = partial(round_absmax, first=True)
RULES = {"engine": Rule(round_keys, round_values), "papers": Rule(_absmax, _absmax)}
"""What an attention may take, first position kept; models that run take the engine's."""


def turn(x_TD: Tensor) -> Tensor:
    """Return each head turned by Sylvester's orthonormal matrix; turned twice, it is as before.

    Where D is no power of two, in blocks of the largest one that divides it. float32, with the
    engine's order of additions: the result is equal to the bit.
    """
    size = x_TD.shape[-1] & -x_TD.shape[-1]
    y, h = x_TD, 1
    while h < size:
        a, b = y.reshape(*x_TD.shape[:-1], -1, 2, h).unbind(dim=-2)
        y = torch.stack((a + b, a - b), dim=-2)
        h *= 2
    return y.reshape(x_TD.shape) * torch.tensor(size**-0.5, dtype=torch.float32)


def codes(x_TD: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (..., T, D), whole numbers from 0, scale and minimum (..., T, 1), all float32.

    Keys must be turned before. Scale and minimum are half-precision values.

    Raises:
        OptionError: bits other than 8, 4, 3, 2.
    """
    if bits not in BITS:
        raise OptionError(
            f"kv: keys and values of {bits!r} bits are no codes; accepted: "
            f"{', '.join(map(str, BITS))}."
        )
    levels = x_TD.new_full((), 2.0**bits - 1)
    low = x_TD.amin(dim=-1, keepdim=True).clamp(-_LARGEST, _LARGEST)
    high = x_TD.amax(dim=-1, keepdim=True).clamp(-_LARGEST, _LARGEST)
    scale = torch.div(high - low, levels).half().float()
    minimum = low.half().float()
    factor = torch.where(scale > 0, torch.div(torch.ones_like(scale), scale), 0.0)
    q = ((x_TD - minimum) * factor).round_().clamp_(min=0.0)
    return torch.minimum(q, levels), scale, minimum


def _held(x_TD: Tensor, bits: int, first: bool) -> Tensor:
    q, scale, minimum = codes(x_TD, bits)
    held = q * scale + minimum
    return _first_kept(held, x_TD) if first else held


def _first_kept(held: Tensor, x_TD: Tensor) -> Tensor:
    """Put position 0 of `x_TD` into `held`, in half precision."""
    held[..., :1, :] = x_TD[..., :1, :].half().to(held.dtype)
    return held
