"""The native product against torch's: equal forward, equal gradients within rounding."""

import pytest
import torch

from onebit import quant
from onebit.nn import codes_product, native_codes
from onebit.nn.bitlinear import B158, BitLinear, of_one_input
from onebit.quant import activation
from onebit.scheme import LinearScheme

T, K, N = 21, 48, 20


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_torch(x, w):
    """The product on torch's floats."""
    q, a = quant.ternary.quantize_absmean(w), activation.rounded(x, "int8_absmax")
    operands = x, w, a.codes, a.scale, q.codes_NK, q.scale_NG[0, 0]
    return codes_product.CodesProduct.apply(*operands)


def natively(x, w):
    return codes_product.ternary_products(x, [(w, B158)])[0]


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


@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_one_input_have_their_own_outputs_and_gradients(isa, bias):
    layers = [BitLinear(K, rows, bias) for rows in (N, 7, 16)]
    if bias:
        for layer in layers:
            torch.nn.init.normal_(layer.bias)
    x = draw(2, 9, K).requires_grad_()
    operands = [x, *(weight for layer in layers for weight in layer.parameters())]
    found = of_one_input(x, *layers)
    expected = [layer(x) for layer in layers]
    gradients = []
    for ys in (found, expected):
        loss = sum((y * draw(*y.shape, seed=i)).sum() for i, y in enumerate(ys))
        gradients.append(torch.autograd.grad(loss, operands))
    for ours, alone in zip(found, expected, strict=True):
        assert torch.equal(ours, alone)
    for ours, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


def test_an_output_that_nobody_uses_costs_no_gradient():
    layers, x = [BitLinear(K, rows) for rows in (N, 7)], draw(5, K).requires_grad_()
    of_one_input(x, *layers)[1].sum().backward()
    assert x.grad.abs().max() > 0
    assert not layers[0].weight.grad.any()


def test_layers_that_differ_are_called_one_by_one():
    """Other kinds of layers, other rules, and layers that somebody watches."""
    x, seen = draw(5, K), []
    watched = BitLinear(K, N)
    watched.register_forward_hook(lambda *call: seen.append(call))
    others = [
        torch.nn.Linear(K, 4),
        BitLinear(K, 4, scheme=LinearScheme("ternary", activation="int8_absmax", norm="rms")),
        BitLinear(K, 4, scheme=LinearScheme("int4", "absmax", activation="int8_absmax")),
    ]
    for other in others:
        layers = BitLinear(K, N), other
        for y, layer in zip(of_one_input(x, *layers), layers, strict=True):
            assert torch.equal(y, layer(x))
    of_one_input(x, BitLinear(K, N), watched)
    assert len(seen) == 1


def test_others_go_by_torch(monkeypatch):
    """By dtype, by the lack of tokens, and on CPUs without kernels."""
    assert native_codes.serves(draw(2, K), torch.bfloat16)
    assert not native_codes.serves(draw(2, K).double(), torch.float64)
    assert not native_codes.serves(draw(2, K), torch.float16)
    assert not native_codes.serves(draw(0, K), torch.float32)
    assert not native_codes.serves(torch.empty(2, K, device="meta"), torch.float32)
    monkeypatch.setenv("ONEBIT_ISA", "scalar")
    assert not native_codes.serves(draw(2, K), torch.float32)
