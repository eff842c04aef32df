"""Low-bit keys and values: the numbers in the engine's own cache, read out of its attention."""

import numpy as np
import pytest
import torch

from onebit.errors import OptionError
from onebit.kernels import cpu, reference
from onebit.quant import kv

ENGINE_BITS = [8, 4, 3]
DIMS = [16, 64, 24, 10]


def rows(T, D, seed=0):
    x = torch.randn(1, T, D, generator=torch.Generator().manual_seed(seed))
    x[..., D // 3] *= 6  # an outlier channel
    return x + 0.2


def engine_values(v_TD, bits):
    """The values of positions 1 ... that the engine holds.

    The token at position t puts all of its attention there: its key is t's own direction.
    """
    T, D = v_TD.shape
    out = np.empty((T, D), np.float32)
    for t in range(1, T):
        attention = cpu.Attention(1, 1, D, 2, bits)
        k = np.zeros((2, 1, D), np.float32)
        k[1] = 8
        v = np.stack([np.zeros(D, np.float32), v_TD[t].numpy()])[:, None]
        attention.write(k, v)
        out[t] = attention.attend(np.full((1, 1, D), 100, np.float32))[0, 0]
    return out[1:]


def engine_keys(k_D, bits):
    """The key of position 1 that the engine holds, turned, read number by number.

    Position 0 has key 0 and value 1, position 1 has value 0: a query sees 1 / (1 + e^score). Query
    j turned is a multiple of unit vector j, which 8 bits hold exactly, so its score is number j.
    """
    D = len(k_D)
    attention = cpu.Attention(D, 1, D, 2, bits)
    k = np.stack([np.zeros(D, np.float32), k_D.numpy()])[:, None]
    v = np.stack([np.ones(D, np.float32), np.zeros(D, np.float32)])[:, None]
    attention.write(k, v)
    q = kv.turn(torch.eye(D)).numpy()[None]
    seen = attention.attend(q)[0, :, 0].astype(np.float64)
    return np.log(1 / seen - 1) * np.sqrt(D)


@pytest.mark.parametrize("bits", ENGINE_BITS)
@pytest.mark.parametrize("D", DIMS)
def test_values_are_the_engines(bits, D):
    v = rows(5, D)
    ours = kv.round_values(v, bits)[0, 1:].numpy()
    step = np.ptp(v[0, 1:].numpy(), axis=1, keepdims=True) / (2**bits - 1)
    # a code one off is a whole step away; float32 rounds sums of the size of the largest value
    assert (np.abs(engine_values(v[0], bits) - ours) < 1e-3 * step).all()


@pytest.mark.parametrize("bits", ENGINE_BITS)
@pytest.mark.parametrize("D", DIMS)
def test_keys_are_the_engines(bits, D):
    k = rows(5, D, seed=1)
    ours = kv.turn(kv.round_keys(k, bits)).numpy()[0]
    turned = kv.turn(k)[0].numpy()
    for t in range(1, 5):
        step = np.ptp(turned[t]) / (2**bits - 1)
        np.testing.assert_allclose(engine_keys(k[0, t], bits), ours[t], rtol=0, atol=2e-3 * step)


@pytest.mark.parametrize("bits", ENGINE_BITS)
def test_attention_is_the_engines(bits):
    """Whole outputs, within what its rounding of queries and probabilities costs; keys that are
    not turned, or a first position that is rounded, are further off."""
    T, D = 60, 64
    q, k, v = (rows(T, D, seed) for seed in (2, 3, 4))
    k[:, 0] *= 4
    v[:, 0] *= 4
    attention = cpu.Attention(1, 1, D, T, bits)
    attention.write(*(x[0, :, None].numpy() for x in (k, v)))
    engine = torch.from_numpy(attention.attend(q[0, :, None].numpy()))[:, 0]

    def attend(k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0]

    def apart(k, v):
        return float((attend(k, v) - engine).norm() / engine.norm())

    keys, values = kv.round_keys(k, bits), kv.round_values(v, bits)
    ours = apart(keys, values)
    assert ours < {8: 0.002, 4: 0.008, 3: 0.01}[bits]
    assert apart(kv.round_values(k, bits), values) > 1.7 * ours
    assert apart(kv.round_keys(k, bits, first=False), values) > 1.7 * ours
    assert apart(keys, kv.round_values(v, bits, first=False)) > 1.7 * ours


@pytest.mark.parametrize("bits", kv.BITS)
def test_equals_the_reference(bits):
    """`reference.quantize_range` is what the kernels' own tests hold the cache to."""
    x = rows(50, 64)[0] * torch.logspace(-6, 6, 50)[:, None]
    codes, scale, minimum = kv.codes(x, bits)
    np.testing.assert_array_equal(
        (codes * scale + minimum).numpy(), reference.quantize_range(x.numpy(), bits)
    )
    assert (codes.min(), codes.max()) == (0, 2**bits - 1)


@pytest.mark.parametrize("bits", kv.BITS)
@pytest.mark.parametrize("rounding", [kv.round_keys, kv.round_values])
def test_the_first_position_is_kept(bits, rounding):
    x = rows(4, 32)
    kept, rounded = rounding(x, bits)[:, 0], rounding(x, bits, first=False)[:, 0]
    torch.testing.assert_close(kept, x[:, 0], rtol=1e-3, atol=2e-3)
    assert (rounded - x[:, 0]).norm() > 3 * (kept - x[:, 0]).norm()
    assert torch.equal(rounding(x, bits)[:, 1:], rounding(x, bits, first=False)[:, 1:])


def test_the_papers_rule_keeps_the_first_position_too():
    x = rows(4, 32)
    rule = kv.RULES["papers"]
    for rounding in rule:
        assert torch.equal(rounding(x, 3)[:, :1], x[:, :1].half().float())
        assert torch.equal(rounding(x, 3)[:, 1:], kv.round_absmax(x, 3)[:, 1:])


def test_turned_twice_is_as_before():
    for D in (1, 10, 24, 64, 128):
        x = rows(3, D)
        torch.testing.assert_close(kv.turn(kv.turn(x)), x, rtol=0, atol=3e-6)


@pytest.mark.parametrize("bits", kv.BITS)
def test_gradients_pass_straight_through(bits):
    x = rows(3, 16).requires_grad_()
    dy = rows(3, 16, seed=9)
    for rounding in (kv.round_keys, kv.round_values, kv.round_queries, kv.round_absmax):
        x.grad = None
        rounding(x, bits).backward(dy)
        assert torch.equal(x.grad, dy)


def test_constant_rows_and_zeros():
    x = torch.tensor([[[0.0] * 8, [1.5] * 8, [-3.0] * 8]])
    for bits in kv.BITS:
        assert torch.equal(kv.round_values(x, bits), x)
        assert torch.equal(kv.round_queries(torch.zeros(1, 2, 8), bits), torch.zeros(1, 2, 8))


def test_bf16_keeps_its_dtype():
    x = rows(3, 16).bfloat16()
    assert kv.round_keys(x, 4).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", [16, 5, 1])
def test_other_bits_are_refused(bits):
    with pytest.raises(OptionError, match=f"of {bits} bits are no codes; accepted: 8, 4, 3, 2"):
        kv.round_keys(rows(2, 8), bits)
