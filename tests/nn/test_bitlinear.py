"""BitLinear: the integers it computes with, its gradients, and frozen codes."""

import copy

import pytest
import torch
import torch.nn.functional as F

from onebit import quant
from onebit.errors import OptionError, ShapeError
from onebit.nn import BitLinear
from onebit.quant import activation, straight_through
from onebit.scheme import LinearScheme

K, N = 48, 20
B158 = LinearScheme("ternary", activation="int8_absmax")
SCHEMES = [
    B158,
    LinearScheme("ternary"),
    LinearScheme("ternary", weight_scale="row", activation="int8_absmax"),
    LinearScheme("ternary", weight_scale="group:16", activation="int8_absmax"),
    LinearScheme("ternary", "least_squares", "row", "int4_absmean"),
    LinearScheme("binary", activation="int8_absmax_tensor"),
    LinearScheme("int4", "absmax", "group:16"),
    LinearScheme("int8", "absmax", "row", "int8_absmax"),
    LinearScheme("fp", activation="int8_absmax"),
    LinearScheme("ternary", activation="int8_absmax", norm="rms"),
]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(scheme=B158, bias=True):
    layer = BitLinear(K, N, bias, scheme)
    with torch.no_grad():
        layer.weight.copy_(draw(N, K, seed=1) * 0.05)
        if bias:
            layer.bias.copy_(draw(N, seed=2))
        if layer.rms_norm is not None:
            layer.rms_norm.weight.copy_(1 + 0.1 * draw(K, seed=3))
    return layer


def fake_quantized(layer, x):
    """The plain form: F.linear on straight-through operands."""
    if layer.rms_norm is not None:
        x = layer.rms_norm(x)
    if layer.scheme.activation != "fp":
        a = activation.quantize(x, layer.scheme.activation)
        x = straight_through(x, a.codes * a.scale)
    w = layer.weight
    if layer.scheme.weight != "fp":
        w = straight_through(w, quant.dequantize(quant.quantize_weight(w, layer.scheme)))
    return F.linear(x, w, layer.bias)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)], ids=str)
def test_value_and_gradients_are_those_of_the_plain_form(scheme, shape):
    layer, x = made(scheme), draw(*shape, K, seed=4).requires_grad_()
    operands = [x, *layer.parameters()]
    y, expected = layer(x), fake_quantized(layer, x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    upstream = draw(*shape, N, seed=5)
    ours = torch.autograd.grad(y, operands, upstream)
    plain = torch.autograd.grad(expected, operands, upstream)
    for got, wanted in zip(ours, plain, strict=True):
        assert wanted.abs().max() > 0
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_sums_are_those_of_the_integers():
    """Equal to int64 arithmetic on the codes, to the bit, before and after scaling."""
    layer, x = made(bias=False), draw(7, K, seed=4)
    q, a = layer.codes(), layer.input_codes(x)
    sums = a.codes.long() @ q.codes_NK.long().T
    assert torch.equal(layer(x), sums.float() * (a.scale * q.scale_NG[0, 0]))


def test_sums_are_exact_at_the_largest_width():
    """131,072 columns of 127 times 1 add up to 16.6 million, below 2^24."""
    wide = BitLinear(131_072, 1)
    with torch.no_grad():
        wide.weight.fill_(0.5)
        y = wide(torch.ones(1, 131_072))
    scale = torch.tensor(1.0) / 127 * 0.5
    assert torch.equal(y, torch.tensor([[131_072 * 127.0]]) * scale)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_bf16_autocast(scheme):
    """Codes are exact in bf16; only the sums are rounded to it, as in any bf16 product."""
    layer, x = made(scheme), draw(6, K, seed=4).requires_grad_()
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02)
    upstream = draw(6, N, seed=5)
    ours = torch.autograd.grad(y, (x, layer.weight), upstream.bfloat16())
    plain = torch.autograd.grad(expected, (x, layer.weight), upstream)
    for got, wanted in zip(ours, plain, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)


def test_the_codes_do_not_depend_on_autocast():
    layer, x = made(), draw(6, K, seed=4)
    with torch.autocast("cpu", torch.bfloat16):
        under = layer.codes(), layer.input_codes(x)
    assert torch.equal(under[0].codes_NK, layer.codes().codes_NK)
    assert torch.equal(under[1].codes, layer.input_codes(x).codes)


