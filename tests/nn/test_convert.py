"""Converting a module tree to a scheme, and back."""

import pytest
import torch
from torch import nn

from onebit import quant
from onebit.errors import OptionError, ShapeError
from onebit.nn import Attention, BitLinear, bit_linears, convert, notes, unfreeze
from onebit.scheme import SCHEMES, LinearScheme, Scheme

X = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
B158 = SCHEMES["bitnet-b1.58"]


class Model(nn.Module):
    """Names that schemes know, in a tree of two levels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(32, 48), "down_proj": nn.Linear(48, 32)})
        self.embed_tokens = nn.Embedding(5, 32)
        self.lm_head = nn.Linear(32, 5, bias=False)

    def forward(self, x):
        return self.lm_head(self.mlp["down_proj"](self.mlp["up_proj"](x).relu()))


def test_masters_are_the_same_tensors():
    model = Model()
    weight, bias = model.mlp["up_proj"].weight, model.mlp["up_proj"].bias
    assert convert(model, B158) is model
    assert model.scheme == B158
    assert [name for name, _ in bit_linears(model)] == ["mlp.up_proj", "mlp.down_proj"]
    assert type(model.lm_head) is nn.Linear
    assert model.mlp["up_proj"].weight is weight
    assert model.mlp["up_proj"].bias is bias
    assert model.mlp["up_proj"].scheme == B158.layers["body"]


def test_there_and_back_is_the_float_model():
    model = Model()
    expected, keys = model(X), list(model.state_dict())
    rounded = convert(model, B158)(X)
    assert (rounded - expected).abs().max() > 0.01
    back = convert(model, SCHEMES["fp"])
    assert not list(bit_linears(back))
    assert list(back.state_dict()) == keys
    assert torch.equal(back(X), expected)


def test_globs_and_roles_choose_the_layers():
    int8 = LinearScheme("int8", "absmax", "row")
    scheme = Scheme("mixed", {"down": int8, "lm_*": LinearScheme("binary")})
    model = convert(Model(), scheme)
    assert {name: m.scheme.weight for name, m in bit_linears(model)} == {
        "mlp.down_proj": "int8",
        "lm_head": "binary",
    }


def test_one_scheme_to_another_keeps_the_masters_and_the_norm():
    model = convert(Model(), SCHEMES["bitnet-b1.58-norm"], eps=0.25)
    norm = model.mlp["up_proj"].rms_norm
    assert norm.eps == 0.25
    binary = LinearScheme("binary", activation="int8_absmax", norm="rms")
    convert(model, Scheme("binary", {"body": binary}))
    assert model.mlp["up_proj"].rms_norm is norm
    assert model.mlp["up_proj"].codes().codes_NK.unique().tolist() == [-1, 1]


def test_frozen_codes_stay_under_the_same_weight_rule():
    model = convert(Model(), B158)
    for _, layer in bit_linears(model):
        layer.freeze()
    scale = model.mlp["up_proj"].codes().scale_NG
    convert(model, SCHEMES["ternary-weights"])
    assert model.mlp["up_proj"].frozen
    assert torch.equal(model.mlp["up_proj"].codes().scale_NG, scale)
    convert(model, SCHEMES["fp"])
    assert model.mlp["up_proj"].weight.requires_grad
    assert model.mlp["up_proj"].weight.abs().unique().numel() == 2


def on_grid(zero_above):
    """A model whose up_proj has the values -0.5, 0 and 0.5; zeros where a draw is below."""
    model = Model()
    with torch.no_grad():
        w = model.mlp["up_proj"].weight
        w.copy_(torch.where(w.abs() > zero_above, w.sign() * 0.5, 0))
    return model


@pytest.mark.parametrize("sharing", ["tensor", "row", "group:16"])
def test_weights_that_are_on_the_grid_are_not_rounded_again(sharing):
    """A ternary model that came as plain floats: a second absmean would shrink its scale."""
    linear = LinearScheme("ternary", weight_scale=sharing)
    model = on_grid(zero_above=0.05)
    before = model.mlp["up_proj"].weight.clone()
    assert 0.1 < (before == 0).float().mean() < 0.9
    convert(model, Scheme("ternary", {"body": linear}))
    layer = model.mlp["up_proj"]
    assert layer.frozen
    assert torch.equal(quant.dequantize(layer.codes()), before)
    assert not model.mlp["down_proj"].frozen
    if sharing == "tensor":
        unfreeze(model)
        torch.testing.assert_close(quant.dequantize(layer.codes()), before)


@pytest.mark.parametrize("zero_above", [0.0, 9.0], ids=["no zeros", "all zeros"])
def test_weights_that_rounding_does_not_move_stay_trainable(zero_above):
    model = convert(on_grid(zero_above), B158)
    assert not model.mlp["up_proj"].frozen


def test_unfreeze_reaches_every_layer():
    model = convert(Model(), B158)
    for _, layer in bit_linears(model):
        layer.freeze()
    unfreeze(model)
    assert not any(layer.frozen for _, layer in bit_linears(model))
    assert all(p.requires_grad for p in model.parameters())


def test_training_mode_is_kept():
    assert not convert(Model().eval(), B158).mlp["up_proj"].training


def test_a_failed_conversion_changes_nothing():
    """The group divides 48 and not 32: one layer could be converted, the other not."""
    model = Model()
    with pytest.raises(ShapeError, match="32 inputs do not split into groups of 24"):
        convert(model, Scheme("bad", {"body": LinearScheme("ternary", weight_scale="group:24")}))
    assert not any(isinstance(m, BitLinear) for m in model.modules())


def test_an_embedding_stays_float():
    with pytest.raises(OptionError, match=r'embed_tokens is an embedding.*Take "embed" out'):
        convert(Model(), Scheme("all", {"embed": LinearScheme("ternary")}))


def test_a_norm_is_not_dropped_silently():
    model = convert(Model(), SCHEMES["bitnet-b1.58-norm"])
    with pytest.raises(OptionError, match=r"mlp\.up_proj has an RMSNorm inside"):
        convert(model, B158)


def test_a_name_that_no_layer_has_is_refused():
    model = Model()
    with pytest.raises(
        OptionError, match=r"no layer is called 'dwon'\. .*a role: q, k, v, qkv, i, f, g, o, up"
    ):
        convert(model, Scheme("slip", {"dwon": LinearScheme("ternary")}))
    assert not list(bit_linears(model))


def one(**parts):
    return Scheme("one", {"body": LinearScheme(**parts)})


def test_stages_keep_every_parameter():
    """What an optimizer knows of them stays true: 8-bit inputs, then 4-bit ones."""
    model = convert(Model(), SCHEMES["bitnet-v2-a8"])
    before = dict(model.named_parameters())
    assert "mlp.down_proj.rms_norm.weight" in before
    convert(model, SCHEMES["bitnet-v2-a4"])
    assert model.mlp["down_proj"].scheme.activation == "int4_absmean"
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())


def test_a_step_stays_a_parameter_and_begins_anew_with_other_bits():
    model = convert(Model(), SCHEMES["int8-lsq"])
    layer = model.mlp["up_proj"]
    step = layer.step
    torch.testing.assert_close(step, 2 * layer.weight.abs().mean(dim=1) / 127**0.5)
    with torch.no_grad():
        step.mul_(2)
    learned = step.detach().clone()
    fewer = one(weight="int8", weight_rule="lsq", weight_scale="row", activation="int4_absmax")
    layer = convert(model, fewer).mlp["up_proj"]
    assert layer.step is step
    assert torch.equal(step, learned)
    layer = convert(model, SCHEMES["int2-lsq"]).mlp["up_proj"]
    assert layer.step is step
    torch.testing.assert_close(step, 2 * layer.weight.abs().mean(dim=1))
    convert(model, one(weight="ternary"))
    assert model.mlp["up_proj"].step is None
    assert "mlp.up_proj.step" not in dict(model.named_parameters())


def test_a_failed_conversion_leaves_steps_as_they_are():
    model = convert(Model(), SCHEMES["int8-lsq"])
    step = model.mlp["up_proj"].step.detach().clone()
    layers = {"up": SCHEMES["int2-lsq"].layers["body"], "down": LinearScheme("int4")}
    with pytest.raises(OptionError, match='weight_rule "absmean" cannot be rounded'):
        convert(model, Scheme("bad", layers))
    assert torch.equal(model.mlp["up_proj"].step, step)


def test_a_blend_goes_along():
    model = convert(Model(), B158)
    model.mlp["up_proj"].blend = 0.5
    assert convert(model, one(weight="binary")).mlp["up_proj"].blend == 0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"weight": "ternary"}, {"weight": "ternary", "hadamard": "both"}),
        ({"weight": "ternary", "hadamard": "both"}, {"weight": "ternary"}),
        (
            {"weight": "ternary", "hadamard": "both"},
            {"weight": "ternary", "hadamard": "both", "signs": 3},
        ),
    ],
)
@torch.no_grad()
def test_frozen_codes_leave_where_they_would_mean_something_else(first, second):
    """The weights that they stood for go on, and are rounded by the new rule."""
    model = convert(Model(), one(**first))
    for _, layer in bit_linears(model):
        layer.freeze()
    old = model.mlp["up_proj"]
    expected = old(X)
    new = convert(model, one(**second)).mlp["up_proj"]
    assert not new.frozen
    new.blend = 0.0
    torch.testing.assert_close(new(X), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_codes_of_one_scale_are_codes_of_parts():
    model = convert(Model(), one(weight="binary", activation="int8_absmax"))
    for _, layer in bit_linears(model):
        layer.freeze()
    old = model.mlp["up_proj"]
    new = convert(model, one(weight="binary", split="in:2")).mlp["up_proj"]
    torch.testing.assert_close(quant.dequantize(new.codes()), quant.dequantize(old.codes()))


@torch.no_grad()
def test_turned_codes_stay_under_the_same_turn():
    model = convert(Model(), one(weight="ternary", hadamard="both", signs=3))
    for _, layer in bit_linears(model):
        layer.freeze()
    q = model.mlp["up_proj"].codes()
    scheme = one(weight="ternary", hadamard="both", signs=3, activation="int8_absmax")
    layer = convert(model, scheme).mlp["up_proj"]
    assert layer.frozen
    assert torch.equal(layer.codes().codes_NK, q.codes_NK)


def test_weights_on_a_grid_are_no_turned_codes():
    model = convert(on_grid(zero_above=0.05), one(weight="ternary", hadamard="both"))
    assert not model.mlp["up_proj"].frozen


def test_bits_of_attention_follow_the_scheme():
    attention = Attention(8, 2, 1, 4, eps=1e-5)
    assert (attention.kv_bits, attention.q_bits) == (16, 16)
    convert(attention, Scheme("low", kv_bits=3, q_bits=4))
    assert (attention.kv_bits, attention.q_bits) == (3, 4)
    convert(attention, SCHEMES["fp"])
    assert (attention.kv_bits, attention.q_bits) == (16, 16)


def test_widths_without_a_hadamard_matrix_are_named():
    assert notes(convert(Model(), SCHEMES["bitnet-v2-a8"])) == []
    model = Model()
    model.mlp["down_proj"] = nn.Linear(46, 32)
    model.mlp["o_proj"] = nn.Linear(46, 32)
    assert notes(convert(model, SCHEMES["bitnet-v2-a8"])) == [
        "down_proj, o_proj: no Hadamard matrix of order 46 is known here: 23 blocks of 2 are "
        "turned each by itself, so that a large value is spread over its block only."
    ]
