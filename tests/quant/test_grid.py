"""on_grid: what is quantized already is recognised, with its scale, through any storage."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit.quant import Codes, binary, dequantize, on_grid, ternary

W = 0.02 * torch.randn(32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("group", [None, 48, 16])
@pytest.mark.parametrize("rule", [ternary.quantize_absmean, binary.quantize])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounded_weights_are_on_the_grid(rule, group, dtype):
    q = rule(W, group)
    found = on_grid(dequantize(q).to(dtype), group)
    assert torch.equal(found.codes_NK, q.codes_NK)
    assert torch.equal(found.scale_NG, q.scale_NG.to(dtype).float())


def test_it_prevents_the_second_rounding():
    """The scale that a second absmean would shrink to 0.69 of itself is kept to the bit."""
    once = ternary.quantize_absmean(W)
    kept = on_grid(dequantize(once))
    shrunk = ternary.quantize_absmean(dequantize(once))
    assert torch.equal(kept.scale_NG, once.scale_NG)
    assert float(shrunk.scale_NG[0, 0] / once.scale_NG[0, 0]) == pytest.approx(0.69, abs=0.02)


def test_masters_are_not_on_a_grid():
    assert on_grid(W) is None
    assert on_grid(W, 48) is None
    assert on_grid(W, 16) is None


def test_nearly_is_not_on_it():
    w = dequantize(ternary.quantize_absmean(W))
    w[5, 7] = torch.nextafter(w.max(), torch.tensor(1.0))
    assert on_grid(w) is None


def test_a_scale_per_row_is_not_one_per_matrix():
    w = torch.tensor([[0.5, -0.5], [0.25, 0.0]])
    assert on_grid(w) is None
    assert on_grid(w, 2).scale_NG.tolist() == [[0.5], [0.25]]


def test_all_zero_groups_are_on_every_grid():
    w = torch.tensor([[0.0, -0.0, 0.5, 0.5]])
    q = on_grid(w, 2)
    assert q.codes_NK.tolist() == [[0, 0, 1, 1]]
    assert q.scale_NG.tolist() == [[pytest.approx(1e-5), 0.5]]
    assert torch.equal(dequantize(q), w)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_on_no_grid(bad):
    assert on_grid(torch.tensor([[bad, 0.0], [bad, bad]])) is None
    assert on_grid(torch.tensor([[bad, 0.0], [1.0, 1.0]]), 2) is None


@given(
    arrays(np.int8, (4, 6), elements=st.integers(-1, 1)),
    st.floats(2**-14, 100, width=16),
    st.sampled_from([torch.float32, torch.float16]),
)
def test_any_codes_come_back(codes, scale, dtype):
    q = Codes(torch.from_numpy(codes), torch.full((4, 1), scale))
    found = on_grid(dequantize(q).to(dtype))
    assert torch.equal(found.codes_NK, q.codes_NK)
    if codes.any():
        assert torch.equal(found.scale_NG, q.scale_NG)
