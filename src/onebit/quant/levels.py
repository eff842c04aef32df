"""Which evenly spaced levels do float weights lie on, should they have been rounded before?

`grid.on_grid` knows the three values of ternary weights. Here any grid of 2 to 256 levels is found,
by row or group, with or without an offset: what RTN, GPTQ, Q4_1 or Q6_K leave once they are stored
as floats again. Rounding such weights to another grid loses more than rounding their master would.

In a share of k weights between `low` and `high`, a step (high - low) / n must put all k on whole
numbers, for some n up to 255; the smallest such n is the answer. Random weights never do it: each
falls near enough by chance at 0.2 to 50 %, depending on the float type, and 14 must at once, in
every share.

Shape letters: N rows, K columns, S shares of k weights each.
"""

import torch
from torch import Tensor

from onebit.quant.codes import Codes, join, split

WIDTHS = (256, 128, 64, 32, 16)
"""Columns of a group that are tried, after the whole row: those of all formats that we know."""
MOST = 255
"""Steps between the smallest and the largest level of 8 bits."""
_SAMPLE = 64
"""Rows that decide whether a width is worth a look at all rows."""
_EXACT = 1e-3
"""Of a step: how far float32 arithmetic may leave a weight from its level."""
_FAR = 0.25
"""Of a step: tolerances above it would find levels in anything."""


def find(w_NK: Tensor) -> Codes | None:
    """Return the codes of weights that lie on evenly spaced levels, or None.

    Args:
        w_NK: weights, any float dtype; values that were stored in 16 bits are known by themselves.

    Returns:
        Codes with a scale for each row or group, the widest that fits, whose values are the weights
        to within the rounding of their floats. A zero-point where 0 is a level, else a minimum.
        None for floats of any other kind, for matrices narrower than 16 columns, for constants, and
        for 7 and 8 bits that were stored as bfloat16, whose rounding hides the levels.

    Raises:
        ShapeError: not a matrix.
    """
    split("levels.find", w_NK, None)
    w_NK = w_NK.detach().float()
    K = w_NK.shape[1]
    widths = [k for k in (K, *WIDTHS) if k <= K and K % k == 0 and k >= WIDTHS[-1]]
    if not widths or not bool(torch.isfinite(w_NK).all()):
        return None
    half_ulp = _half_ulp(w_NK)
    some_nK = w_NK[:: max(1, len(w_NK) // _SAMPLE)]
    if _steps(some_nK.reshape(-1, widths[-1]), half_ulp) is None:
        return None  # as nearly always: wider shares of such weights have no levels either
    for width in dict.fromkeys(widths):
        if _steps(some_nK.reshape(-1, width), half_ulp) is None:
            continue
        w_Sk = split("levels.find", w_NK, width)
        n_S = _steps(w_Sk, half_ulp)
        if n_S is not None:
            return _codes(w_NK.shape, w_Sk, n_S)
    return None


def bits(q: Codes) -> int:
    """Return the bits that the codes take."""
    span = int(q.codes_NK.max()) - int(q.codes_NK.min())
    return max(1, span.bit_length())


def _half_ulp(w_NK: Tensor) -> float:
    """Return how far, relative to a weight, storage may have moved it."""
    for dtype, relative in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        if torch.equal(w_NK.to(dtype).float(), w_NK):
            return 1.01 * relative
    return 2.0**-22  # float32: a product and a sum


def _steps(w_Sk: Tensor, half_ulp: float) -> Tensor | None:
    """Return the steps in each share, 0 for constants; None if one has no levels, or all are."""
    low_S, high_S = w_Sk.aminmax(dim=1)
    range_S = high_S - low_S
    n_S = torch.zeros(len(w_Sk), dtype=torch.int64)
    open_S = torch.nonzero(range_S > 0)[:, 0]
    if not len(open_S):
        return None
    gaps = w_Sk[open_S].sort(dim=1).values.diff(dim=1)
    size_S = torch.maximum(low_S.abs(), high_S.abs())
    noise = (4 * half_ulp * size_S[open_S] + 1e-6 * range_S[open_S])[:, None]
    smallest = gaps.where(gaps > noise, float("inf")).amin(dim=1)
    guess = (range_S[open_S] / smallest).round()  # right wherever two neighbouring levels occur
    for n in (guess, *range(1, MOST + 1)):
        fits = _on(w_Sk[open_S], low_S[open_S], range_S[open_S], size_S[open_S], n, half_ulp)
        n_S[open_S[fits]] = n[fits].long() if isinstance(n, Tensor) else n
        open_S = open_S[~fits]
        if not len(open_S):
            return n_S
    return None


def _on(
    w_Sk: Tensor, low_S: Tensor, range_S: Tensor, size_S: Tensor, n: Tensor | int, half_ulp: float
) -> Tensor:
    """Whether all weights of each share lie on n steps from low to high, (S,)."""
    step_S = range_S / n
    places_Sk = (w_Sk - low_S[:, None]) / step_S[:, None]
    off_S = (places_Sk - places_Sk.round()).abs().amax(dim=1)
    accepted_S = _EXACT + 2 * half_ulp * size_S / step_S  # the weight's, and the ends'
    possible_S = (accepted_S <= _FAR) & torch.as_tensor(n <= MOST)
    return (off_S <= accepted_S) & possible_S


def _codes(shape: torch.Size, w_Sk: Tensor, n_S: Tensor) -> Codes:
    """Return the codes of weights whose shares have these numbers of steps."""
    low_S, high_S = w_Sk.aminmax(dim=1)
    # of odd codes alone only each second level is seen, and 0 is none of them
    for even_n_S in (n_S, _with_zero(low_S, high_S, n_S)):
        scale_S, places_Sk, offset = _places(w_Sk, low_S, high_S, even_n_S)
        zero_S = (-low_S / scale_S.where(scale_S > 0, 1.0)).round()  # the place of 0
        a_level = bool(((low_S + zero_S * scale_S).abs() <= 0.02 * scale_S).all())
        if a_level and bool(((zero_S - offset).abs() <= 127).all()):
            return join(shape, places_Sk - offset, scale_S, zero_S - offset)
    scale_S, places_Sk, offset = _places(w_Sk, low_S, high_S, n_S)
    return join(shape, places_Sk - offset, scale_S, None, low_S + offset * scale_S)


def _places(w_Sk: Tensor, low_S: Tensor, high_S: Tensor, n_S: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the scales, the places above the lowest level, and what makes signed codes of them."""
    # a constant c is one step from 0
    scale_S = torch.where(n_S == 0, low_S.abs(), (high_S - low_S) / n_S.clamp(min=1))
    places_Sk = ((w_Sk - low_S[:, None]) / scale_S.where(scale_S > 0, 1.0)[:, None]).round()
    return scale_S, places_Sk, 2 ** (max(1, int(n_S.max())).bit_length() - 1)


def _with_zero(low_S: Tensor, high_S: Tensor, n_S: Tensor) -> Tensor:
    """Return the steps, doubled where 0 lies half-way between two levels."""
    place_S = -low_S * n_S / (high_S - low_S).where(n_S > 0, 1.0)
    half_way_S = (place_S - place_S.floor() - 0.5).abs() < 0.01
    inside_S = (low_S < 0) & (high_S > 0) & (2 * n_S <= MOST)
    return torch.where(half_way_S & inside_S, 2 * n_S, n_S)
