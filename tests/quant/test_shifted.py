"""Ternary around a mean: the fitting, and the exact normal equations."""

import pytest
import torch

from onebit import quant
from onebit.quant import shifted


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(v, w):
    return float((v - w).norm() / w.norm())


def test_fitting_helps_and_reaches_its_known_error():
    """0.425 by blocks of 128 of Gaussian weights; by 0.436 without mean and fitting."""
    w = normal(128, 512)
    errors = [relative(quant.dequantize(shifted.quantize(w, 128, n)), w) for n in (0, 1, 10)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] == pytest.approx(0.425, abs=0.006)


def test_a_mean_is_found():
    w = normal(16, 64) + 5
    q = shifted.quantize(w, 64)
    assert relative(quant.dequantize(q), w) < 0.1
    assert float(q.minimum_NG.mean()) == pytest.approx(5, abs=0.2)


def test_factors_are_the_least_of_the_output_error():
    x = normal(200, 32, seed=1) @ normal(32, 32, seed=2)
    gram, w = x.T @ x / 200, normal(6, 32)
    trits = torch.randint(-1, 2, (6, 32), generator=torch.Generator().manual_seed(4)).float()

    def loss(scale, mean):
        miss = w - scale[:, None] * trits - mean[:, None]
        return ((miss @ gram) * miss).sum(dim=1)

    scale, mean = shifted.factors(trits, w, gram)
    least = loss(scale, mean)
    for a in (-1e-2, 0, 1e-2):
        for b in (-1e-2, 0, 1e-2):
            assert (least <= loss(scale + a, mean + b) * (1 + 1e-5)).all()
    wanted = torch.linalg.lstsq(
        torch.stack([x @ trits[0], x.sum(dim=1)], dim=1).double(), (x @ w[0]).double()[:, None]
    ).solution[:, 0]
    torch.testing.assert_close(
        torch.stack([scale[0], mean[0]]).double(), wanted, rtol=1e-3, atol=1e-4
    )


def test_trits_that_are_all_alike_leave_it_to_the_mean():
    w = torch.full((1, 8), 3.0)
    for trits in (torch.ones(1, 8), torch.zeros(1, 8)):
        scale, mean = shifted.factors(trits, w, None)
        assert (scale.tolist(), mean.tolist()) == ([0.0], [3.0])
    assert torch.equal(quant.dequantize(shifted.quantize(w)), w)
