"""The activation quantizers and float operations of the kernels, bit for bit."""

import numpy as np
import pytest

from onebit.kernels import cpu, ops, reference

WIDTHS = [1, 3, 16, 17, 63, 576, 1020]


def inputs(K, seed=0):
    """Rows of every size, with ties, zeros, extremes and one that is all zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((9, K)).astype(np.float32)
    x *= np.float32(10.0) ** np.arange(-6, 3, dtype=np.float32)[:, None]
    x[3] = 0
    x[4] = np.linspace(-127, 127, K)  # factor 1: halves stay halves
    x[5] = np.round(rng.uniform(-127, 127, K) * 2) / 2
    x[5, 0] = 127
    return x


@pytest.mark.parametrize("K", WIDTHS)
@pytest.mark.parametrize("block", [0, 32, 16, 5])
def test_quantize_i8_is_the_formula(isa, K, block):
    codes, scale = ops.quantize_i8(inputs(K), block)
    expected_codes, expected_scale = reference.quantize_i8(inputs(K), block)
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_array_equal(scale, expected_scale)


def test_halves_round_to_even(isa):
    x = np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -126.5]], np.float32)
    codes, scale = ops.quantize_i8(x)
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, 126, -126]]
    assert scale.tolist() == [[1.0]]


@pytest.mark.parametrize("block", [0, 1, 3, 5])
def test_a_block_with_what_is_no_number_has_a_nan_for_a_scale(isa, block):
    x = np.array([[np.nan, np.inf, -np.inf, 1, 0, np.nan, 3e38, -3e38]], np.float32)
    starts = range(0, 8, block or 8)
    lost = [not np.isfinite(x[0, k : k + (block or 8)]).all() for k in starts]
    assert np.isnan(ops.quantize_i8(x, block)[1]).tolist() == [lost]


def test_exp_is_within_two_ulp(isa):
    x = np.concatenate([np.linspace(-87.3, 88.7, 200_001), np.linspace(-1, 1, 50_001), [0.0]])
    x = x.astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    error_ulp = np.abs(cpu.exp(x) - exact) / np.spacing(exact.astype(np.float32))
    assert error_ulp.max() < 2
    assert cpu.exp(np.zeros(1, np.float32))[0] == 1


def test_exp_at_its_ends(isa):
    x = np.array([-np.inf, -1000, -104, -95, 89, 1000, np.inf], np.float32)
    expected = [0, 0, 0, np.exp(np.float64(-95)), np.inf, np.inf, np.inf]
    np.testing.assert_allclose(cpu.exp(x), expected, rtol=0.01)


def test_float_operations_are_equal_everywhere(monkeypatch):
    x = np.random.default_rng(0).uniform(-100, 90, 10_001).astype(np.float32)
    results = []
    for isa in cpu.isas():
        monkeypatch.setenv("ONEBIT_ISA", isa)
        results.append(cpu.exp(x))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_every_half_survives(isa):
    halves = np.arange(1 << 16, dtype=np.uint16)
    floats = cpu.f16_to_f32(halves)
    np.testing.assert_array_equal(floats, halves.view(np.float16).astype(np.float32))
    numbers = ~np.isnan(floats)
    np.testing.assert_array_equal(cpu.f32_to_f16(floats)[numbers], halves[numbers])
    assert np.isnan(cpu.f32_to_f16(floats)[~numbers].view(np.float16)).all()


def test_floats_round_to_the_nearest_half(isa):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([bits.view(np.float32), rng.standard_normal(100_000).astype(np.float32)])
    ties = (cpu.f16_to_f32(np.arange(0x7BFF, dtype=np.uint16)).astype(np.float64) * 2).astype("f4")
    ties = (ties[1:] + ties[:-1]) / 4  # halfway between neighbours, small ones included
    x = np.concatenate([x[~np.isnan(x)], ties, -ties, [65519.996, 65520, 1e-8, -2e-8, 2.98e-8]])
    x = x.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(cpu.f32_to_f16(x), expected)
