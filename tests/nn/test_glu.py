"""The gated feed-forward layer, written out."""

import pytest
import torch

from onebit.errors import OptionError
from onebit.nn import GLU
from onebit.nn.glu import relu2

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def test_relu2():
    assert relu2(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


def test_silu():
    layer = GLU(8, 16, activation="silu", eps=1e-5, bias=True)
    gate, up = layer.gate_proj(X), layer.up_proj(X)
    expected = layer.down_proj(gate * gate.sigmoid() * up)
    torch.testing.assert_close(layer(X), expected)


def test_relu2_with_a_norm_before_down():
    layer = GLU(8, 16, activation="relu2", eps=1e-5, sub_norm=True)
    torch.nn.init.uniform_(layer.ffn_sub_norm.weight, 0.5, 1.5)
    hidden = layer.gate_proj(X).clamp(min=0) ** 2 * layer.up_proj(X)
    torch.testing.assert_close(layer(X), layer.down_proj(layer.ffn_sub_norm(hidden)))


def test_an_unknown_activation_is_refused():
    with pytest.raises(OptionError, match="'gelu' is not an activation; accepted: silu, relu2"):
        GLU(8, 16, activation="gelu", eps=1e-5)
