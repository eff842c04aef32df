"""QuaRot: random Hadamard rotations, so that no channel of an input is far larger than the others.

Folded into the weights (`rotate`): the residual stream by H diag(s), and each head's values by one
of their own. What no weight can take, because something not linear stands in front, is turned while
the model runs, by the scheme: `hadamard = "both"` on the attention output and the down projection.
Keys are turned in the cache, behind RoPE, wherever a scheme rounds them (`quant.kv`).

The turn in front of `o_proj` spans all heads, so it does what the paper's half turn across heads
does, whatever the values were turned by before; its random signs keep it from undoing that. The
values' own rotation is for the cache.

Source: Ashkboos et al., QuaRot, sections 3 and 4, https://arxiv.org/abs/2404.00456

Shape letters: C model width, D numbers of a head.
"""

from dataclasses import replace

import torch
from torch import Tensor

from onebit import hadamard, quant
from onebit.architecture import Architecture
from onebit.ptq.calibration import Calibration
from onebit.ptq.method import Aside, Method
from onebit.ptq.options import Options
from onebit.ptq.rotate import Rotated, Turns, turns_stream
from onebit.ptq.source import Source
from onebit.scheme import LinearScheme, Scheme, role_of
from onebit.tensors import linears

ONLINE = ("o_proj", "down_proj")
"""Linears whose input no folded rotation reaches."""


def quarot(
    source: Source,
    scheme: Scheme,
    calibration: Calibration | None,
    options: Options,
    aside: Aside = Aside(),  # noqa: B008
) -> tuple[Source, Scheme]:
    """Return the rotated model, and the scheme with the turns that are left to be done online.

    Where the stream cannot be turned (`rotate.turns_stream`), every linear's input is turned online
    instead: the same numbers are rounded, for an extra transform in each.

    Args:
        source: the float model.
        scheme: of the result. Linears that stay float, or go into blocks of ggml, are not turned.
        calibration, aside: not looked at.
        options: `seed` of the signs.
    """
    a = source.architecture
    rotated = Rotated(source, random_turns(a, options.seed))
    return rotated, online(scheme, a, options.seed)


def random_turns(a: Architecture, seed: int) -> Turns:
    """Return the Hadamard matrices with random signs for a model, of its stream if it has any."""
    residual_CC = randomized(a.hidden_size, _sign_seed(seed, 1)) if turns_stream(a) else None
    first = _sign_seed(seed, 2)
    values = (
        []
        if a.sub_norms
        else [randomized(a.head_dim, first + layer) for layer in range(a.num_hidden_layers)]
    )
    return Turns(residual_CC, values)


def randomized(size: int, seed: int) -> Tensor:
    """Return Q, orthogonal, so that x Q is H diag(s) x for each row x; s random signs."""
    signs = torch.from_numpy(hadamard.signs(seed, size))
    return quant.hadamard.transform(torch.eye(size), signs)


def online(scheme: Scheme, a: Architecture, seed: int) -> Scheme:
    """Return the scheme with `hadamard = "both"` where folded rotations do not reach.

    Linears of float weights are not turned: "both" is for weights that are rounded. Turned inputs
    of 4 bits are scaled by their mean magnitude in place of their largest: they are bell-shaped,
    and a range that clips the ends has less error.
    """
    wanted = {}
    for linear in linears(a):
        old = new = scheme.linear(linear.name)
        if not linear.name.startswith("model.layers."):
            continue
        folded = turns_stream(a) and not linear.name.endswith(ONLINE)
        if not folded and old.weight != "fp" and old.hadamard == "none":
            new = replace(new, hadamard="both", signs=_sign_seed(seed, 0))
        if (folded or new.hadamard != "none") and new.activation == "int4_absmax":
            new = replace(new, activation="int4_absmean")
        if new != old:
            wanted[linear.name] = new
    return replace(scheme, layers=_with(scheme, a, wanted))


def _with(
    scheme: Scheme, a: Architecture, wanted: dict[str, LinearScheme]
) -> dict[str, LinearScheme]:
    """Return the scheme's layers with those of `wanted`: by role if that says it, else by name."""
    shorter = {**scheme.layers, **{role_of(name): linear for name, linear in wanted.items()}}
    by_role = replace(scheme, layers=shorter)
    if all(by_role.linear(x.name) == wanted.get(x.name, scheme.linear(x.name)) for x in linears(a)):
        return shorter
    return {**wanted, **scheme.layers}


def _sign_seed(seed: int, use: int) -> int:
    """Return the seed of some signs, never 0, which would be none."""
    return (seed * 3 + use) * 65_537 % (1 << 32) + 1


METHOD = Method("rotation", quarot, frozenset({"seed"}), rounds_with="gptq")
