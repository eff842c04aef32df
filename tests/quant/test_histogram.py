"""Histograms: counts that stay exact as the range grows, and the ranges found from them."""

import pytest
import torch

from onebit.errors import InputError, OptionError
from onebit.quant import clip
from onebit.quant.histogram import Histogram


def filled(x, parts=1, bins=4096):
    values = Histogram(bins)
    for part in x.chunk(parts):
        values.add(part)
    return values


def student(n=100_000, seed=0):
    """Student's t with 4 degrees of freedom: a normal over the root of a chi-squared's mean."""
    draw = torch.randn(5, n, generator=torch.Generator().manual_seed(seed))
    return draw[0] / draw[1:].square().mean(dim=0).sqrt()


def test_growing_joins_bins_and_loses_nothing():
    x = student()
    at_once = filled(x)
    slowly = filled(x[x.abs().argsort()], parts=50)
    assert slowly.reach == at_once.reach
    assert torch.equal(slowly.counts_B, at_once.counts_B)
    assert int(slowly.counts_B.sum()) == len(x)
    assert (slowly.low, slowly.high) == (float(x.min()), float(x.max()))


def test_zeros_before_anything_else_are_counted_at_0():
    values = Histogram(64)
    values.add(torch.zeros(7))
    assert clip.of_values(values, "mse", 8, symmetric=True) == (0.0, 0.0)
    values.add(torch.tensor([3.0, -1.0]))
    assert int(values.counts_B.sum()) == 9
    assert int(values.counts_B[32]) == 7


@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_are_those_of_the_values_themselves(symmetric):
    x = student() + (0 if symmetric else 1.5)
    values = filled(x, parts=8)
    low, high = float(x.min()), float(x.max())
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    assert clip.of_values(values, "none", 8, symmetric) == (low, high)
    assert clip.of_values(values, "ratio:0.5", 8, symmetric) == (low / 2, high / 2)
    width = 2 * values.reach / len(values.counts_B)
    scale_S, _ = clip.factors(x[None], 8, symmetric=symmetric, rule="percentile:99")
    found_low, found_high = clip.of_values(values, "percentile:99", 8, symmetric)
    steps = 127 if symmetric else 255
    span = found_high if symmetric else found_high - found_low
    assert span == pytest.approx(float(scale_S) * steps, abs=2 * width + 2**-11 * span)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_searched_range_cuts_heavy_tails(bits):
    x = student()
    values = filled(x)
    whole = clip.of_values(values, "none", bits, symmetric=True)[1]

    def error(high):
        scale = high / (2 ** (bits - 1) - 1)
        codes = (x / scale).round().clamp(-(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1)
        return float((codes * scale - x).square().mean())

    by_error = clip.of_values(values, "mse", bits, symmetric=True)[1]
    by_divergence = clip.of_values(values, "kl", bits, symmetric=True)[1]
    assert by_error < whole
    assert error(by_error) <= error(whole)
    assert by_divergence < whole
    # no share of the range does clearly better than the one that was found
    assert error(by_error) < 1.02 * min(error(whole * part / 50) for part in range(1, 51))


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(InputError, match="not finite"):
        Histogram().add(torch.tensor([1.0, float("inf")]))
    with pytest.raises(InputError, match="no value was counted"):
        clip.of_values(Histogram(), "mse", 8, symmetric=True)
    with pytest.raises(OptionError, match="weighs the error of weights"):
        clip.of_values(filled(torch.ones(3)), "output", 8, symmetric=True)
    with pytest.raises(OptionError, match="96 bins; accepted"):
        Histogram(96)
