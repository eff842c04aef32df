"""The native product against torch's: equal forward, equal gradients within rounding."""

import pytest
import torch

from onebit import quant
from onebit.nn import codes_product, native_codes
from onebit.nn.bitlinear import B158
from onebit.quant import activation

T, K, N = 21, 48, 20


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_torch(x, w):
    """The product on torch's floats."""
    q, a = quant.ternary.quantize_absmean(w), activation.rounded(x, "int8_absmax")
    operands = x, w, a.codes, a.scale, q.codes_NK, q.scale_NG[0, 0]
    return codes_product.CodesProduct.apply(*operands)


def natively(x, w):
    return codes_product.ternary_product(x, w, B158)


def gradients(product, x, w, upstream):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = product(x, w)
    return y.detach(), *torch.autograd.grad(y, (x, w), upstream.to(y.dtype))


def test_forward_is_equal_to_the_bit_and_gradients_within_rounding(isa):
    found, expected = (
        gradients(way, draw(3, 7, K), draw(N, K, seed=1), draw(3, 7, N, seed=2))
        for way in (natively, by_torch)
    )
    assert torch.equal(found[0], expected[0])
    for ours, torchs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("autocast", [True, False])
def test_bf16_is_fp32_rounded(isa, autocast):
    """Sums are exact, scaled in float32 and rounded once; torch rounds the sums first."""
    x, w, upstream = draw(T, K).bfloat16(), draw(N, K, seed=1), draw(T, N, seed=2).bfloat16()
    expected = gradients(natively, x.float(), w, upstream)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(natively, x.float() if autocast else x, w, upstream)
    assert torch.equal(found[0], expected[0].bfloat16())
    assert [g.dtype for g in found[1:]] == [torch.float32 if autocast else x.dtype, w.dtype]
    for ours, exact in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("scale", ["tensor", "row"])
@pytest.mark.parametrize("kind", ["int8_absmax", "int8_absmax_tensor", "int4_absmean", "int8_b1"])
def test_product_takes_codes_of_every_rule(isa, kind, scale):
    x, w, upstream = draw(2, 5, K), draw(N, K, seed=1), draw(2, 5, N, seed=2)
    q, a = quant.integer.quantize(w, 4, K), activation.rounded(x, kind)
    scale_w = q.scale_NG[0, 0] if scale == "tensor" else q.scale_NG[:, 0]
    operands = a.codes, a.scale, q.codes_NK, scale_w
    found, expected = (
        gradients(lambda x, w, way=way: way(x, w, *operands), x, w, upstream)
        for way in (codes_product.product, codes_product.CodesProduct.apply)
    )
    assert torch.equal(found[0], expected[0])
    for ours, torchs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)


def test_one_input_is_rounded_once():
    x = draw(T, K)
    first = native_codes.absmax_tokens(x)
    assert native_codes.absmax_tokens(x) is first
    assert native_codes.absmax_tokens(x.clone()) is not first


def test_a_changed_input_is_rounded_again():
    x = draw(T, K)
    native_codes.absmax_tokens(x)
    x.mul_(-1)
    expected = activation.quantize(x, "int8_absmax").codes
    assert torch.equal(native_codes.absmax_tokens(x).codes_TK, expected)


def test_an_input_without_a_version_is_rounded_every_time():
    with torch.inference_mode():
        x = draw(T, K)
        native_codes.absmax_tokens(x)
        x.mul_(-1)
        expected = activation.quantize(x, "int8_absmax").codes
        assert torch.equal(native_codes.absmax_tokens(x).codes_TK, expected)


def test_layers_that_share_an_input_have_their_own_gradients():
    """What is kept of one layer's gradients serves the next only where it is of the same codes."""
    xs = [draw(T, K, seed=seed).requires_grad_() for seed in (0, 1)]
    ws = [draw(N, K, seed=seed) for seed in (2, 3, 4)]
    pairs = [(xs[0], ws[0]), (xs[0], ws[1]), (xs[1], ws[2])]
    sums = []
    for product in (natively, by_torch):
        weights = [w.clone().requires_grad_() for _, w in pairs]
        y = sum(product(x, w).square().sum() for (x, _), w in zip(pairs, weights, strict=True))
        sums.append(torch.autograd.grad(y, [*xs, *weights]))
    for ours, torchs in zip(*sums, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)


def test_others_go_by_torch(monkeypatch):
    """By dtype, by the lack of tokens, and on CPUs without kernels."""
    assert native_codes.serves(draw(2, K), torch.bfloat16)
    assert not native_codes.serves(draw(2, K).double(), torch.float64)
    assert not native_codes.serves(draw(2, K), torch.float16)
    assert not native_codes.serves(draw(0, K), torch.float32)
    assert not native_codes.serves(torch.empty(2, K, device="meta"), torch.float32)
    monkeypatch.setenv("ONEBIT_ISA", "scalar")
    assert not native_codes.serves(draw(2, K), torch.float32)
