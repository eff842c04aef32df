"""Histograms of values that do not fit memory at once, and the range in which to round them.

What enters a layer is seen a window of tokens at a time. A histogram keeps how often each value
came, and afterwards every rule of `clip` finds its range from that: percentile, squared error, or
the divergence between the values and what rounding makes of them.

Shape letters: S histograms, B bins, L levels (codes).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from onebit.errors import InputError, OptionError
from onebit.quant.span import nearest, of_range

BINS = 4096
SHARES = torch.arange(1.0, 0.02, -0.01).tolist()
"""Of the range from the least to the greatest value that the searches try to keep."""
_SMOOTH = 1e-4
"""Of the mass, that both distributions have everywhere: a code that never came is no infinity."""


class Histogram:
    """Counts of values in equal bins around 0. The range doubles when a value needs it.

    Doubling joins bins in pairs, so that counts stay exact whatever the order of the values.
    """

    def __init__(self, bins: int = BINS) -> None:
        if bins < 64 or bins & (bins - 1):
            raise OptionError(f"Histogram: {bins} bins; accepted: a power of two from 64.")
        self.counts_B = torch.zeros(bins, dtype=torch.int64)
        self.reach = 0.0
        """A power of two above every magnitude: bins cover -reach ... reach. 0 before the first."""
        self.low = 0.0
        """The least value, at most 0."""
        self.high = 0.0
        """The greatest value, at least 0."""

    def add(self, values: Tensor) -> None:
        """Count values of any shape and float dtype.

        Raises:
            InputError: a value is not finite.
        """
        x = values.detach().float().reshape(-1)
        if not x.numel():
            return
        low, high = (float(end) for end in torch.aminmax(x))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(
                "Histogram: a value is not finite. What calibrates a range must be finite; look at "
                "the layer before it."
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._cover(max(-low, high))
        bins = len(self.counts_B)
        scaled = x * (bins / 2 / (self.reach or 1.0))  # exact, by a power of 2
        at = scaled.floor_().long() + bins // 2
        self.counts_B += torch.bincount(at, minlength=bins)

    def _cover(self, largest: float) -> None:
        if largest == 0 and not self.reach:
            return
        if not self.reach:
            self.reach = 2.0 ** math.frexp(largest)[1]  # above it
            zeros = int(self.counts_B.sum())  # of the values so far, all 0
            self.counts_B.zero_()
            self.counts_B[len(self.counts_B) // 2] = zeros
        bins = len(self.counts_B)
        while self.reach <= largest:
            joined = self.counts_B.view(-1, 2).sum(dim=1)
            self.counts_B = torch.zeros_like(self.counts_B)
            self.counts_B[bins // 4 : bins // 4 + bins // 2] = joined
            self.reach *= 2

    def middles(self) -> Tensor:
        bins = len(self.counts_B)
        return ((torch.arange(bins, dtype=torch.float64) + 0.5) * 2 / bins - 1) * self.reach

    def percentile(self, kept: float, symmetric: bool) -> tuple[float, float]:
        """Return the narrowest edges of bins that hold this share of the values."""
        width = 2 * self.reach / len(self.counts_B)
        if symmetric:
            half_B = self.counts_B.view(2, -1)
            cumulated = (half_B[1] + half_B[0].flip(0)).cumsum(0)
            high = (self._first(cumulated, kept) + 1) * width
            return -high, high
        cut = (1 - kept) / 2
        low = self._first(self.counts_B.cumsum(0), cut) * width - self.reach
        high = self.reach - self._first(self.counts_B.flip(0).cumsum(0), cut) * width
        return min(0.0, max(low, self.low)), max(0.0, min(high, self.high))

    @staticmethod
    def _first(cumulated: Tensor, share: float) -> int:
        """Return the first bin up to which more than this share of the values lies."""
        return int(
            (cumulated.double() <= share * float(cumulated[-1])).sum().clamp(max=len(cumulated) - 1)
        )


def mse_share(
    counts_SB: Tensor, middle_SB: Tensor, low_S: Tensor, high_S: Tensor, bits: int, symmetric: bool
) -> Tensor:
    """Return the share (S,) of each range that has the least squared error when rounded.

    Args:
        counts_SB: how often values near `middle_SB` came.
        low_S, high_S: least and greatest value, with 0 between them.
        bits: of a code.
        symmetric: codes around 0, else with a zero-point.
    """

    def loss(share: float) -> Tensor:
        scale_S, zero_S = of_range(low_S * share, high_S * share, bits, symmetric)
        rounded_SB = nearest(middle_SB, scale_S, zero_S, bits)
        value_SB = (rounded_SB - zero_S[:, None]) * scale_S[:, None]
        return (counts_SB * (middle_SB - value_SB).square()).sum(dim=1)

    return _least(loss, len(counts_SB))


def kl_share(
    counts_SB: Tensor, middle_SB: Tensor, low_S: Tensor, high_S: Tensor, bits: int, symmetric: bool
) -> Tensor:
    """Return the share (S,) of each range whose rounding is nearest in KL divergence.

    P is the histogram cut to the range, with what lies outside counted in its outermost bins. Q is
    what rounding leaves of it: each code's count, without the outsiders, spread evenly over those
    of its bins that are not empty. So a cut that moves much mass costs, and so does a coarse code.
    Arguments as `mse_share`.

    Source: Migacz, 8-bit Inference with TensorRT, GTC 2017 ("entropy calibration"); smoothed so
        that empty codes stay finite, as ONNX Runtime does.
    """
    count = 2**bits

    def loss(share: float) -> Tensor:
        bottom_S, top_S = low_S * share, high_S * share
        scale_S, zero_S = of_range(bottom_S, top_S, bits, symmetric)
        inside_SB = (middle_SB >= bottom_S[:, None]) & (middle_SB <= top_S[:, None])
        seen_SB = counts_SB * inside_SB
        p_SB = seen_SB.clone()
        place_SB = torch.arange(middle_SB.shape[1]).expand_as(middle_SB)
        first_S = place_SB.where(inside_SB, middle_SB.shape[1]).amin(dim=1)
        last_S = place_SB.where(inside_SB, -1).amax(dim=1)
        none_S = last_S < 0
        below_S = (counts_SB * (middle_SB < bottom_S[:, None])).sum(dim=1)
        above_S = (counts_SB * (middle_SB > top_S[:, None])).sum(dim=1)
        p_SB.scatter_add_(1, first_S.masked_fill(none_S, 0)[:, None], below_S[:, None])
        p_SB.scatter_add_(1, last_S.masked_fill(none_S, 0)[:, None], above_S[:, None])
        level_SB = nearest(middle_SB, scale_S, zero_S, bits).long() + count // 2
        filled_SB = (seen_SB > 0).to(seen_SB.dtype)
        mass_SL = torch.zeros(len(low_S), count, dtype=seen_SB.dtype)
        bins_SL = mass_SL.scatter_add(1, level_SB, filled_SB).clamp(min=1)
        mass_SL = mass_SL.scatter_add(1, level_SB, seen_SB)
        q_SB = (mass_SL / bins_SL).gather(1, level_SB) * filled_SB
        divergence_S = _divergence(p_SB, q_SB, inside_SB)
        return divergence_S.masked_fill(none_S, float("inf"))

    return _least(loss, len(counts_SB))


def of_shares(w_Sk: Tensor, low_S: Tensor, high_S: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return counts and middles (S, B) of weights, in bins from each share's least to greatest."""
    width_S1 = ((high_S - low_S) / bins).clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    at_Sk = ((w_Sk - low_S[:, None]) / width_S1).long().clamp_(0, bins - 1)
    counts_SB = torch.zeros(len(w_Sk), bins, dtype=torch.float32)
    counts_SB.scatter_add_(1, at_Sk, torch.ones_like(w_Sk))
    middle_SB = low_S[:, None] + (torch.arange(bins) + 0.5) * width_S1
    return counts_SB, middle_SB


def _divergence(p_SB: Tensor, q_SB: Tensor, inside_SB: Tensor) -> Tensor:
    """Return KL(P || Q) (S,), both normalized and smoothed over the bins inside the range."""
    even_SB = inside_SB / inside_SB.sum(dim=1, keepdim=True).clamp(min=1)

    def smoothed(mass_SB: Tensor) -> Tensor:
        share_SB = mass_SB / mass_SB.sum(dim=1, keepdim=True).clamp(min=1e-30)
        return (1 - _SMOOTH) * share_SB + _SMOOTH * even_SB

    p_SB, q_SB = smoothed(p_SB), smoothed(q_SB)
    ratio_SB = (p_SB / q_SB.clamp(min=1e-30)).clamp(min=1e-30)
    return (p_SB * ratio_SB.log()).sum(dim=1)


def _least(loss: Callable[[float], Tensor], shares: int) -> Tensor:
    best_S = torch.ones(shares, dtype=torch.float64)
    least_S = torch.full((shares,), float("inf"), dtype=torch.float64)
    for share in SHARES:
        loss_S = loss(share).double()
        better_S = loss_S < least_S
        least_S = torch.where(better_S, loss_S, least_S)
        best_S = best_S.masked_fill(better_S, share)
    return best_S
