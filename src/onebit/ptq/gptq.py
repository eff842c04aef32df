"""GPTQ: round column by column, and let the columns that are left make up for each error.

With A = E[x x^T] of the inputs, the error of a layer's output is (w - w_hat) A (w - w_hat)^T per
row. When column j is rounded with error e, the others can lower it most by moving along
e U[j, j+1:] / U[j, j], where U^T U = A^-1 with U upper triangular.

Departures from the reference code, each for the better of the result:

- Columns that the calibration text leaves dead (always 0) are rounded to nearest by themselves; the
  reference sets their weights to 0, and another text may use them.
- Where A with its damping is not positive definite in float arithmetic, the damping grows tenfold
  until it is, and the layer's notes say so.
- Codes come out in the columns' own order. With groups that move, whole groups are taken by falling
  importance, columns by falling importance inside them, so that a group stays one in the file.

Source: Frantar et al., algorithm 1, https://arxiv.org/abs/2210.17323; act-order and static groups:
https://github.com/IST-DASLab/gptq

Shape letters: N rows, K columns, G groups of a row, k columns of a group.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from onebit import quant
from onebit.errors import InputError, ShapeError
from onebit.ptq import native_columns, ranges
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.ranges import Grid
from onebit.ptq.stats import Stats
from onebit.quant import Codes, span
from onebit.scheme import LinearScheme

_DOUBLE = 4096
"""Columns up to which the factorization is in float64; beyond, its memory counts for more."""
_MOST_DAMPING = 1.0


def gptq(w_NK: Tensor, scheme: LinearScheme, stats: Stats | None, options: Options) -> Codes:
    """Round a layer's weights so that its output on the calibration text changes least.

    Args:
        w_NK: float weights; under hadamard "both" they are turned here.
        scheme: the grid.
        stats: of the inputs, with their Gram matrix.
        options: `damping`, `act_order`, `static_groups`, `block`, `clip`; and `iterations`, rounds
            of `quant.descent` that afterwards lower the error further (0 is the paper's GPTQ);
            `propagate`.

    Raises:
        InputError: no statistics, weights that are not finite, or a Gram matrix that no damping
            makes positive definite.
        OptionError, ShapeError: as `ranges.grid`, or the Gram matrix is of another width.
    """
    if stats is None:
        raise InputError("gptq: needs the inputs of the layer. Name a calibration text.")
    w_NK = quant.hadamard.turned(w_NK.detach().float(), scheme)
    K = w_NK.shape[1]
    A_KK = stats.gram()
    if A_KK.shape != (K, K):
        raise ShapeError(
            f"gptq: a Gram matrix of shape {tuple(A_KK.shape)} for {K} columns. Pass ({K}, {K})."
        )
    k = quant.group_of(scheme, K) or K
    moving = not options.static_groups and scheme.group is not None and scheme.weight != "ternary"
    order_K = order(A_KK.diagonal(), k if moving else 1, options.act_order)
    if stats.tokens < K:
        stats.notes.append(f"{stats.tokens} tokens for {K} columns: damping fills up")
    U_KK = inverse_factor(A_KK, order_K, options.damping, stats.notes)
    if options.propagate and stats.drift_KK is not None:
        w_NK = w_NK + options.propagate * made_up(w_NK, stats.drift_KK, U_KK, order_K)
    grid = ranges.grid(w_NK, scheme, stats, options)
    group_K, block = order_K // k, options.block

    def regrid(w_kN: Tensor, first: int) -> None:
        """Give a group the range that its weights have by now."""
        columns = order_K[first : first + k]
        of_group = replace(stats, gram_KK=A_KK[columns][:, columns])
        now = ranges.grid(w_kN.T, replace(scheme, weight_scale="row"), of_group, options)
        g = int(group_K[first])
        grid.scale_NG[:, g], grid.zero_NG[:, g] = now.scale_NG[:, 0], now.zero_NG[:, 0]

    if moving:  # blocks of whole groups: all corrections are there when a group's turn comes
        block = max(k, block // k * k)
    w_KN = w_NK.T.index_select(0, order_K)  # a copy, and the only one
    codes_NK = _rounded(w_KN, U_KK, grid, group_K, block, regrid if moving else None).T
    rounded = ranges.with_factors(codes_NK[:, order_K.argsort()].contiguous(), grid)
    if not options.iterations:
        return rounded
    gram_KK = quant.descent.damped(A_KK, options.damping)
    codes = span.ends(grid.bits, grid.symmetric)
    free = scheme.weight_scale != "tensor"
    return quant.descent.improved(
        w_NK, rounded, gram_KK, codes, options.iterations, free, native_columns.sweeping()
    )


def inverse_factor(A_KK: Tensor, order_K: Tensor, damping: float, notes: list[str]) -> Tensor:
    """Return U, upper triangular, float32, with U^T U = (A + damping mean(diag A) I)^-1.

    By the Cholesky factor L of A with its columns reversed: then U is L^-1 reversed. That is half
    the work of inverting A first, and more exact. It happens in place: beside A there are never
    more than two matrices of its size, each half a gigabyte at 11,008 columns.

    Args:
        A_KK: a Gram matrix; dead columns, whose diagonal is 0, come out alone.
        order_K: in which its columns are taken; U has them so.
        damping: see above; tenfold until the factorization succeeds.
        notes: takes what was done.

    Raises:
        InputError: no damping up to 1 is enough.
    """
    K = len(A_KK)
    kind = torch.float64 if K <= _DOUBLE else torch.float32
    reversed_K = order_K.flip(0)
    diagonal_K = A_KK.diagonal()[reversed_K].to(kind)
    dead_K = diagonal_K == 0
    mean = float(diagonal_K.mean()) or 1.0
    if bool(dead_K.any()):
        notes.append(f"{int(dead_K.sum())} dead columns")
        diagonal_K[dead_K] = mean
    failed = torch.empty((), dtype=torch.int32)
    while True:
        # transposed, since LAPACK has its matrices column by column and would copy others
        L_KK = A_KK[reversed_K[:, None], reversed_K].to(kind).T
        L_KK.diagonal().copy_(diagonal_K + damping * mean)
        torch.linalg.cholesky_ex(L_KK, out=(L_KK, failed))
        if not int(failed):
            inverse_KK = torch.eye(K, dtype=kind).T
            torch.linalg.solve_triangular(L_KK, inverse_KK, upper=False, out=inverse_KK)
            del L_KK
            return inverse_KK.float().flip(0, 1)
        if damping >= _MOST_DAMPING:
            break
        damping *= 10
        notes.append(f"damping raised to {damping:g}")
    raise InputError(
        f"gptq: the Gram matrix of {K} columns is not positive definite, even with damping. Are "
        "the inputs finite? Calibrate with more text."
    )


def made_up(w_NK: Tensor, drift_KK: Tensor, U_KK: Tensor, order_K: Tensor) -> Tensor:
    """Return what to add to the weights so that they give W x_float from x, as near as they can.

    W_hat x is to be near W x_float = W x + W (x_float - x), whose least squares over the tokens are
    W + W D (A + damping)^-1 with D = E[(x_float - x) x^T].

    Source: Arai and Ichikawa, Quantization Error Propagation, https://arxiv.org/abs/2504.09629
    """
    pulled_NK = (w_NK @ drift_KK)[:, order_K]
    return ((pulled_NK @ U_KK.T) @ U_KK)[:, order_K.argsort()]


def order(importance_K: Tensor, k: int, act_order: bool) -> Tensor:
    """Return the columns in the order in which they are rounded; groups of k stay together."""
    K = len(importance_K)
    if not act_order:
        return torch.arange(K)
    by_group_Gk = importance_K.view(-1, k)
    groups_G = by_group_Gk.sum(dim=1).argsort(descending=True, stable=True)
    inside_Gk = by_group_Gk.argsort(dim=1, descending=True, stable=True)
    return (inside_Gk + torch.arange(0, K, k)[:, None])[groups_G].flatten()


def _rounded(
    w_KN: Tensor,
    U_KK: Tensor,
    grid: Grid,
    group_K: Tensor,
    block: int,
    regrid: Callable[[Tensor, int], None] | None,
) -> Tensor:
    """Return codes (K, N), int8, of columns as they stand; column j has the scale of group_K[j].

    The weights are overwritten, a column by its codes as soon as it is done. Corrections inside a
    block are made column by column, those behind it by one product. `regrid` is called with the
    weights (k, N) of each group before its first column.
    """
    scale_GN, zero_GN = grid.scale_NG.T, grid.zero_NG.T  # views: `regrid` writes into them
    group_of = group_K.tolist()
    K, k = len(w_KN), len(w_KN) // len(scale_GN)
    ends = span.ends(grid.bits, grid.symmetric)
    native = None
    if regrid is None:
        native = native_columns.rounding(grid.scale_NG, grid.zero_NG, group_K, ends, block)
    for first in range(0, K, block):
        last = min(first + block, K)
        w_bN, U_bb = w_KN[first:last], U_KK[first:last, first:last]
        error_bN = torch.empty_like(w_bN)
        if native is not None:
            w_KN[first:last], error_bN = native(first, w_bN, U_bb)
            w_KN[last:].addmm_(U_KK[first:last, last:].T, error_bN, alpha=-1)
            continue
        for j, pivot in enumerate(U_bb.diagonal().tolist()):
            if regrid is not None and (first + j) % k == 0:
                regrid(w_bN[j : j + k], first + j)
            scale_N, zero_N = scale_GN[group_of[first + j]], zero_GN[group_of[first + j]]
            code_N = span.nearest(w_bN[j][:, None], scale_N, zero_N, grid.bits, grid.symmetric)
            code_N = code_N[:, 0]
            error_bN[j] = (w_bN[j] - (code_N - zero_N) * scale_N) / pivot
            w_bN[j] = code_N
            w_bN[j + 1 :].addr_(U_bb[j, j + 1 :], error_bN[j], alpha=-1)
        w_KN[last:].addmm_(U_KK[first:last, last:].T, error_bN, alpha=-1)
    return w_KN.to(torch.int8)


METHOD = Method(
    "rounding",
    gptq,
    frozenset(
        {"damping", "act_order", "static_groups", "block", "clip", "iterations", "propagate"}
    ),
    calibrates=True,
    gram=True,
)
