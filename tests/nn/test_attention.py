"""Attention against a plain loop over heads, and its causality."""

import math

import pytest
import torch

from onebit.nn import Attention, Rope, attention, rotate
from onebit.nn.attention import attend, by_matrices

WIDTH, HEADS, DIM = 12, 4, 6
INV_FREQ = torch.tensor([1.0, 0.1, 0.01]).numpy()


def made(kv_heads, **options):
    torch.manual_seed(0)
    layer = Attention(WIDTH, HEADS, kv_heads, DIM, eps=1e-5, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def plain(layer, x_TC, kv_heads):
    """One sequence, head by head, in the words of the paper."""
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
        scores = (q @ k.T / math.sqrt(DIM)).masked_fill(~torch.ones(T, T).tril().bool(), -math.inf)
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