def test_a_bf16_layer_takes_and_gives_bf16():
    y = made().bfloat16()(draw(3, K).bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), made()(draw(3, K)), rtol=0.05, atol=0.05)


def test_float16_sums_do_not_overflow():
    layer = BitLinear(4096, 2).half()
    with torch.no_grad():
        layer.weight.fill_(1)
        y = layer(torch.ones(1, 4096).half())
    assert y.tolist() == [[4096.0, 4096.0]]


def test_training_moves_codes():
    """Twenty steps of SGD lower the loss of a layer that only ever shows rounded weights."""
    layer, x, target = made(bias=False), draw(64, K, seed=4), draw(64, N, seed=5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    before, losses = layer.codes().codes_NK, []
    for _ in range(20):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.equal(layer.codes().codes_NK, before)


def test_frozen_codes_are_kept_to_the_bit():
    layer, x = made(), draw(5, K, seed=4)
    expected, q = layer(x), layer.codes()
    layer.freeze(q)
    assert layer.frozen
    assert not layer.weight.requires_grad
    assert torch.equal(layer.weight, quant.dequantize(q))
    assert torch.equal(layer(x), expected)  # rounding the weight again would shrink the scale
    assert torch.equal(layer.codes().scale_NG, q.scale_NG)


def test_frozen_codes_outlive_a_cast_and_a_copy():
    layer = made()
    layer.freeze()
    q = layer.codes()
    cast = copy.deepcopy(layer).bfloat16()
    assert cast.weight.dtype == torch.bfloat16
    assert torch.equal(cast.codes().scale_NG, q.scale_NG)
    assert cast.codes().scale_NG.dtype == torch.float32


def test_a_frozen_layer_passes_the_gradient_on():
    layer, x = made(), draw(5, K, seed=4).requires_grad_()
    layer.freeze()
    layer(x).sum().backward()
    assert x.grad.abs().max() > 0
    assert layer.weight.grad is None


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s.weight != "fp"], ids=str)
def test_unfreezing_changes_nothing_yet(scheme):
    """Training goes on from the packed weights: the first rounding gives the same function."""
    layer, x = made(scheme), draw(5, K, seed=4)
    layer.freeze()
    expected, q = layer(x), layer.codes()
    layer.unfreeze()
    assert not layer.frozen
    assert layer.weight.requires_grad
    assert torch.equal(layer.codes().codes_NK, q.codes_NK)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_frozen_codes_may_share_their_scale_otherwise_than_the_scheme():
    """A file's blocks of 16 under a scheme of one scale."""
    w = draw(N, K, seed=1)
    q = quant.ternary.quantize_absmean(w, 16)
    layer, x = made(LinearScheme("ternary"), bias=False), draw(4, K, seed=4)
    layer.freeze(q)
    torch.testing.assert_close(layer(x), x @ quant.dequantize(q).T, rtol=1e-5, atol=1e-5)


def test_wrong_codes_are_refused():
    with pytest.raises(ShapeError, match=r"codes have shape \(3, 4\), the layer \(20, 48\)"):
        made().freeze(quant.ternary.quantize_absmean(torch.ones(3, 4)))
    with pytest.raises(OptionError, match="zero-point"):
        made().freeze(quant.integer.quantize_zero_point(draw(N, K), 4))


def test_a_scheme_that_cannot_be_is_refused_at_once():
    with pytest.raises(ShapeError, match="48 inputs do not split into groups of 36"):
        made(LinearScheme("ternary", weight_scale="group:36"))
    with pytest.raises(OptionError, match='weight "int4" with weight_rule "absmean"'):
        made(LinearScheme("int4"))
    with pytest.raises(OptionError, match="it stays float"):
        made(LinearScheme("fp", activation="int8_absmax")).codes()


def test_a_frozen_layer_takes_no_other_weights():
    layer, other = made(), made(bias=True)
    layer.freeze()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match=r"weight: the layer is frozen\. Call `unfreeze`"):
        layer.load_state_dict(other.state_dict())
    layer.unfreeze()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.codes().scale_NG, other.codes().scale_NG)


def test_a_scale_that_absmean_cannot_give_is_not_unfrozen():
    layer = made()
    layer.freeze(layer.codes()._replace(scale_NG=torch.full((N, 1), 1e-7)))
    with pytest.raises(OptionError, match="a scale of 1e-07, and absmean's scales end at 1e-05"):
        layer.unfreeze()
    assert layer.frozen
