"""The two levels of factors of a k-quant: small integers per group, times a float16 per block.

A group's scale is s d and its minimum -m dmin, with d and dmin of the block of 256. To round the
best scales to multiples of d is not the best: codes, integers and the two float16 hang together.
So they are improved in turn, each with the others fixed, and what has the least error is kept:

    codes       the nearest to each weight
    s and m     of a group: s around its least squares, m then the nearest to its own
    d and dmin  of a block: least squares, rounded to float16

Shape letters: B blocks of g groups of k columns each.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from onebit.quant import search


class Grid(NamedTuple):
    """What a k format can say."""

    group: int
    """Columns that share a scale."""
    codes: tuple[int, int]
    multiples: tuple[int, int]
    """What s may be; m is from 0 to the greatest of them."""
    has_minimum: bool


class Factors(NamedTuple):
    """Scale and minimum of each group, float32 (B, g), as the file's numbers multiply to them."""

    scale_Bg: Tensor
    minimum_Bg: Tensor | None


class _State(NamedTuple):
    d_B1: Tensor
    s_Bg: Tensor
    dmin_B1: Tensor
    """0 where the format has no minimum."""
    m_Bg: Tensor

    @property
    def scale_Bg(self) -> Tensor:
        return self.d_B1 * self.s_Bg

    @property
    def minimum_Bg(self) -> Tensor:
        return -(self.dmin_B1 * self.m_Bg)


