"""Codes: small integers and the factors that turn them back into weights.

Everything that rounds returns this one type, so that a weight is rounded once and its codes and
scale travel together from there to the file: value = code * scale, always multiplied.

Shape letters in this package: N out features (rows), K in features (columns), G groups of a row,
T tokens; S shares of k weights each, a share being what has one scale (the matrix, a row, or a
group of columns of a row).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from onebit.errors import ShapeError

EPSILON = 1e-5
"""The smallest ternary scale: an all-zero share must not divide by zero. As in BitNet's code."""


class Codes(NamedTuple):
    """Integer codes and their factors: value = (code - zero) * scale (+ minimum)."""

    codes_NK: Tensor
    """int8."""
    scale_NG: Tensor
    """float32, not negative. G divides K: each scale serves K // G columns in a row."""
    zero_NG: Tensor | None = None
    """int8: the code that stands for 0. None is 0, the symmetric case."""
    minimum_NG: Tensor | None = None
    """float32: what is added, in the block formats that have a minimum. None is 0."""


def dequantize(q: Codes) -> Tensor:
    """Return the float32 weights that the codes stand for, (N, K)."""
    N, K = q.codes_NK.shape
    codes_NGk = q.codes_NK.float().view(N, q.scale_NG.shape[1], -1)
    if q.zero_NG is not None:
        codes_NGk = codes_NGk - q.zero_NG[..., None]
    w_NGk = codes_NGk * q.scale_NG[..., None]
    if q.minimum_NG is not None:
        w_NGk = w_NGk + q.minimum_NG[..., None]
    return w_NGk.view(N, K)


def fewest_scales(q: Codes) -> Codes:
    """Return codes of the same values with one scale per row, if the groups of each row allow it.

    Formats with a scale per block repeat one scale, and give blocks of zeros any scale at all,
    often 0; zero codes do not care. Codes without a zero-point or minimum.
    """
    N, G = q.scale_NG.shape
    live_NG = q.codes_NK.view(N, G, -1).ne(0).any(dim=2)
    if G == 1 or not bool(live_NG.any()):
        return Codes(q.codes_NK, q.scale_NG[:, :1])
    least_N = q.scale_NG.where(live_NG, float("inf")).amin(dim=1)
    most_N = q.scale_NG.where(live_NG, float("-inf")).amax(dim=1)
    dead_N = ~live_NG.any(dim=1)
    if not bool(((least_N == most_N) | dead_N).all()):
        return q
    return Codes(q.codes_NK, most_N.where(~dead_N, most_N.max())[:, None])


def split(operation: str, w_NK: Tensor, group: int | None) -> Tensor:
    """Return the weights as float32 (S, k), one line per share of one scale.

    Args:
        operation: who asks, for the error.
        w_NK: weights, any float dtype.
        group: columns that share a scale; K is a scale per row; None is one for the matrix.

    Raises:
        ShapeError: not a matrix, empty, or K is not a multiple of `group`.
    """
    if w_NK.ndim != 2 or 0 in w_NK.shape:
        raise ShapeError(
            f"{operation}: the weights have shape {tuple(w_NK.shape)}. Pass a matrix (N, K) "
            "with at least one row and one column."
        )
    K = w_NK.shape[1]
    if group is not None and (group < 1 or K % group):
        raise ShapeError(
            f"{operation}: {K} columns do not split into groups of {group}. "
            f"Choose a group that divides {K}, or None for one scale."
        )
    return w_NK.detach().float().reshape(-1 if group else 1, group or w_NK.numel())


def join(
    shape: torch.Size,
    codes_Sk: Tensor,
    scale_S: Tensor,
    zero_S: Tensor | None = None,
    minimum_S: Tensor | None = None,
) -> Codes:
    """Return the shares of a matrix of `shape` as Codes; the inverse of `split`."""
    N = shape[0]

    def per_row(value_S: Tensor) -> Tensor:
        return value_S.expand(N).reshape(N, 1) if value_S.numel() == 1 else value_S.view(N, -1)

    return Codes(
        codes_Sk.to(torch.int8).view(shape),
        per_row(scale_S.float()),
        None if zero_S is None else per_row(zero_S.to(torch.int8)),
        None if minimum_S is None else per_row(minimum_S.float()),
    )
