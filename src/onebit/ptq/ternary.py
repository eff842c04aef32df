"""Ternary weights of a trained model: -1, 0, +1 times a scale, or two such planes.

With three values for a weight, where the scale is decides nearly everything, and the scale that is
best for the weights is not the best for what the layer computes. So, with A = E[x x^T]:

    1. Inside GPTQ's loop, group by group: trits and scale of the group in turn. Trits come column
       by column, each error made up for in the columns that are left; the scale is then exactly
       the one of least error, given that the columns behind the group make up for what they can:
       with V = U_bb^-1 (U from the factor of A^-1, b the group), (w V) . (t V) / |t V|^2.
    2. All scales of a row at once, exactly, under the whole of A.
    3. Sweeps that choose each trit anew, now that all others are known. 2 and 3 in turn.

2 and 3 only ever lower the error. Without calibration the weights themselves are met, exactly.
Two planes (option `planes`, or weight "ternary2") are searched by the same steps, with nine values
for a weight.

Sources: PT2-LLM (trits and scale in turn inside the loop), https://arxiv.org/abs/2510.03267; PTQTP
(two planes), https://arxiv.org/abs/2509.16989; GPTQ, https://arxiv.org/abs/2210.17323. The scale of
step 1, and steps 2 and 3, are derived here.

Shape letters: N rows, K columns, G groups of k columns each, P planes, b the columns of a group.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from onebit import quant
from onebit.errors import InputError, OptionError, ShapeError
from onebit.ptq.gptq import inverse_factor, made_up, order
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats
from onebit.quant import Codes, codes, descent, planes, span
from onebit.scheme import LinearScheme

ITERATIONS = 6
"""Of trits and scale in turn, within a group; and half as many of steps 2 and 3."""
_BLOCK = 64


class Fitted(NamedTuple):
    """Trits and scales of a matrix."""

    trits_PNK: Tensor
    scale_PNG: Tensor


def ternary(w_NK: Tensor, scheme: LinearScheme, stats: Stats | None, options: Options) -> Codes:
    """Round a layer's weights to trits.

    Args:
        w_NK: float weights; under hadamard "both" they are turned here.
        scheme: weight "ternary" (or "ternary2"), a scale per tensor, row or group.
        stats: of the inputs, with their Gram matrix; None meets the weights instead.
        options: `damping`, `act_order`, `iterations`, `planes`, `propagate`.

    Returns:
        Codes; of two planes, as `quant.planes` lays them side by side: (N, 2 K).

    Raises:
        InputError: weights that are not finite, or a Gram matrix that no damping makes definite.
        OptionError: the scheme's weights are not ternary.
        ShapeError: the scheme's groups do not divide K, or the Gram matrix is another layer's.
    """
    count = 2 if scheme.weight == "ternary2" else options.planes
    if scheme.weight not in ("ternary", "ternary2") or scheme.parts > 1 or scheme.learned:
        raise OptionError(
            f'ternary: the scheme says weight "{scheme.weight}" by "{scheme.weight_rule}" (split '
            f"{scheme.split}); accepted: ternary without a split or a learned step. Choose such a "
            "scheme, for instance w1.58a16-g64."
        )
    if not bool(torch.isfinite(w_NK).all()):
        raise InputError(
            "ternary: weights that are not finite. The file is damaged, or the run that made it "
            "failed; take an earlier one."
        )
    w_NK = quant.hadamard.turned(w_NK.detach().float(), scheme)
    K = w_NK.shape[1]
    group = quant.group_of(scheme, K)
    codes.split("ternary", w_NK, group)  # whether it fits
    iterations = options.iterations or ITERATIONS
    if stats is None:
        fitted = _of_weights(w_NK, group, count)
    else:
        A_KK = stats.gram()
        if A_KK.shape != (K, K):
            raise ShapeError(
                f"ternary: a Gram matrix of shape {tuple(A_KK.shape)} for {K} columns. Pass "
                f"({K}, {K})."
            )
        order_K = order(A_KK.diagonal(), group or K, options.act_order)
        U_KK = inverse_factor(A_KK, order_K, options.damping, stats.notes)
        if options.propagate and stats.drift_KK is not None:
            w_NK = w_NK + options.propagate * made_up(w_NK, stats.drift_KK, U_KK, order_K)
        fitted = _in_loop(w_NK, U_KK, order_K, group, count, iterations)
        gram_KK = descent.damped(A_KK, options.damping)
        fitted = _improved(w_NK, gram_KK, fitted, group, (iterations + 1) // 2)
    if count == 2:
        return planes.joined(*fitted)
    return Codes(fitted.trits_PNK[0].to(torch.int8), fitted.scale_PNG[0].contiguous())


def _of_weights(w_NK: Tensor, group: int | None, count: int) -> Fitted:
    scale_PS = _held(planes.fit(codes.split("ternary", w_NK, group), count), group)
    scale_PNG = _spread(scale_PS, len(w_NK), group)
    return Fitted(_nearest(w_NK, scale_PNG), scale_PNG)


def _in_loop(
    w_NK: Tensor, U_KK: Tensor, order_K: Tensor, group: int | None, count: int, iterations: int
) -> Fitted:
    """Step 1: GPTQ's loop over groups, each with the scale that it wants by then."""
    N, K = w_NK.shape
    k = group or K
    w_KN = w_NK.T[order_K].contiguous()
    trits_PKN = torch.empty(count, K, N)
    scale_PNG = torch.empty(count, N, K // k)
    for first in range(0, K, k):
        last = first + k
        fitted, error_kN = _group(
            w_KN[first:last], U_KK[first:last, first:last], count, iterations, group is None
        )
        trits_PKN[:, first:last] = fitted.trits_PNK.transpose(1, 2)
        scale_PNG[:, :, int(order_K[first]) // k] = fitted.scale_PNG[..., 0]
        w_KN[last:].addmm_(U_KK[first:last, last:].T, error_kN, alpha=-1)
    if group is None:
        scale_PNG = scale_PNG[:, :, :1]
    return Fitted(trits_PKN.transpose(1, 2)[:, :, order_K.argsort()], scale_PNG)


def _group(
    w_kN: Tensor, U_kk: Tensor, count: int, iterations: int, shared: bool
) -> tuple[Fitted, Tensor]:
    """Return trits and scales of one group, and the errors (k, N) that the rest is to make up for.

    What cannot be made up for is |(w - v) U_kk^-1|^2. Of the rounds of trits and scale, each row
    keeps its best; all rows together where they share a scale.
    """
    k, N = w_kN.shape
    unit_kk = torch.eye(k)
    V_kk = torch.linalg.solve_triangular(U_kk, unit_kk, upper=True)
    y_Nk = w_kN.T @ V_kk
    h_k = U_kk.diagonal().square().reciprocal()  # what an error in a column alone would cost
    scale_PN = _start(w_kN.T, h_k, count, shared)
    least_N = torch.full((N,), float("inf"))
    best_PkN, best_PN = torch.zeros(count, k, N), scale_PN
    best_error_kN = torch.zeros_like(w_kN)
    for turn in range(iterations):
        trits_PkN, error_kN = _columns(w_kN, U_kk, scale_PN)
        loss_N = error_kN.square().sum(dim=0)
        if shared:
            loss_N = loss_N.sum().expand(N)
        better_N = loss_N < least_N
        least_N = torch.where(better_N, loss_N, least_N)
        best_PkN = torch.where(better_N, trits_PkN, best_PkN)
        best_PN = torch.where(better_N, scale_PN, best_PN)
        best_error_kN = torch.where(better_N, error_kN, best_error_kN)
        if turn == iterations - 1 or not bool(better_N.any()):
            break
        z_PNk = best_PkN.transpose(1, 2) @ V_kk
        products, targets = (z_PNk[:, None] * z_PNk).sum(dim=3), (z_PNk * y_Nk).sum(dim=2)
        if shared:
            products, targets = (x.sum(dim=-1, keepdim=True) for x in (products, targets))
        solved_PN = planes.least_squares(products, targets).expand(count, N)
        good_N = (solved_PN > 0).all(dim=0) & torch.isfinite(solved_PN).all(dim=0)
        scale_PN = _held(torch.where(good_N, solved_PN, best_PN), None if shared else k)
    trits_PNk = best_PkN.transpose(1, 2)
    return Fitted(trits_PNk, best_PN[..., None]), best_error_kN


def _start(w_Nk: Tensor, h_k: Tensor, count: int, shared: bool) -> Tensor:
    h_Nk = h_k.expand(w_Nk.shape)
    if shared:
        scale_P1 = planes.fit(w_Nk.reshape(1, -1), count, h_Nk.reshape(1, -1))
        return scale_P1.expand(count, len(w_Nk))
    return _held(planes.fit(w_Nk, count, h_Nk), w_Nk.shape[1])


def _columns(w_kN: Tensor, U_kk: Tensor, scale_PN: Tensor) -> tuple[Tensor, Tensor]:
    """Return trits (P, k, N) of columns that make up for one another, and the errors over U_jj."""
    w_kN = w_kN.clone()
    k = len(w_kN)
    trits_PkN = torch.empty(len(scale_PN), *w_kN.shape)
    error_kN = torch.empty_like(w_kN)
    pivots = U_kk.diagonal().tolist()
    for first in range(0, k, _BLOCK):
        last = min(first + _BLOCK, k)
        for j in range(first, last):
            trits_PN = planes.nearest(w_kN[j], scale_PN)
            trits_PkN[:, j] = trits_PN
            error_kN[j] = (w_kN[j] - (trits_PN * scale_PN).sum(dim=0)) / pivots[j]
            w_kN[j + 1 : last].addr_(U_kk[j, j + 1 : last], error_kN[j], alpha=-1)
        w_kN[last:].addmm_(U_kk[first:last, last:].T, error_kN[first:last], alpha=-1)
    return trits_PkN, error_kN


def _improved(
    w_NK: Tensor, gram_KK: Tensor, fitted: Fitted, group: int | None, rounds: int
) -> Fitted:
    """Steps 2 and 3, as long as they help a row."""
    trits_PNK, scale_PNG = fitted
    K = w_NK.shape[1]
    least_N = descent.loss(w_NK, descent.values(trits_PNK, scale_PNG), gram_KK)
    for _ in range(rounds):
        found_PNG = scale_PNG
        if group is not None:
            found_PNG = _held(descent.scales(w_NK, trits_PNK, gram_KK, scale_PNG), group)
        step_PNK = found_PNG.repeat_interleave(K // found_PNG.shape[2], dim=2)
        scale_PKN = step_PNK.transpose(1, 2).contiguous()

        def value(j: int, v_N: Tensor, scale_PKN: Tensor = scale_PKN) -> Tensor:
            scale_PN = scale_PKN[:, j]
            return (planes.nearest(v_N, scale_PN) * scale_PN).sum(dim=0)

        before_NK = descent.values(trits_PNK, found_PNG)
        found_NK = descent.sweep(w_NK, before_NK, gram_KK, value)
        found_PNK = planes.nearest(found_NK, step_PNK)
        loss_N = descent.loss(w_NK, descent.values(found_PNK, found_PNG), gram_KK)
        better_N = loss_N < least_N
        if group is None:  # the scale is one for all rows, and stays
            scale_PNG = found_PNG
        scale_PNG = torch.where(better_N[:, None], found_PNG, scale_PNG)
        trits_PNK = torch.where(better_N[:, None], found_PNK, trits_PNK)
        gain = float((least_N - loss_N).clamp(min=0).sum() / least_N.sum().clamp(min=1e-30))
        least_N = torch.minimum(least_N, loss_N)
        if gain < 1e-3:
            break
    return Fitted(trits_PNK, scale_PNG)


def _nearest(w_NK: Tensor, scale_PNG: Tensor) -> Tensor:
    step_PNK = scale_PNG.repeat_interleave(w_NK.shape[1] // scale_PNG.shape[2], dim=2)
    return planes.nearest(w_NK, step_PNK)


def _held(scale: Tensor, group: int | None) -> Tensor:
    """Return scales as a file holds them: float16 where there is more than one."""
    return scale.clamp(min=1e-30) if group is None else span.half(scale)


def _spread(scale_PS: Tensor, N: int, group: int | None) -> Tensor:
    if group is None:
        return scale_PS.view(-1, 1, 1).expand(-1, N, 1).contiguous()
    return scale_PS.view(len(scale_PS), N, -1)


METHOD = Method(
    "rounding",
    ternary,
    frozenset({"damping", "act_order", "iterations", "planes", "propagate"}),
    calibrates=True,
    gram=True,
)
