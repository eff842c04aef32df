"""Binary weights: strictly two codes, and the scale applied exactly once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit.quant import activation, binary, dequantize

W = 0.02 * torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) + 0.004


def test_by_hand():
    w = torch.tensor([[3.0, 1.0], [-1.0, 0.0]])  # mean 0.75, mean |w| 1.25
    q = binary.quantize(w)
    assert q.codes_NK.tolist() == [[1, 1], [-1, -1]]
    assert q.scale_NG.tolist() == [[1.25], [1.25]]


def test_sign_of_zero_is_minus_one():
    """A weight equal to the mean. torch.sign would give a third code, 0."""
    w = torch.tensor([[1.0, 0.0, -1.0]])
    assert torch.sign(w - w.mean()).unique().numel() == 3
    assert binary.quantize(w).codes_NK.tolist() == [[1, -1, -1]]


def test_scaling_before_the_sign_changes_no_code():
    """sign((w - e) * s) = sign(w - e) for s > 0: the two published forms have the same codes."""
    s, e = W.abs().mean(), W.mean()
    before, after = ((W - e) * s).sign(), (W - e).sign()
    assert torch.equal(before, after)
    assert torch.equal(binary.quantize(W).codes_NK.float(), after)


def test_both_published_forms_are_one_when_the_scale_is_applied_once():
    """The paper multiplies the output by beta, Microsoft's code the weights."""
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))
    s, e = W.abs().mean(), W.mean()
    code_form = x @ ((W - e).sign() * s).T
    paper_form = (x @ ((W - e) * s).sign().T) * s
    ours = x @ dequantize(binary.quantize(W)).T
    torch.testing.assert_close(code_form, paper_form)
    torch.testing.assert_close(ours, code_form)


def test_sign_after_scaling_alone_loses_the_scale():
    """The "correction" u = ((w - e) * scale).sign() without a beta later: an error of 49 times
    the weights instead of 0.60."""
    w = W - W.mean()
    dropped = (w * w.abs().mean()).sign()

    def error(w_hat):
        return float((w - w_hat).norm() / w.norm())

    assert error(dequantize(binary.quantize(w))) == pytest.approx(0.60, abs=0.02)
    assert error(dropped) == pytest.approx(49, rel=0.05)


def test_scale_is_applied_once_in_an_integer_product():
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(2))
    q, a = binary.quantize(W), activation.quantize(x, "int8_absmax")
    sums = a.codes.int() @ q.codes_NK.int().T
    by_integers = sums * (a.scale * q.scale_NG[0, 0])
    torch.testing.assert_close(by_integers, (a.codes * a.scale) @ dequantize(q).T)


@pytest.mark.parametrize("group", [96, 32])
def test_each_group_has_its_own_mean_and_scale(group):
    q = binary.quantize(W, group)
    alone = binary.quantize(W[3:4, :group])
    assert torch.equal(q.codes_NK[3:4, :group], alone.codes_NK)
    torch.testing.assert_close(q.scale_NG[3, 0], alone.scale_NG[0, 0])


def test_an_all_zero_matrix_stays_zero():
    assert not dequantize(binary.quantize(torch.zeros(3, 4))).any()


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 5), st.just(8)), elements=st.floats(-4, 4, width=32)
    ),
    st.sampled_from([None, 8, 4]),
)
def test_codes_are_strictly_two(array, group):
    q = binary.quantize(torch.from_numpy(array), group)
    assert set(q.codes_NK.unique().tolist()) <= {-1, 1}
    assert (q.scale_NG >= 0).all()
