"""Better scales and codes for a layer whose inputs are known: no step can make its output worse.

With A the mean of x x^T over inputs, a row's error is (w - v) A (w - v)^T, v its rounded weights.
Both steps go down this one quadratic, all rows at once:

    scales  for codes that stay, all scales of a row at once by least squares: exact
    sweep   column by column, the code nearest to the best value there given all other columns

GPTQ makes up for an error in the columns that are still to come only; a sweep sees all of them.

Shape letters: N rows, K columns, G groups of k columns each, P planes (1 but for trit planes).

Sources: the normal equations of PT2-LLM's activation-aware stage, https://arxiv.org/abs/2510.03267,
    here for all groups of a row together; Nair and Suggala, CDQuant, algorithm 1 in cyclic order,
    https://arxiv.org/abs/2406.17542
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from onebit.quant import search, span
from onebit.quant.codes import Codes

Nearest = Callable[[int, Tensor], Tensor]
"""(column, values (N,)) -> the values nearest to them that the column's codes can say."""
Block = Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(first column, values (b, N), pull (b, N), own (b, b), 1 / A's diagonal (b,)) -> change (b, N).

What the loop in `swept` does inside a block; values are changed."""


class ColumnGrid(NamedTuple):
    """What columns can be: (code - zero) * scale."""

    scale_GN: Tensor
    inverse_GN: Tensor
    """One over the scale, and 0 where that is 0."""
    zero_GN: Tensor
    codes: tuple[int, int]
    group: int
    """Columns that share a scale."""


SweepBlock = Callable[[ColumnGrid, int, Tensor, Tensor, Tensor, Tensor], Tensor]
"""A `Block` for any grid."""
_BLOCK = 64
_RIDGE = 1e-6
_WORTH = 1e-3
_TINY = 1e-30


def loss(w_NK: Tensor, value_NK: Tensor, gram_KK: Tensor) -> Tensor:
    """Return the error (N,) of each row's output."""
    miss_NK = w_NK - value_NK
    return ((miss_NK @ gram_KK) * miss_NK).sum(dim=1)


def damped(gram_KK: Tensor, damping: float) -> Tensor:
    """Return the Gram matrix with damping times its mean diagonal on the diagonal, never all 0."""
    mean = float(gram_KK.diagonal().mean()) or 1.0
    return gram_KK + damping * mean * torch.eye(len(gram_KK))


def scales(
    w_NK: Tensor,
    codes_PNK: Tensor,
    gram_KK: Tensor,
    scale_PNG: Tensor,
    through_NK: Tensor | None = None,
) -> Tensor:
    """Return the scales (P, N, G) of least output error for codes that stay as they are.

    Rows keep the scales that they have where the new ones are not all above 0, or are no better.

    Args:
        w_NK: the weights that are to be met.
        codes_PNK: whole numbers, less their zero-point; float32.
        gram_KK: positive definite; `damped` makes it so.
        scale_PNG: that the codes have by now.
        through_NK: w_NK @ gram_KK, where it is known.
    """
    P, N, K = codes_PNK.shape
    G = scale_PNG.shape[2]
    k, unknown = K // G, P * G
    codes_NPK = codes_PNK.transpose(0, 1)
    grouped_NUk = codes_NPK.reshape(N, unknown, k)
    products_NPGPG = torch.empty(N, P, G, P, G)
    for u in range(unknown):  # a group's codes through its rows of A meet the other groups'
        p, g = divmod(u, G)
        row_NK = grouped_NUk[:, u] @ gram_KK[g * k : (g + 1) * k, g * k :]
        met_NPG = (codes_NPK[..., g * k :] * row_NK[:, None]).view(N, P, G - g, k).sum(dim=3)
        products_NPGPG[:, p, g, :, g:] = met_NPG
        products_NPGPG[:, :, g:, p, g] = met_NPG
    products_NUU = products_NPGPG.view(N, unknown, unknown)
    target_NPK = codes_NPK * (w_NK @ gram_KK if through_NK is None else through_NK)[:, None]
    target_NU = target_NPK.reshape(N, unknown, k).sum(dim=2)
    diagonal_NU = products_NUU.diagonal(dim1=1, dim2=2)
    ridge_N1 = _RIDGE * diagonal_NU.mean(dim=1, keepdim=True) + torch.finfo(torch.float32).tiny
    diagonal_NU.add_(ridge_N1 + (diagonal_NU == 0))  # a group of zeros, whose scale does not matter
    solved_NU, _ = torch.linalg.solve_ex(products_NUU, target_NU)
    dead_NU = ~grouped_NUk.ne(0).any(dim=2)
    before_NU = scale_PNG.transpose(0, 1).reshape(N, unknown)
    solved_NU = torch.where(dead_NU, before_NU, solved_NU)
    found_PNG = solved_NU.view(N, P, G).transpose(0, 1)

    def lost(scale_NU: Tensor) -> Tensor:
        """Return the error of the output, less that of codes of 0."""
        scale_NU = scale_NU.double()
        products_NU = (products_NUU.double() @ scale_NU[..., None])[..., 0]
        return (scale_NU * (products_NU - 2 * target_NU)).sum(dim=1)

    better_N = lost(solved_NU) < lost(before_NU)
    good_N = better_N & torch.isfinite(solved_NU).all(dim=1) & (solved_NU > 0).all(dim=1)
    return torch.where(good_N[:, None], found_PNG, scale_PNG)


def improved(
    w_NK: Tensor,
    q: Codes,
    gram_KK: Tensor,
    codes: tuple[int, int],
    rounds: int,
    free_scales: bool = True,
    sweep_block: SweepBlock | None = None,
) -> Codes:
    """Return codes, and scales, with no larger an output error: scales and sweep, some times.

    Args:
        w_NK: the weights that are to be met, float32.
        q: how they are rounded by now; zero-points and minima stay.
        gram_KK: positive definite; `damped` makes it so.
        codes: the least and the greatest code.
        rounds: at most; it ends before where a round lowers the error by less than 0.1 %.
        free_scales: whether scales may change too; they come out as float16 values.
        sweep_block: does the sweeps' inner loop, to the same numbers; None is torch.
    """
    k = w_NK.shape[1] // q.scale_NG.shape[1]
    if q.minimum_NG is not None:
        w_NK = w_NK - q.minimum_NG.repeat_interleave(k, dim=1)
    zero_NG = torch.zeros_like(q.scale_NG) if q.zero_NG is None else q.zero_NG.float()
    zero_GN = zero_NG.T.contiguous()
    step_NK = q.codes_NK.float() - zero_NG.repeat_interleave(k, dim=1)
    scale_NG = q.scale_NG
    least_N = loss(w_NK, values(step_NK[None], scale_NG[None]), gram_KK)
    through_NK = w_NK @ gram_KK if free_scales else None
    for _ in range(rounds):
        try_NG = scale_NG
        if free_scales:
            found_PNG = scales(w_NK, step_NK[None], gram_KK, scale_NG[None], through_NK)
            try_NG = span.half(found_PNG[0])
        try_GN = try_NG.T.contiguous()
        inverse_GN = search.over(torch.ones_like(try_GN), try_GN)

        def step(j: int, v_N: Tensor, inverse_GN: Tensor = inverse_GN) -> Tensor:
            g = j // k
            return (v_N * inverse_GN[g]).round_().add_(zero_GN[g]).clamp_(*codes) - zero_GN[g]

        def value(j: int, v_N: Tensor, step: Nearest = step, try_GN: Tensor = try_GN) -> Tensor:
            return step(j, v_N) * try_GN[j // k]

        before_NK = values(step_NK[None], try_NG[None])
        grid = ColumnGrid(try_GN, inverse_GN, zero_GN, codes, k)
        block = None if sweep_block is None else partial(sweep_block, grid)
        after_NK, loss_N = swept(w_NK, before_NK, gram_KK, value, block)
        better_N1 = (loss_N < least_N)[:, None]
        found_NK = _steps(after_NK, inverse_GN.T, zero_NG, codes)
        step_NK = torch.where(better_N1, found_NK, step_NK)
        scale_NG = torch.where(better_N1, try_NG, scale_NG)
        gain = float((least_N - loss_N).clamp(min=0).sum() / least_N.sum().clamp(min=_TINY))
        least_N = torch.minimum(least_N, loss_N)
        if gain < _WORTH:
            break
    codes_NK = step_NK + zero_NG.repeat_interleave(k, dim=1)
    return q._replace(codes_NK=codes_NK.to(torch.int8), scale_NG=scale_NG)


def _steps(w_NK: Tensor, inverse_NG: Tensor, zero_NG: Tensor, codes: tuple[int, int]) -> Tensor:
    """Return the nearest codes less their zero-point, float32 (N, K), of all columns at once."""
    N, G = zero_NG.shape
    codes_NGk = (w_NK.view(N, G, -1) * inverse_NG[..., None]).round_().add_(zero_NG[..., None])
    return codes_NGk.clamp_(*codes).sub_(zero_NG[..., None]).view_as(w_NK)


def values(codes_PNK: Tensor, scale_PNG: Tensor) -> Tensor:
    """Return the weights (N, K) of codes and scales, summed over planes."""
    P, N, K = codes_PNK.shape
    grouped_PNGk = codes_PNK.reshape(P, N, scale_PNG.shape[2], -1)
    return (grouped_PNGk * scale_PNG[..., None]).sum(dim=0).view(N, K)


def sweep(w_NK: Tensor, value_NK: Tensor, gram_KK: Tensor, nearest: Nearest) -> Tensor:
    """Return rounded weights (N, K) after each column was chosen anew, one after the other.

    Arguments as `swept`.
    """
    return swept(w_NK, value_NK, gram_KK, nearest)[0]


def swept(
    w_NK: Tensor,
    value_NK: Tensor,
    gram_KK: Tensor,
    nearest: Nearest,
    block: Block | None = None,
) -> tuple[Tensor, Tensor]:
    """Return rounded weights (N, K) after each column was chosen anew, and the rows' `loss` (N,).

    Args:
        w_NK: the weights that are to be met.
        value_NK: how they are rounded by now.
        gram_KK: with a positive diagonal.
        nearest: what a column can be.
        block: does the inner loop instead, to the same numbers.
    """
    K = len(gram_KK)
    value_KN = value_NK.T.contiguous()
    pull_KN = gram_KK @ (w_NK.T - value_KN)  # minus half the gradient
    inverse_K = gram_KK.diagonal().reciprocal()

    def in_torch(
        first: int, value_bN: Tensor, pull_bN: Tensor, own_bb: Tensor, inverse_b: Tensor
    ) -> Tensor:
        pull_bN = pull_bN.clone()
        change_bN = torch.empty_like(pull_bN)
        for j, inverse in enumerate(inverse_b.tolist()):
            change_bN[j] = nearest(first + j, value_bN[j] + pull_bN[j] * inverse) - value_bN[j]
            value_bN[j] += change_bN[j]
            pull_bN.addr_(own_bb[:, j], change_bN[j], alpha=-1)
        return change_bN

    for first in range(0, K, _BLOCK):
        last = min(first + _BLOCK, K)
        own_bb, inverse_b = gram_KK[first:last, first:last], inverse_K[first:last]
        change_bN = (block or in_torch)(
            first, value_KN[first:last], pull_KN[first:last], own_bb, inverse_b
        )
        pull_KN.addmm_(gram_KK[:, first:last], change_bN, alpha=-1)
    loss_N = (pull_KN * (w_NK.T - value_KN)).sum(dim=0)
    return value_KN.T.contiguous(), loss_N
