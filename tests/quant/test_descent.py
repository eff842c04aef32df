"""Descent on a layer's output error: exact scales, and sweeps over columns."""

from itertools import pairwise

import pytest
import torch

from onebit import quant
from onebit.quant import descent


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gram():
    x = normal(300, 64, seed=1) @ normal(64, 64, seed=2)
    return descent.damped(x.T @ x / 300, 0.01)


def total(w, q, gram):
    return float(descent.loss(w, quant.dequantize(q), gram).sum())


def test_scales_are_those_of_least_squares(gram):
    w, scale = normal(4, 64), torch.ones(1, 4, 2)
    codes = torch.randint(-1, 2, (1, 4, 64), generator=torch.Generator().manual_seed(3)).float()
    codes[0, 0] = w[0].sign()  # scales above 0, which the others keep for want of them
    found = descent.scales(w, codes, gram, scale)
    root = torch.linalg.cholesky(gram.double(), upper=True)
    columns = torch.stack([codes[0, 0, :32], codes[0, 0, 32:]])
    design = torch.block_diag(*columns).T.double()
    wanted = torch.linalg.lstsq(root @ design, root @ w[0].double()[:, None]).solution[:, 0]
    assert (wanted > 0).all()
    torch.testing.assert_close(found[0, 0].double(), wanted, rtol=1e-3, atol=1e-4)
    before = descent.loss(w, descent.values(codes, scale), gram)
    assert (descent.loss(w, descent.values(codes, found), gram) <= before).all()


def test_a_group_of_zeros_keeps_its_scale(gram):
    w, scale = normal(2, 64), torch.full((1, 2, 2), 0.7)
    codes = torch.sign(w)[None].clone()
    codes[:, :, 32:] = 0
    found = descent.scales(w, codes, gram, scale)
    assert found[:, :, 1].tolist() == [[pytest.approx(0.7)] * 2]
    assert torch.isfinite(found).all()


def test_a_sweep_only_goes_down_and_ends_where_no_column_gains(gram):
    w = normal(8, 64)
    value = w.round()
    losses = [descent.loss(w, value, gram)]
    for _ in range(20):
        value = descent.sweep(w, value, gram, lambda j, v_N: v_N.round())
        losses.append(descent.loss(w, value, gram))
    for before, after in pairwise(losses):
        assert (after <= before * (1 + 1e-5)).all()
    assert losses[-1].sum() < 0.5 * losses[0].sum()
    assert torch.equal(value, descent.sweep(w, value, gram, lambda j, v_N: v_N.round()))
    for j in (0, 17, 63):
        for step in (-1, 1):
            other = value.clone()
            other[:, j] += step
            assert (descent.loss(w, other, gram) >= losses[-1] * (1 - 1e-5)).all()


@pytest.mark.parametrize("zero_point", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_improved_codes_stay_codes(gram, bits, zero_point):
    w = normal(8, 64)
    q = quant.clip.quantize(w, bits, 16, symmetric=not zero_point)
    most = 2 ** (bits - 1) - 1
    codes = (-most - zero_point, most)
    free, fixed = (descent.improved(w, q, gram, codes, 3, free) for free in (True, False))
    assert total(w, free, gram) < total(w, fixed, gram) < total(w, q, gram)
    for found in (free, fixed):
        assert codes[0] <= int(found.codes_NK.min()) <= int(found.codes_NK.max()) <= codes[1]
        assert torch.equal(found.scale_NG, found.scale_NG.half().float())
        assert (found.zero_NG is None) == (not zero_point)
    assert torch.equal(fixed.scale_NG, q.scale_NG)


def test_minima_are_kept(gram):
    w = normal(4, 64)
    q = quant.blockwise.FORMATS["q4_1"](w)
    found = descent.improved(w, q, gram, (0, 15), 2, free_scales=False)
    assert total(w, found, gram) < total(w, q, gram)
    assert torch.equal(found.minimum_NG, q.minimum_NG)


def test_nothing_calibrated_stays_finite():
    w = normal(4, 64)
    q = quant.clip.quantize(w, 3, 16)
    found = descent.improved(w, q, descent.damped(torch.zeros(64, 64), 0.01), (-4, 3), 2)
    assert torch.isfinite(quant.dequantize(found)).all()
