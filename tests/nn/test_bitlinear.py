"""BitLinear: the integers it computes with, its gradients, and frozen codes."""

import copy

import pytest
import torch
import torch.nn.functional as F

import onebit.scheme
from onebit import hadamard, quant
from onebit.errors import OptionError, ShapeError
from onebit.nn import BitLinear, HBitLinear, mean_bits, record, zero_share
from onebit.quant import activation, straight_through
from onebit.scheme import SCHEMES as SCHEMES_BY_NAME
from onebit.scheme import LinearScheme

K, N = 48, 20
B158 = LinearScheme("ternary", activation="int8_absmax")
ACTIVATIONS = [a for a in onebit.scheme.ACTIVATIONS if a != "fp"]
SCHEMES = [
    B158,
    LinearScheme("ternary"),
    LinearScheme("ternary", weight_scale="row", activation="int8_absmax"),
    LinearScheme("ternary", weight_scale="group:16", activation="int8_absmax"),
    LinearScheme("ternary", "least_squares", "row", "int4_absmean"),
    LinearScheme("int4", "absmax", "group:16"),
    LinearScheme("int4", "zero_point", "row", "int8_absmax"),
    LinearScheme("int8", "absmax", "row", "int8_absmax"),
    LinearScheme("fp", activation="int8_absmax"),
    LinearScheme("ternary", activation="int8_absmax", norm="rms"),
    LinearScheme("binary", activation="int8_b1", norm="layer"),
    LinearScheme("ternary", activation="int4_absmean", norm="rms", hadamard="input"),
    LinearScheme("ternary", activation="int8_absmax", hadamard="both", signs=7),
    LinearScheme("fp", activation="int4_absmean", hadamard="input"),
    LinearScheme("binary", activation="int8_b1_positive", norm="layer", split="in:3"),
    LinearScheme("binary", activation="int8_b1", norm="rms", split="in:2"),
    LinearScheme("binary", activation="int8_absmax", norm="layer", split="out:4"),
    LinearScheme("binary", split="in:2"),
    LinearScheme("ternary", activation="int4_absmean", split="in:4", hadamard="input"),
    LinearScheme("ternary", activation="dynamic:3"),
    *(LinearScheme("ternary", activation=rule) for rule in ACTIVATIONS),
]
LEARNED = [
    LinearScheme("int2", "lsq", "row", "int8_absmax"),
    LinearScheme("int4", "lsq", "group:16", "int8_absmax"),
    LinearScheme("int3", "lsq", "tensor", hadamard="both"),
    LinearScheme("ternary", "seq", "row", "int8_absmax", norm="rms"),
    LinearScheme("ternary", "seq", "tensor", "int8_top50", hadamard="both", signs=3),
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


def matrix(scheme):
    """H diag(signs), written out."""
    H = torch.ones(1, 1)
    for factor in hadamard.factors(K):
        H = torch.kron(H, torch.from_numpy(factor.copy()))
    return H / K**0.5 * torch.from_numpy(hadamard.signs(scheme.signs, K))


def fake_quantized(layer, x):
    """The plain form: F.linear on straight-through operands."""
    scheme, w, given = layer.scheme, layer.weight, x
    parts = scheme.parts if scheme.split.startswith("in") else 1
    shape = x.shape
    x = x.reshape(*shape[:-1], parts, -1)
    if scheme.norm == "rms":
        x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        x = x * layer.rms_norm.weight.view(parts, -1)
    if scheme.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
        x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    x = x.reshape(shape)
    if scheme.hadamard != "none":
        x = x @ matrix(scheme).T
    if scheme.activation != "fp":
        # of the layer's own turned input: its last bits may decide where a code is at a tie
        a = layer.input_codes(given)
        x = straight_through(x, activation.dequantize(a))
    if scheme.hadamard == "both":
        w = w @ matrix(scheme).T
    if scheme.learned:
        w = quant.learned.fake_quantize(w, layer.step, scheme)
    elif scheme.weight != "fp":
        w = straight_through(w, quant.dequantize(layer.codes()))
    return F.linear(x, w, layer.bias)


@pytest.mark.parametrize("scheme", [*SCHEMES, *LEARNED], ids=str)
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
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=2e-5)


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
    upstream = draw(6, N, seed=5).bfloat16()
    ours = torch.autograd.grad(y, (x, layer.weight), upstream)
    plain = torch.autograd.grad(expected, (x, layer.weight), upstream.float())
    for got, wanted in zip(ours, plain, strict=True):
        assert got.dtype == torch.float32
        # codes from 0 have sums that are larger than what is left with the minimum added
        atol = 0.15 if "positive" in scheme.activation else 0.05
        torch.testing.assert_close(got, wanted, rtol=0.05, atol=atol)


