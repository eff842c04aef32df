"""Which grid a linear layer is rounded to: scales and zero-points of its groups, before any code.

Shape letters: N rows, K columns, G groups of a row, k columns of a group.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from onebit import quant
from onebit.errors import InputError, OptionError
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats
from onebit.quant import Codes, clip, span
from onebit.scheme import LinearScheme


class Grid(NamedTuple):
    """Values (code - zero) * scale for codes of so many bits."""

    scale_NG: Tensor
    """float32, of float16 values where there is more than one scale."""
    zero_NG: Tensor
    """Whole float32 numbers, all 0 where the scheme has no zero-point."""
    bits: int
    """Ternary codes are the symmetric ones of 2 bits."""
    symmetric: bool
    """Codes -L ... L with L = 2^(bits-1) - 1 and no zero-point; else all 2^bits codes."""


def grid(w_NK: Tensor, scheme: LinearScheme, stats: Stats | None, options: Options) -> Grid:
    """Return the grid that the scheme has for these weights, its range by `options.clip`.

    Args:
        w_NK: float32, turned already.
        scheme: integers by "absmax" or "zero_point", or "ternary".
        stats: of the inputs, for clips that weigh columns; None weighs all alike.
        options: `clip`; `damping`, added to the weight of a column as GPTQ adds it.

    Raises:
        OptionError: the scheme has another rule, or the clip another form.
        ShapeError: K does not split into the scheme's groups.
        InputError: weights are not finite, or "output" is asked for without statistics.
    """
    if not bool(torch.isfinite(w_NK).all()):
        raise InputError(
            "weights that are not finite. The file is damaged, or the run that made it failed; "
            "take an earlier one."
        )
    if scheme.weight == "ternary":
        scale_NG = quant.quantize_weight(w_NK, _unturned(scheme)).scale_NG
        return Grid(_held(scale_NG, scheme), torch.zeros_like(scale_NG), 2, True)
    if scheme.weight_rule not in ("absmax", "zero_point") or scheme.parts > 1:
        raise OptionError(
            f'scheme: weight "{scheme.weight}" by "{scheme.weight_rule}" (split {scheme.split}) is '
            "no grid for rounding after training; accepted: int2 to int8 by absmax or zero_point, "
            "ternary by absmean, absmedian or least_squares."
        )
    bits, symmetric = bits_of(scheme), scheme.weight_rule == "absmax"
    gram_KK = None if stats is None else stats.gram_KK
    importance_K = None if gram_KK is None else gram_KK.diagonal()
    if importance_K is not None:  # a column that this text leaves dead is not free to be cut
        importance_K = importance_K + options.damping * importance_K.mean()
    scale_S, zero_S = clip.factors(
        w_NK,
        bits,
        quant.group_of(scheme, w_NK.shape[1]),
        symmetric=symmetric,
        rule=options.clip,
        importance_K=importance_K,
        gram_KK=gram_KK,
    )
    N = len(w_NK)
    return Grid(_held(_rows(scale_S, N), scheme), _rows(zero_S, N), bits, symmetric)


def codes(w_NK: Tensor, grid: Grid) -> Codes:
    """Return the codes of the grid nearest to the weights, each by itself."""
    N, G = grid.scale_NG.shape
    w_Sk, scale_S, zero_S = w_NK.reshape(N * G, -1), grid.scale_NG.view(-1), grid.zero_NG.view(-1)
    codes_Sk = span.nearest(w_Sk, scale_S, zero_S, grid.bits, grid.symmetric)
    return with_factors(codes_Sk.view_as(w_NK), grid)


def with_factors(codes_NK: Tensor, grid: Grid) -> Codes:
    """Return codes, whole numbers of any dtype, with the grid's scales and zero-points."""
    zero_NG = None if grid.symmetric else grid.zero_NG.to(torch.int8)
    return Codes(codes_NK.to(torch.int8), grid.scale_NG.contiguous(), zero_NG)


def bits_of(scheme: LinearScheme) -> int:
    """Return the bits of integer weights."""
    return int(scheme.weight.removeprefix("int"))


def _rows(value_S: Tensor, N: int) -> Tensor:
    return value_S.float().expand(N).reshape(N, 1) if value_S.numel() == 1 else value_S.view(N, -1)


def _held(scale_NG: Tensor, scheme: LinearScheme) -> Tensor:
    """Return scales as a file holds them: many of them as float16, a single one as float32."""
    return scale_NG if scheme.weight_scale == "tensor" else span.half(scale_NG)


def _unturned(scheme: LinearScheme) -> LinearScheme:
    return replace(scheme, hadamard="none", signs=0)
