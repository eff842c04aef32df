"""Integer weights of 2 to 8 bits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit.errors import OptionError
from onebit.quant import Codes, dequantize, integer

WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.just(12)),
    elements=st.floats(-100, 100, width=32),
)
SHARING = st.sampled_from([None, 12, 4, 1])


def test_symmetric_by_hand():
    q = integer.quantize(torch.tensor([[7.0, -3.4, 0.6, 0.0]]), 4)
    assert q.codes_NK.tolist() == [[7, -3, 1, 0]]
    assert q.scale_NG.tolist() == [[1.0]]


def test_zero_point_by_hand():
    """0 ... 15 in the literature, stored less 8."""
    q = integer.quantize_zero_point(torch.tensor([[-3.0, 12.0, 0.0, 4.4]]), 4)
    assert q.scale_NG.tolist() == [[1.0]]
    assert q.zero_NG.tolist() == [[-5]]
    assert q.codes_NK.tolist() == [[-8, 7, -5, -1]]
    assert dequantize(q).tolist() == [[-3.0, 12.0, 0.0, 4.0]]


def test_zero_is_inside_the_range_of_positive_weights():
    q = integer.quantize_zero_point(torch.tensor([[10.0, 11.0]]), 8)
    assert q.zero_NG.tolist() == [[-128]]
    torch.testing.assert_close(dequantize(q), torch.tensor([[10.0, 11.0]]), atol=0.03, rtol=0)


@given(WEIGHTS, st.integers(2, 8), SHARING)
def test_symmetric_is_within_half_a_step(array, bits, group):
    w = torch.from_numpy(array)
    q = integer.quantize(w, bits, group)
    largest = 2 ** (bits - 1) - 1
    assert q.codes_NK.int().abs().max() <= largest
    error = (w - dequantize(q)).view(*q.scale_NG.shape, -1).abs()
    assert (error <= q.scale_NG[..., None] * 0.5001).all()
    assert not dequantize(q)[w == 0].any()


@given(WEIGHTS, st.integers(2, 8), SHARING)
def test_zero_point_is_within_one_step_and_zero_is_exact(array, bits, group):
    """Half a step from rounding the weight and half from rounding the zero-point."""
    w = torch.from_numpy(array)
    q = integer.quantize_zero_point(w, bits, group)
    half = 2 ** (bits - 1)
    assert int(q.codes_NK.min()) >= -half
    assert int(q.codes_NK.max()) < half
    error = (w - dequantize(q)).view(*q.scale_NG.shape, -1).abs()
    assert (error <= q.scale_NG[..., None] * 1.0001).all()
    assert not dequantize(q)[w == 0].any()


@given(WEIGHTS, st.integers(2, 8), SHARING)
def test_rounding_again_keeps_the_codes(array, bits, group):
    q = integer.quantize(torch.from_numpy(array), bits, group)
    again = integer.quantize(dequantize(q), bits, group)
    torch.testing.assert_close(dequantize(again), dequantize(q), rtol=1e-5, atol=1e-37)


def test_more_bits_mean_less_error():
    w = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    for rule in (integer.quantize, integer.quantize_zero_point):
        errors = [float((w - dequantize(rule(w, bits, 64))).norm()) for bits in range(2, 9)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.02 * errors[0]


def test_a_zero_point_helps_weights_that_lie_on_one_side():
    w = torch.rand(16, 64, generator=torch.Generator().manual_seed(0))
    symmetric = (w - dequantize(integer.quantize(w, 4))).norm()
    shifted = (w - dequantize(integer.quantize_zero_point(w, 4))).norm()
    assert shifted < 0.6 * symmetric


@pytest.mark.parametrize("rule", [integer.quantize, integer.quantize_zero_point])
def test_zeros_and_denormals_are_no_nan(rule):
    w = torch.tensor([[0.0, 0.0], [1e-42, -1e-42]])
    assert torch.isfinite(dequantize(rule(w, 4, 2))).all()


@pytest.mark.parametrize("bits", [1, 9, 0, -3])
def test_other_widths_are_refused(bits):
    with pytest.raises(OptionError, match=f"{bits} bits; accepted: a whole number from 2 to 8"):
        integer.quantize(torch.ones(2, 2), bits)


@pytest.mark.parametrize("bits", integer.BITS)
def test_a_zero_point_as_a_minimum_and_back(bits):
    """The pair in which a file holds it."""
    w = torch.randn(5, 24, generator=torch.Generator().manual_seed(0)) + 0.3
    q = integer.quantize_zero_point(w, bits, 8)
    held = Codes(q.codes_NK, q.scale_NG, minimum_NG=integer.minimum_of_zero(q))
    torch.testing.assert_close(dequantize(held), dequantize(q))
    back = integer.zero_of_minimum(held)
    assert torch.equal(back.zero_NG, q.zero_NG)
    assert back.minimum_NG is None
    moved = held._replace(minimum_NG=held.minimum_NG * 1.001)
    assert integer.zero_of_minimum(moved) is None
    assert integer.zero_of_minimum(q) is q