def fit(w_Bgk: Tensor, h_Bgk: Tensor | None, grid: Grid, rounds: int = 4) -> Factors:
    """Return factors of blocks of weights with a small (weighted) squared error.

    Args:
        w_Bgk: weights, float32.
        h_Bgk: their importance, 0 or more; None is 1.
        grid: of the format.
        rounds: of improvement.
    """
    B, g, k = w_Bgk.shape
    part = max(1, search.CHUNK // (g * k))
    found = [
        _fit(w, h, grid, rounds)
        for w, h in zip(
            torch.split(w_Bgk, part),
            torch.split(h_Bgk, part) if h_Bgk is not None else (None,) * -(-B // part),
            strict=True,
        )
    ]
    minima = [factors.minimum_Bg for factors in found if factors.minimum_Bg is not None]
    return Factors(
        torch.cat([factors.scale_Bg for factors in found]), torch.cat(minima) if minima else None
    )


def nearest(w_kBg: Tensor, factors: Factors, codes: tuple[int, int]) -> Tensor:
    """Return the code whose value is nearest, and that of 0 where the scale is 0."""
    inverse_Bg = search.over(torch.ones_like(factors.scale_Bg), factors.scale_Bg)
    low_Bg = factors.minimum_Bg
    from_kBg = w_kBg if low_Bg is None else w_kBg - low_Bg
    return (from_kBg * inverse_Bg).round_().clamp_(*codes)


def _fit(w_Bgk: Tensor, h_Bgk: Tensor | None, grid: Grid, rounds: int) -> Factors:
    w_Sk = w_Bgk.reshape(-1, grid.group)
    h_Sk = None if h_Bgk is None else h_Bgk.reshape(-1, grid.group)
    w_kBg = w_Bgk.permute(2, 0, 1).contiguous()
    h_kBg = None if h_Bgk is None else h_Bgk.permute(2, 0, 1).contiguous()
    least, most = grid.multiples
    shape = w_Bgk.shape[:2]
    if grid.has_minimum:
        scale_S, minimum_S = search.scales_and_minima(w_Sk, grid.codes[1], True, h_Sk)
        low_Bg = -minimum_S.view(shape)
    else:
        scale_S = search.scales(w_Sk, -grid.codes[0], h_Sk)
        low_Bg = torch.zeros(shape)
    scale_Bg = scale_S.view(shape)
    top_B1 = scale_Bg.gather(1, scale_Bg.abs().argmax(dim=1, keepdim=True))
    best, best_B = None, torch.full(shape[:1], float("inf"))
    for largest in _starts(least, most):
        d_B1 = _half(
            top_B1 / largest, top_B1.abs() > (abs(largest) + 0.5) * _wide(top_B1 / largest).abs()
        )
        top_low_B1 = low_Bg.amax(dim=1, keepdim=True)
        step_B1 = top_low_B1 / abs(largest)
        dmin_B1 = _half(step_B1, top_low_B1 > (abs(largest) + 0.5) * _wide(step_B1))
        state = _State(
            d_B1,
            search.over(scale_Bg, d_B1).round().clamp(least, most),
            dmin_B1,
            search.over(low_Bg, dmin_B1).round().clamp(0, most),
        )
        for turn in range(rounds + 1):
            factors = Factors(state.scale_Bg, state.minimum_Bg if grid.has_minimum else None)
            codes_kBg = nearest(w_kBg, factors, grid.codes)
            error_B = _error(w_kBg, h_kBg, codes_kBg, factors)
            if best is None:
                best, best_B = factors, error_B
            else:
                better_B = error_B < best_B
                best_B = torch.where(better_B, error_B, best_B)
                best = _merged(better_B[:, None], factors, best)
            if turn < rounds:
                state = _improved(state, w_kBg, h_kBg, codes_kBg, grid)
    assert best is not None
    return best


def _merged(first_B1: Tensor, a: Factors, b: Factors) -> Factors:
    """Return the factors of `a` for the blocks that `first` marks, else those of `b`."""
    scale_Bg = torch.where(first_B1, a.scale_Bg, b.scale_Bg)
    if a.minimum_Bg is None or b.minimum_Bg is None:
        return Factors(scale_Bg, None)
    return Factors(scale_Bg, torch.where(first_B1, a.minimum_Bg, b.minimum_Bg))


def _starts(least: int, most: int) -> list[int]:
    """Return which multiple the largest scale of a block may be, to begin with."""
    greatest = least if least < 0 else most
    step = 1 if greatest > 0 else -1
    return [greatest, greatest - step, greatest - 2 * step] if abs(greatest) < 33 else [greatest]


def _wide(x: Tensor) -> Tensor:
    return x.half().float()


def _half(x_B1: Tensor, short_B1: Tensor) -> Tensor:
    """Return the nearest float16, or the next larger one where the largest value would be cut off.

    It is below 6e-5, where float16's steps are 6e-8, that the nearest can be much too small, or 0.
    """
    # one more in its bits is the next float16 away from 0, of either sign
    return (x_B1.half().view(torch.int16) + short_B1.short()).view(torch.float16).float()


def _error(w_kBg: Tensor, h_kBg: Tensor | None, codes_kBg: Tensor, factors: Factors) -> Tensor:
    miss_kBg = codes_kBg * factors.scale_Bg
    if factors.minimum_Bg is not None:
        miss_kBg = miss_kBg + factors.minimum_Bg
    squared_kBg = (miss_kBg - w_kBg).square_()
    return _total(
        search.by_fours(squared_kBg if h_kBg is None else squared_kBg.mul_(h_kBg))
    ).squeeze(1)


def _total(x_Bg: Tensor) -> Tensor:
    """Return the sum over the groups of a block, (B, 1), by halves."""
    while x_Bg.shape[1] > 1:
        half = x_Bg.shape[1] // 2
        x_Bg = x_Bg[:, :half] + x_Bg[:, half:]
    return x_Bg


def _improved(
    state: _State, w_kBg: Tensor, h_kBg: Tensor | None, q_kBg: Tensor, grid: Grid
) -> _State:
    """Return better integers for these codes, and then better float16 for these integers.

    The error of a group with scale a and minimum -b is, up to a constant,
    a^2 qq - 2 a wq + 2 b w + b^2 h - 2 a b q.
    """
    hq_kBg = q_kBg if h_kBg is None else q_kBg * h_kBg
    q_Bg, qq_Bg, wq_Bg = (
        search.by_fours(x_kBg) for x_kBg in (hq_kBg, hq_kBg * q_kBg, hq_kBg * w_kBg)
    )
    h_Bg = torch.full_like(q_Bg, len(w_kBg)) if h_kBg is None else search.by_fours(h_kBg)
    w_Bg = search.by_fours(w_kBg if h_kBg is None else w_kBg * h_kBg)
    least, most = grid.multiples
    d_B1, s_Bg, dmin_B1, m_Bg = state

    def lost(a_Bg: Tensor, b_Bg: Tensor) -> Tensor:
        loss: Tensor = a_Bg * (a_Bg * qq_Bg - 2 * wq_Bg - 2 * b_Bg * q_Bg)
        return loss + b_Bg * (2 * w_Bg + b_Bg * h_Bg)

    def minimum(a_Bg: Tensor) -> Tensor:
        if not grid.has_minimum:
            return torch.zeros_like(a_Bg)
        return search.over(a_Bg * q_Bg - w_Bg, h_Bg * dmin_B1).round_().clamp_(0, most)

    # least squares of s with the minimum as it is, and its neighbours, each with its best minimum
    middle_Bg = search.over(wq_Bg + dmin_B1 * m_Bg * q_Bg, qq_Bg * d_B1).round()
    loss_Bg = lost(d_B1 * s_Bg, dmin_B1 * m_Bg)
    for step in (-1, 0, 1):
        try_s_Bg = (middle_Bg + step).clamp(least, most)
        try_m_Bg = minimum(d_B1 * try_s_Bg)
        try_loss_Bg = lost(d_B1 * try_s_Bg, dmin_B1 * try_m_Bg)
        better_Bg = try_loss_Bg < loss_Bg
        loss_Bg = torch.where(better_Bg, try_loss_Bg, loss_Bg)
        s_Bg = torch.where(better_Bg, try_s_Bg, s_Bg)
        m_Bg = torch.where(better_Bg, try_m_Bg, m_Bg)

    ss, sm = _total(s_Bg * s_Bg * qq_Bg), _total(s_Bg * m_Bg * q_Bg)
    mm = _total(m_Bg * m_Bg * h_Bg)
    sw, mw = _total(s_Bg * wq_Bg), _total(m_Bg * w_Bg)
    spread = ss * mm - sm * sm
    if grid.has_minimum:
        new_d = torch.where(spread > 0, search.over(sw * mm - sm * mw, spread), search.over(sw, ss))
        new_dmin = search.over(sm * sw - ss * mw, spread)
        good = (new_d > 0) & (new_dmin > 0)
        new_d = torch.where(good, new_d, search.over(sw + dmin_B1 * sm, ss))
        new_dmin = torch.where(good, new_dmin, dmin_B1)
    else:
        new_d, new_dmin = search.over(sw, ss), dmin_B1
    d_B1 = torch.where(torch.isfinite(new_d.half()) & (new_d.half() != 0), _wide(new_d), d_B1)
    dmin_B1 = torch.where(torch.isfinite(new_dmin.half()), _wide(new_dmin), dmin_B1)
    return _State(d_B1, s_Bg, dmin_B1, m_Bg)
