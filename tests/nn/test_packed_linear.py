"""PackedLinear against the BitLinear it was made from, under every instruction set."""

import sys

import pytest
import torch

pytest.importorskip("onebit.kernels.cpu")

from onebit.errors import UnsupportedError
from onebit.kernels import ops
from onebit.nn import BitLinear, PackedLinear, bit_linears, pack_linears
from onebit.scheme import LinearScheme

B158 = LinearScheme("ternary", activation="int8_absmax")
EXACT = [
    B158,
    LinearScheme("ternary", weight_scale="row", activation="int8_absmax"),
    LinearScheme("ternary", activation="int8_absmax_tensor"),
    LinearScheme("ternary", activation="int4_absmean"),
    LinearScheme("binary", activation="int8_absmax"),
    LinearScheme("int4", "absmax", "row", "int8_absmax"),
    LinearScheme("int8", "absmax", "row", "int8_absmax"),
]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(scheme=B158, N=33, K=96, bias=False):
    layer = BitLinear(K, N, bias, scheme)
    with torch.no_grad():
        layer.weight.copy_(draw(N, K, seed=1) * 0.05)
    return layer


@pytest.mark.parametrize("scheme", EXACT, ids=str)
@pytest.mark.parametrize(("N", "K"), [(33, 96), (1, 3), (17, 63), (16, 1020)])
@torch.no_grad()
def test_equal_to_the_layer_that_trained(isa, scheme, N, K):
    layer, x = made(scheme, N, K), draw(5, K, seed=4)
    packed = PackedLinear(layer)
    sums = ops.int_sums(packed.matrix, layer.input_codes(x).codes.numpy())
    expected = layer.input_codes(x).codes.int() @ layer.codes().codes_NK.int().T
    assert torch.equal(torch.from_numpy(sums), expected)
    torch.testing.assert_close(packed(x), layer(x), rtol=1e-6, atol=0)


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