@pytest.mark.parametrize("scheme", [B158, LEARNED[-1], SCHEMES[12]], ids=str)
def test_the_codes_do_not_depend_on_autocast(scheme):
    layer, x = made(scheme), draw(6, K, seed=4)
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


@pytest.mark.parametrize("scheme", [s for s in [*SCHEMES, *LEARNED] if s.weight != "fp"], ids=str)
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


@pytest.mark.parametrize("scheme", [*SCHEMES, *LEARNED], ids=str)
def test_blend_goes_from_the_float_layer_to_the_integer_one(scheme):
    """y of blend b has input x + b (x_hat - x) and weights w + b (w_hat - w)."""
    layer, x = made(scheme), draw(5, K, seed=4).requires_grad_()
    whole = layer(x)
    layer.blend = 0.0
    x_hat = t = layer.turned_input(x)
    w_hat = w = quant.hadamard.turned(layer.weight, scheme)
    torch.testing.assert_close(layer(x), F.linear(t, w, layer.bias), rtol=0, atol=0)
    if scheme.activation != "fp":
        x_hat = activation.dequantize(layer.input_codes(x))
    if scheme.weight != "fp":
        w_hat = quant.dequantize(layer.codes())
    torch.testing.assert_close(whole, F.linear(x_hat, w_hat, layer.bias), rtol=1e-5, atol=2e-5)
    layer.blend = 0.25
    expected = F.linear(t + 0.25 * (x_hat - t), w + 0.25 * (w_hat - w), layer.bias)
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    y.sum().backward()
    for parameter in (x, *layer.parameters()):
        assert parameter.grad.abs().max() > 0


def test_blend_is_straight_through():
    """Whatever the blend, both gradients are those of the operands that were multiplied."""
    layer, x = made(bias=False), draw(5, K, seed=4).requires_grad_()
    layer.blend = 0.5
    upstream = draw(5, N, seed=5)
    dx, dw = torch.autograd.grad(layer(x), (x, layer.weight), upstream)
    w = (layer.weight + quant.dequantize(layer.codes())) / 2
    t = (x + activation.dequantize(layer.input_codes(x))) / 2
    torch.testing.assert_close(dx, upstream @ w, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dw, upstream.T @ t, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["int8_b1", "int8_b1_positive"])
def test_b1_shares_a_scale_in_training_and_not_afterwards(rule):
    """So that what a token gets does not depend on the tokens behind it, once the model runs."""
    layer = made(LinearScheme("binary", activation=rule, split="in:2"))
    x = draw(2, 3, K, seed=4)
    assert layer.input_codes(x).scale.shape == (1, 1, 2)
    layer.eval()
    a = layer.input_codes(x)
    assert a.scale.shape == (2, 3, 2)
    assert torch.equal(layer.input_codes(x[1, 2]).codes, a.codes[1, 2])
    torch.testing.assert_close(layer(x)[1, 2], layer(x[1, 2]), rtol=1e-6, atol=1e-6)


def test_a_scale_of_the_whole_input_is_for_training_too():
    """The engine rounds each token by itself, and a module in evaluation mode is what it runs."""
    x = draw(2, 3, K, seed=4)
    rules = "int8_absmax_tensor", "int8_absmax"
    shared, own = (made(LinearScheme("ternary", activation=rule)) for rule in rules)
    assert shared.input_codes(x).scale.numel() == 1
    shared.eval()
    assert torch.equal(shared.input_codes(x).codes, own.input_codes(x).codes)
    assert torch.equal(shared(x), own.eval()(x))


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_parts_are_layers_of_their_own(norm):
    """Cut by columns: the sum of the parts' layers. Cut by rows: their outputs side by side."""
    x = draw(5, K, seed=4)
    whole = made(LinearScheme("binary", activation="int8_b1", norm=norm, split="in:2"), bias=False)
    total = 0
    for g, columns in enumerate((slice(0, 24), slice(24, 48))):
        part = BitLinear(24, N, False, LinearScheme("binary", activation="int8_b1", norm=norm))
        part.weight.data = whole.weight.data[:, columns]
        if norm == "rms":
            part.rms_norm.weight.data = whole.rms_norm.weight.data[columns]
        assert torch.equal(part.codes().codes_NK, whole.codes().codes_NK[:, columns])
        assert torch.equal(part.codes().scale_NG[:, 0], whole.codes().scale_NG[:, g])
        assert torch.equal(
            part.input_codes(x[:, columns]).codes, whole.input_codes(x).codes[:, columns]
        )
        total = total + part(x[:, columns])
    assert torch.equal(whole(x), total)
    rows = made(LinearScheme("binary", activation="int8_b1", norm=norm, split="out:2"), bias=False)
    for half in (slice(0, 10), slice(10, 20)):
        part = BitLinear(K, 10, False, LinearScheme("binary", activation="int8_b1", norm=norm))
        part.load_state_dict(rows.state_dict() | {"weight": rows.weight[half]})
        assert torch.equal(part(x), rows(x)[:, half])


