"""Attention against a plain loop over heads, and its causality."""

import math

import pytest
import torch

from onebit.nn import Attention, Rope, attention, record, rotate, score_ranges
from onebit.nn.attention import attend, by_matrices
from onebit.quant import kv

WIDTH, HEADS, DIM = 12, 4, 6
INV_FREQ = torch.tensor([1.0, 0.1, 0.01]).numpy()


def made(kv_heads, **options):
    torch.manual_seed(0)
    layer = Attention(WIDTH, HEADS, kv_heads, DIM, eps=1e-5, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def plain(layer, x_TC, kv_heads, temperature=None, seen=None):
    """One sequence, head by head, in the words of the paper; `seen` collects the scores."""
    T = x_TC.shape[0]
    rotation = Rope(INV_FREQ)(T)
    heads = []
    for h in range(HEADS):
        j = h * kv_heads // HEADS
        q, k, v = (
            proj(x_TC).view(T, -1, DIM)[:, i]
            for proj, i in ((layer.q_proj, h), (layer.k_proj, j), (layer.v_proj, j))
        )
        if layer.q_norm is not None:
            q, k = layer.q_norm(q), layer.k_norm(k)
        q, k = (rotate(t[None, :, None], rotation)[0, :, 0] for t in (q, k))
        if layer.kv_bits <= 8:
            k, v = kv.round_keys(k, layer.kv_bits), kv.round_values(v, layer.kv_bits)
        if layer.q_bits <= 8:
            q = kv.round_queries(q, layer.q_bits)
        warmth = 1.0 if temperature is None else temperature[h]
        scores = q @ k.T / (math.sqrt(DIM) * warmth)
        visible = torch.ones(T, T).tril().bool()
        if seen is not None:
            seen.append(scores[visible])
        scores = scores.masked_fill(~visible, -math.inf)
        heads.append(scores.softmax(dim=1) @ v)
    y = torch.cat(heads, dim=1)
    return layer.o_proj(y if layer.attn_sub_norm is None else layer.attn_sub_norm(y))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"qkv_bias": True, "out_bias": True}, {"qk_norm": True}, {"sub_norm": True}],
    ids=lambda o: ",".join(o) or "plain",
)
@torch.no_grad()
def test_matches_the_plain_loop(kv_heads, options):
    layer = made(kv_heads, **options)
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    y = layer(x, Rope(INV_FREQ)(7))
    for b in range(2):
        torch.testing.assert_close(y[b], plain(layer, x[b], kv_heads), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_token_does_not_see_later_ones():
    layer, x = made(2), torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(1))
    before = layer(x, Rope(INV_FREQ)(6))
    x[:, 4:] += 1
    after = layer(x, Rope(INV_FREQ)(6))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().max() > 0.1


def drawn(dtype, T=9):
    random = torch.Generator().manual_seed(2)
    return [
        torch.randn(2, heads, T, DIM, generator=random).to(dtype).requires_grad_()
        for heads in (HEADS, 2, 2)
    ]


@pytest.mark.parametrize("T", [1, 9])
def test_by_matrices_is_torchs_own_attention(T):
    """In float32, value and gradients; grouped heads."""
    operands = drawn(torch.float32, T)
    ours, theirs = by_matrices(*operands), attend(*operands)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3))
    for got, wanted in zip(
        torch.autograd.grad(ours, operands, upstream),
        torch.autograd.grad(theirs, operands, upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_bf16_on_a_cpu_goes_by_matrices_while_they_are_small(monkeypatch):
    operands = drawn(torch.bfloat16)
    called = []
    monkeypatch.setattr(attention, "by_matrices", lambda *o: called.append(1) or by_matrices(*o))
    exact = attend(*(t.float() for t in operands))
    assert not called
    y = attend(*operands)
    assert called
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).norm() < 0.01 * exact.norm()
    monkeypatch.setattr(attention, "MATRIX_TOKENS", 8)
    called.clear()
    torch.testing.assert_close(attend(*operands), y, rtol=0.02, atol=0.02)
    assert not called


ROTATION = Rope(INV_FREQ)(7)
X = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kv_bits", "q_bits"), [(8, 16), (4, 16), (3, 3), (2, 16), (16, 4)])
@torch.no_grad()
def test_low_bits_of_keys_values_and_queries(kv_bits, q_bits):
    layer = made(2)
    floats = layer(X, ROTATION)
    layer.kv_bits, layer.q_bits = kv_bits, q_bits
    y = layer(X, ROTATION)
    for b in range(2):
        torch.testing.assert_close(y[b], plain(layer, X[b], 2), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(y, floats, rtol=1e-3, atol=1e-3)


def test_low_bits_hand_gradients_straight_through():
    """Those of rounded operands, to the float ones: all three projections learn."""
    layer = made(2)
    layer.kv_bits, layer.q_bits = 4, 4
    layer(X, ROTATION).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_a_fixed_temperature_divides_the_scores():
    layer = made(2, temperature=2.5)
    assert layer.temperature is None
    y = layer(X, ROTATION)
    for b in range(2):
        expected = plain(layer, X[b], 2, temperature=[2.5] * HEADS)
        torch.testing.assert_close(y[b], expected, rtol=1e-4, atol=1e-5)


def test_a_learned_temperature_is_one_for_each_head():
    layer = Attention(WIDTH, HEADS, 2, DIM, eps=1e-5, temperature=0.5, learned_temperature=True)
    assert layer.temperature.tolist() == [0.5] * HEADS
    layer.temperature.data = torch.tensor([0.5, 1.0, 2.0, 4.0])
    y = layer(X, ROTATION)
    expected = torch.stack([plain(layer, x, 2, temperature=layer.temperature) for x in X])
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    ours, wanted = (
        torch.autograd.grad(out.square().sum(), layer.temperature)[0] for out in (y, expected)
    )
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-5)


def test_a_scale_reaches_both_ways_of_computing():
    operands = drawn(torch.float32)
    one, two = (form(*operands, 0.2) for form in (attend, by_matrices))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one, attend(*operands), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_range_of_scores_is_recorded_when_asked():
    layer, seen = made(2, temperature=1.5), []
    layer(X, ROTATION)
    assert layer.score_range is None
    assert score_ranges(layer) == {}
    record(layer)
    assert score_ranges(layer) == {}
    layer(X, ROTATION)
    for x in X:
        plain(layer, x, 2, temperature=[1.5] * HEADS, seen=seen)
    low, high = score_ranges(layer)[""]
    scores = torch.cat(seen)
    assert low == pytest.approx(scores.min().item(), rel=1e-5)
    assert high == pytest.approx(scores.max().item(), rel=1e-5)
    record(layer, on=False)
    assert layer.score_range is None
