"""Ternary weights: the formulas, the errors of theory, and what a second rounding does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit.errors import ShapeError
from onebit.quant import dequantize, fewest_scales, ternary
from onebit.quant.codes import Codes

RULES = [
    ternary.quantize_absmean,
    ternary.quantize_absmedian,
    ternary.quantize_least_squares,
]
N, K = 256, 512


def draw(kind, shape=(N, K), seed=0):
    rng = np.random.default_rng(seed)
    draws = {"gauss": rng.normal, "laplace": rng.laplace, "uniform": rng.uniform}
    size = {"uniform": {"low": -1, "high": 1}}.get(kind, {})
    return torch.from_numpy(0.02 * draws[kind](size=shape, **size)).float()


def relative_error(w, q):
    return float((w - dequantize(q)).norm() / w.norm())


def test_absmean_by_hand():
    w = torch.tensor([[0.9, -0.1, 0.5], [-2.1, 0.3, 0.0]])  # mean |w| = 0.65, so 0.325 is half
    q = ternary.quantize_absmean(w)
    assert q.codes_NK.tolist() == [[1, 0, 1], [-1, 0, 0]]
    torch.testing.assert_close(q.scale_NG, torch.full((2, 1), 0.65))


def test_half_the_scale_rounds_to_zero():
    """Ties go to even: |w| of exactly half the mean is 0, as torch.round has it."""
    w = torch.tensor([[1.0, 3.0, 1.0, 3.0]])  # mean 2
    assert ternary.quantize_absmean(w).codes_NK.tolist() == [[0, 1, 0, 1]]


def test_absmedian_takes_the_lower_middle():
    w = torch.tensor([[0.1, -0.2, 0.6, 9.0]])
    q = ternary.quantize_absmedian(w)
    assert q.scale_NG.tolist() == [[pytest.approx(0.2)]]
    assert q.codes_NK.tolist() == [[0, -1, 1, 1]]


def test_least_squares_scale_is_the_best_for_its_codes():
    w = draw("gauss")
    q = ternary.quantize_least_squares(w)
    best = relative_error(w, q)
    for factor in (0.99, 1.01):
        assert relative_error(w, q._replace(scale_NG=q.scale_NG * factor)) > best


@pytest.mark.parametrize(
    ("kind", "share"), [("gauss", 0.691), ("laplace", 0.608), ("uniform", 0.751)]
)
def test_a_second_absmean_keeps_the_codes_and_shrinks_the_scale(kind, share):
    """By exactly the share p of non-zeros, which the distribution gives."""
    once = ternary.quantize_absmean(draw(kind))
    p = float(once.codes_NK.ne(0).float().mean())
    assert p == pytest.approx(share, abs=0.005)
    twice = ternary.quantize_absmean(dequantize(once))
    assert torch.equal(twice.codes_NK, once.codes_NK)
    torch.testing.assert_close(twice.scale_NG, once.scale_NG * p, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(ternary.quantize_absmean, 0.513), (ternary.quantize_least_squares, 0.434)],
)
def test_error_on_gaussian_weights(rule, expected):
    assert relative_error(draw("gauss"), rule(draw("gauss"))) == pytest.approx(expected, abs=0.004)


def test_least_squares_scale_is_a_third_larger_on_the_same_codes():
    w = draw("gauss")
    q = ternary.quantize_absmean(w)
    kept = w[q.codes_NK != 0].abs().mean()
    assert float(kept / q.scale_NG[0, 0]) == pytest.approx(1.337, abs=0.01)
    better = q._replace(scale_NG=kept.expand(N, 1))
    assert relative_error(w, better) == pytest.approx(0.459, abs=0.004)


@pytest.mark.parametrize("rule", RULES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("group", [None, 12, 4, 1])
def test_sharing(rule, group):
    """Each group is rounded as if it were alone."""
    w = draw("gauss", (3, 12))
    q = rule(w, group)
    assert q.codes_NK.dtype == torch.int8
    assert q.scale_NG.shape == (3, 12 // group if group else 1)
    assert q.scale_NG.dtype == torch.float32
    if group is None:
        assert q.scale_NG.unique().numel() == 1
        return
    for row in range(3):
        for g in range(12 // group):
            columns = slice(g * group, (g + 1) * group)
            alone = rule(w[row : row + 1, columns])
            assert torch.equal(alone.codes_NK[0], q.codes_NK[row, columns])
            torch.testing.assert_close(alone.scale_NG[0, 0], q.scale_NG[row, g])


@pytest.mark.parametrize("rule", RULES, ids=lambda f: f.__name__)
def test_zeros_stay_zeros(rule):
    q = rule(torch.zeros(2, 8), 4)
    assert not q.codes_NK.any()
    assert (q.scale_NG > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_maths_is_float32_whatever_the_dtype(dtype):
    w = draw("gauss").to(dtype)
    q, expected = ternary.quantize_absmean(w), ternary.quantize_absmean(w.float())
    assert torch.equal(q.codes_NK, expected.codes_NK)
    assert torch.equal(q.scale_NG, expected.scale_NG)


def test_denormal_weights_are_zeros_and_not_nan():
    w = draw("gauss").to(torch.bfloat16)
    w[0] = 1e-34  # as in the published 2B-4T masters
    q = ternary.quantize_absmean(w, K)
    assert not q.codes_NK[0].any()
    assert torch.isfinite(q.scale_NG).all()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 4), (4, 0)])
def test_what_is_no_matrix_is_refused(shape):
    with pytest.raises(ShapeError, match=r"have shape \(.*Pass a matrix"):
        ternary.quantize_absmean(torch.zeros(shape))


def test_group_that_does_not_divide_is_refused():
    with pytest.raises(ShapeError, match="10 columns do not split into groups of 4"):
        ternary.quantize_absmean(torch.ones(2, 10), 4)


@pytest.mark.parametrize("group", [None, 32])
def test_latent_weights_round_to_their_codes_and_scale(group):
    q = ternary.quantize_absmean(draw("gauss"), group)
    again = ternary.quantize_absmean(ternary.latent_absmean(q, group), group)
    assert torch.equal(again.codes_NK, q.codes_NK)
    torch.testing.assert_close(again.scale_NG, q.scale_NG, rtol=1e-5, atol=0)


def test_fewest_scales_ignores_blocks_of_zeros():
    codes = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, -1, 1]], dtype=torch.int8)
    q = fewest_scales(Codes(codes, torch.tensor([[0.5, 0.0], [0.0, 0.0], [9.0, 0.5]])))
    assert q.scale_NG.tolist() == [[0.5]] * 3


def test_fewest_scales_keeps_scales_that_differ():
    q = Codes(torch.ones(1, 4, dtype=torch.int8), torch.tensor([[0.5, 0.25]]))
    assert torch.equal(fewest_scales(q).scale_NG, q.scale_NG)


WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(12)),
    elements=st.floats(-4, 4, width=32),
)


@given(WEIGHTS, st.sampled_from(RULES), st.sampled_from([None, 12, 3]))
def test_any_weights(array, rule, group):
    """Codes in their set, signs kept, values finite, and codes the same when rounded again."""
    w = torch.from_numpy(array)
    q = rule(w, group)
    assert set(q.codes_NK.unique().tolist()) <= {-1, 0, 1}
    assert (q.codes_NK * w >= 0).all()
    assert torch.isfinite(dequantize(q)).all()
    if rule is ternary.quantize_absmean:
        assert torch.equal(rule(dequantize(q), group).codes_NK, q.codes_NK)
