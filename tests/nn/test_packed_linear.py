"""PackedLinear against the BitLinear it was made from, under every instruction set."""

import sys

import pytest
import torch

pytest.importorskip("onebit.kernels.cpu")

import onebit.scheme
from onebit.errors import ShapeError, UnsupportedError
from onebit.kernels import ops
from onebit.nn import BitLinear, PackedLinear, bit_linears, pack_linears
from onebit.scheme import LinearScheme

B158 = LinearScheme("ternary", activation="int8_absmax")
ACTIVATIONS = [a for a in onebit.scheme.ACTIVATIONS if a not in ("fp", "int8_absmax")]
EXACT = [
    B158,
    LinearScheme("ternary", weight_scale="row", activation="int8_absmax"),
    LinearScheme("binary", activation="int8_absmax"),
    LinearScheme("int4", "absmax", "row", "int8_absmax"),
    LinearScheme("int8", "absmax", "row", "int8_absmax"),
]
FAMILY = [
    LinearScheme("ternary", activation="dynamic:3"),
    *(LinearScheme("ternary", activation=rule) for rule in ACTIVATIONS),
    LinearScheme("binary", activation="int8_b1", norm="layer"),
    LinearScheme("ternary", activation="int4_absmean", norm="rms", hadamard="input", signs=5),
    LinearScheme("ternary", activation="int8_absmax", hadamard="both"),
    LinearScheme("int2", "lsq", "row", "int8_absmax"),
    LinearScheme("int6", "lsq", "tensor", "int8_absmax"),
    LinearScheme("ternary", "seq", "row", "int8_top50"),
]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(scheme=B158, N=33, K=96, bias=False):
    layer = BitLinear(K, N, bias, scheme).eval()
    with torch.no_grad():
        layer.weight.copy_(draw(N, K, seed=1) * 0.05)
    layer.start_step()
    return layer


CASES = [
    *((scheme, *shape) for scheme in EXACT for shape in ((1, 3), (17, 63), (16, 1020))),
    *((scheme, 33, 96) for scheme in FAMILY),
]


@pytest.mark.parametrize(("scheme", "N", "K"), CASES, ids=str)
@torch.no_grad()
def test_equal_to_the_layer_that_trained(isa, scheme, N, K):
    layer, x = made(scheme, N, K), draw(5, K, seed=4)
    packed = PackedLinear(layer)
    sums = ops.int_sums(packed.matrix, layer.input_codes(x).codes.numpy())
    expected = layer.input_codes(x).codes.int() @ layer.codes().codes_NK.int().T
    assert torch.equal(torch.from_numpy(sums), expected)
    # a minimum is added after the sums, to what may nearly cancel it
    atol = 1e-5 if layer.input_codes(x).minimum is not None else 0
    torch.testing.assert_close(packed(x), layer(x), rtol=1e-6, atol=atol)


PARTS = [
    LinearScheme("binary", activation="int8_b1", norm="layer", split="in:2"),
    LinearScheme("binary", activation="int8_b1_positive", norm="layer", split="in:3"),
    LinearScheme("ternary", activation="int4_absmean", norm="rms", split="in:2"),
    LinearScheme("ternary", activation="dynamic:3", hadamard="input", split="in:3"),
    LinearScheme("binary", activation="int8_b1", norm="layer", split="out:3"),
]


@pytest.mark.parametrize("scheme", PARTS, ids=str)
@torch.no_grad()
def test_parts_have_their_own_scales(isa, scheme):
    layer, x = made(scheme, N=33, K=192), draw(5, 192, seed=4)
    packed = PackedLinear(layer)
    sums = ops.int_sums(packed.matrix, layer.input_codes(x).codes.numpy())
    expected = layer.input_codes(x).codes.int() @ layer.codes().codes_NK.int().T
    assert torch.equal(torch.from_numpy(sums), expected)
    torch.testing.assert_close(packed(x), layer(x), rtol=1e-5, atol=2e-5)


def test_parts_that_the_kernels_do_not_take_are_refused():
    layer = made(LinearScheme("binary", activation="int8_b1", split="in:3"), K=96 + 48)
    with pytest.raises(ShapeError, match="3 parts of 48 columns; the kernels need"):
        PackedLinear(layer)


@pytest.mark.parametrize("sharing", ["tensor", "row", "group:32"])
@torch.no_grad()
def test_a_zero_point_is_a_minimum(isa, sharing):
    """value = (code - zero) * scale; the codes are equal, and the sums come in another order."""
    scheme = LinearScheme("int4", "zero_point", sharing, "int8_absmax")
    layer, x = made(scheme), draw(5, 96, seed=4)
    with torch.no_grad():
        layer.weight.add_(0.03)
    assert layer.codes().zero_NG.ne(0).any()
    torch.testing.assert_close(PackedLinear(layer)(x), layer(x), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_float_inputs_are_close(isa):
    layer, x = made(LinearScheme("ternary")), draw(5, 96, seed=4)
    error = (PackedLinear(layer)(x) - layer(x)).norm() / layer(x).norm()
    assert 0 < error < 0.01


@torch.no_grad()
def test_norm_bias_frozen_codes_and_shape():
    layer = made(LinearScheme("ternary", activation="int8_absmax", norm="rms"), bias=True)
    torch.nn.init.uniform_(layer.rms_norm.weight, 0.5, 1.5)
    torch.nn.init.normal_(layer.bias)
    layer.freeze()
    x = draw(2, 3, 96, seed=4)
    y = PackedLinear(layer)(x)
    assert y.shape == (2, 3, 33)
    torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(PackedLinear(layer)(x[0, 0]), layer(x[0, 0]), rtol=1e-5, atol=1e-5)
    assert PackedLinear(layer)(x.bfloat16()).dtype == torch.bfloat16


def test_two_bits_a_weight():
    assert PackedLinear(made(N=64, K=1024)).matrix.size_bytes < 64 * 1024 / 4 * 1.1


def test_a_gradient_is_refused():
    with pytest.raises(UnsupportedError, match="has no gradient"):
        PackedLinear(made())(draw(1, 96).requires_grad_())


def test_a_model_is_packed_whole():
    model = torch.nn.Sequential(made(), torch.nn.ReLU(), torch.nn.Linear(33, 4))
    with torch.no_grad():
        expected = model(draw(3, 96, seed=4))
        assert pack_linears(model) is model
        torch.testing.assert_close(model(draw(3, 96, seed=4)), expected)
    assert isinstance(model[0], PackedLinear)
    assert not list(bit_linears(model))
    assert "layout=t2" in repr(model)


def test_without_the_extension_there_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "onebit.kernels.ops", None)
    monkeypatch.delattr("onebit.kernels.ops")
    with pytest.raises(UnsupportedError, match="needs the native extension, which is not built"):
        PackedLinear(made())