def test_top50_multiplies_half_of_the_codes_and_hands_all_gradients_on():
    layer, x = made(LinearScheme("ternary", activation="int8_top50")), draw(5, K, seed=4)
    assert (layer.input_codes(x).codes == 0).sum(dim=1).min() >= K // 2
    x.requires_grad_()
    layer(x).backward(draw(5, N, seed=5))
    expected = draw(5, N, seed=5) @ quant.dequantize(layer.codes())
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_step_learns_as_its_own_differences_say():
    """Away from the thresholds the loss is smooth in the step of LSQ: 2 differences each row.

    The parameter's gradient is that times 1 / sqrt(weights it serves * largest code), and counts a
    weight inside the range as if it moved with its code: w_hat - w in place of w_hat.
    """
    scheme = LinearScheme("int3", "lsq", "row")
    layer, x = made(scheme, bias=False), draw(64, K, seed=4)
    upstream = draw(64, N, seed=5)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign() * layer.step[:, None] * 9)  # all are clipped
    (layer(x) * upstream).sum().backward()
    base, h = layer.step.detach().clone(), 1e-3
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            layer.step.copy_(base + sign * h * base)
            ends.append((layer(x) * upstream).sum(dim=0))
    slope_N = (ends[0] - ends[1]) / (2 * h * base)
    torch.testing.assert_close(layer.step.grad, slope_N / (K * 3) ** 0.5, rtol=1e-3, atol=1e-3)


def test_steps_begin_where_their_rule_says_and_follow_the_weights():
    layer = made(LEARNED[0])
    layer.start_step()
    torch.testing.assert_close(layer.step, 2 * layer.weight.abs().mean(dim=1))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias", "step"]


@pytest.mark.parametrize("scheme", LEARNED, ids=str)
def test_frozen_steps_are_the_scale_of_the_codes(scheme):
    layer, x = made(scheme), draw(5, K, seed=4)
    layer.start_step()
    with torch.no_grad():
        layer.step.mul_(1.25)
    step, expected = layer.step.detach().clone(), layer(x)
    layer.freeze()
    torch.testing.assert_close(layer.step, step)
    assert not layer.step.requires_grad
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    layer.unfreeze()
    assert layer.step.requires_grad
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_dynamic_bits_are_counted_when_asked():
    layer, x = made(LinearScheme("ternary", activation="dynamic:4")), draw(4, K, seed=4)
    x[1, 5], x[3, 0] = 30, -30
    layer(x)
    assert layer.bit_count is None
    record(layer)
    layer(x)
    assert (layer.bit_count.inputs, layer.bit_count.wide) == (4, 2)
    layer(x[:1])
    assert mean_bits(layer) == {"": 4 + 4 * 2 / 5}
    record(layer, on=False)
    assert mean_bits(layer) == {}


def test_zeros_of_codes_and_of_floats():
    x = torch.tensor([[0.0, 0.001, 1.0, -1.0]])
    assert zero_share(torch.nn.Linear(4, 2), x) == 0.25
    assert zero_share(BitLinear(4, 2), x) == 0.5  # 0.127 rounds to 0
    low = BitLinear(4, 2, scheme=LinearScheme("binary", activation="int8_b1_positive")).eval()
    assert zero_share(low, x) == 0.0


def test_hbitlinear_is_bitnet_v2s_layer():
    layer = HBitLinear(K, N)
    assert layer.scheme == SCHEMES_BY_NAME["bitnet-v2-a8"].layers["o"]
    assert isinstance(layer, BitLinear)
    assert f"hadamard input of order {K}" in repr(layer)
    assert "hadamard input of order 2" in repr(HBitLinear(46, N))


def test_parts_that_do_not_fit_are_refused_at_once():
    with pytest.raises(ShapeError, match="48 inputs do not split into 5 parts"):
        made(LinearScheme("binary", split="in:5"))
    with pytest.raises(ShapeError, match="20 outputs do not split into 3 parts"):
        made(LinearScheme("binary", split="out:3"))
