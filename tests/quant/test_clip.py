"""Clipping: each rule's cut, and what it does to the error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit import quant
from onebit.errors import InputError, OptionError, ShapeError
from onebit.quant import clip


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(q, w):
    return float((quant.dequantize(q) - w).square().mean())


@pytest.fixture(scope="module")
def student():
    """100,000 numbers of Student's t with 4 degrees of freedom, whose largest is 32.5."""
    x = np.random.default_rng(5).standard_t(4, 100_000)
    x[np.abs(x).argmax()] = 32.5
    return torch.from_numpy(x).float()[None]


# bits: error of none, percentile:99.9, mse, of other numbers of this distribution
STUDENT = {8: (0.00546, 0.0231, 0.0039), 4: (1.093, 0.155, 0.112), 2: (1.996, 1.673, 0.648)}


@pytest.mark.parametrize("bits", STUDENT)
def test_errors_of_heavy_tails(student, bits):
    rules = ("none", "percentile:99.9", "mse")
    found = [
        error(clip.quantize(student, bits, symmetric=True, rule=rule), student) for rule in rules
    ]
    assert found == pytest.approx(STUDENT[bits], rel=0.16)


def test_a_percentile_loses_at_8_bits_and_wins_at_4(student):
    def found(bits, rule):
        return error(clip.quantize(student, bits, symmetric=True, rule=rule), student)

    assert found(8, "percentile:99.9") > 3 * found(8, "none")
    assert found(4, "percentile:99.9") < found(4, "none") / 5


@pytest.mark.parametrize("bits", [4, 8])
def test_divergence_cuts_heavy_tails_and_nothing_of_even_values(student, bits):
    scale_S, _ = clip.factors(student, bits, symmetric=True, rule="kl")
    assert float(scale_S) < 0.8 * float(student.abs().max()) / (2 ** (bits - 1) - 1)
    even = torch.linspace(-1, 1, 8192)[None]
    scale_S, _ = clip.factors(even, bits, symmetric=True, rule="kl")
    assert float(scale_S) > 0.95 / (2 ** (bits - 1) - 1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [None, 96, 32])
def test_searched_is_never_worse_than_the_whole_range(bits, group, symmetric):
    w = normal(24, 96, seed=bits)
    plain, searched = (
        clip.quantize(w, bits, group, symmetric=symmetric, rule=rule) for rule in ("none", "mse")
    )
    assert error(searched, w) <= error(plain, w)
    assert searched.scale_NG.shape == (24, {None: 1, 96: 1, 32: 3}[group])
    assert (searched.zero_NG is None) == symmetric


@pytest.mark.parametrize("bits", range(2, 9))
def test_none_is_the_plain_rounding_with_a_scale_of_float16(bits):
    w = normal(8, 64)
    for symmetric, plain in (
        (True, quant.integer.quantize),
        (False, quant.integer.quantize_zero_point),
    ):
        q, wanted = clip.quantize(w, bits, 16, symmetric=symmetric), plain(w, bits, 16)
        assert torch.equal(q.scale_NG, wanted.scale_NG.half().float())
        assert (q.codes_NK.int() - wanted.codes_NK).abs().max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, (2, 32), elements=st.floats(-8, 8, width=32)),
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from(["none", "ratio:0.7", "percentile:90", "mse"]),
)
def test_any_weights(array, bits, symmetric, rule):
    w = torch.from_numpy(array)
    q = clip.quantize(w, bits, 16, symmetric=symmetric, rule=rule)
    most = 2 ** (bits - 1) - 1
    assert q.codes_NK.int().abs().max() <= most + (not symmetric)
    assert torch.equal(q.scale_NG, q.scale_NG.half().float())
    assert (quant.dequantize(q)[w == 0] == 0).all()  # 0 is always one of the values
    if rule == "none":
        step = q.scale_NG.repeat_interleave(16, dim=1)
        # float16 takes 2^-11 of a scale, and 2^-24 at least, up to 255 times
        slack = step * 255 * 2**-11 + 255 * 2**-24
        assert (
            (quant.dequantize(q) - w).abs() <= step * (1 if not symmetric else 0.5) + slack
        ).all()


def test_importance_moves_the_error_to_where_it_matters_less():
    w, h_K = normal(16, 64), torch.ones(64)
    h_K[:8] = 100
    plain, weighted = (clip.quantize(w, 3, 64, rule="mse", importance_K=h) for h in (None, h_K))

    def loss(q):
        return float(((quant.dequantize(q) - w).square() * h_K).sum())

    assert loss(weighted) < loss(plain)


@pytest.mark.parametrize("group", [None, 64, 16])
def test_output_is_least_where_inputs_hang_together(group):
    x_TK = normal(256, 64) @ normal(64, 64, seed=1) + 2
    gram_KK, w = x_TK.T @ x_TK / 256, normal(16, 64, seed=2)
    found = {
        rule: clip.quantize(w, 3, group, symmetric=True, rule=rule, gram_KK=gram_KK)
        for rule in ("mse", "output")
    }
    k = group or 64
    blocks = torch.block_diag(*(gram_KK[i : i + k, i : i + k] for i in range(0, 64, k)))

    def loss(q):
        miss = quant.dequantize(q) - w
        return float(((miss @ blocks) * miss).sum())

    assert loss(found["output"]) < loss(found["mse"])


def test_bf16_is_taken():
    w = normal(4, 32).bfloat16()
    for rule in ("none", "mse", "percentile:99"):
        wanted = clip.quantize(w.float(), 4, 16, rule=rule)
        assert torch.equal(clip.quantize(w, 4, 16, rule=rule).codes_NK, wanted.codes_NK)


def test_zeros_stay_zeros():
    for symmetric in (True, False):
        q = clip.quantize(torch.zeros(2, 32), 3, 16, symmetric=symmetric, rule="mse")
        assert (quant.dequantize(q) == 0).all()


@pytest.mark.parametrize(
    "rule",
    ["max", "0.9", "ratio:0", "ratio:1.5", "ratio:-0.5", "percentile:", "percentile:20", "nan", ""],
)
def test_rules_that_are_none(rule):
    with pytest.raises(OptionError, match="accepted: none"):
        clip.quantize(torch.ones(1, 4), 4, rule=rule)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(OptionError, match="9 bits; accepted"):
        clip.quantize(torch.ones(1, 4), 9)
    with pytest.raises(OptionError, match="64 weights that share a scale make none"):
        clip.quantize(torch.ones(1, 64), 4, 64, rule="kl")
    with pytest.raises(InputError, match="needs the Gram matrix"):
        clip.quantize(torch.ones(1, 4), 4, rule="output")
    with pytest.raises(ShapeError, match=r"Gram matrix of shape \(2, 2\) for 4 columns"):
        clip.quantize(torch.ones(1, 4), 4, rule="output", gram_KK=torch.eye(2))
    with pytest.raises(ShapeError, match=r"importance of shape \(3,\) for 4 columns"):
        clip.quantize(torch.ones(1, 4), 4, rule="mse", importance_K=torch.ones(3))
    with pytest.raises(InputError, match="does not fit float16"):
        clip.quantize(torch.full((1, 4), 1e9), 4)
    with pytest.raises(InputError, match="does not fit float16"):
        clip.quantize(torch.tensor([[1.0, float("nan")]]), 4)
