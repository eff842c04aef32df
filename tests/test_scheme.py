"""Schemes as data: the way to JSON and back, which layer gets what, and hostile values."""

import json

import pytest

from onebit.errors import OptionError
from onebit.scheme import FP, SCHEMES, LinearScheme, Scheme, of_config

T, I8 = LinearScheme("ternary"), LinearScheme("int8", "absmax", "group:32", "int8_absmax", "rms")


@pytest.mark.parametrize(
    "scheme",
    [*SCHEMES.values(), Scheme("mine", {"*.0.*": T, "down": I8}, 32)],
    ids=lambda s: s.name,
)
def test_round_trip(scheme):
    assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


def test_a_glob_wins_over_a_role_and_a_role_over_body():
    row = LinearScheme("ternary", weight_scale="row")
    scheme = Scheme("mixed", {"body": T, "down": I8, "model.layers.0.*": row})
    assert scheme.linear("model.layers.0.mlp.down_proj") == row
    assert scheme.linear("model.layers.1.mlp.down_proj") == I8
    assert scheme.linear("model.layers.1.self_attn.q_proj") == T
    assert scheme.linear("lm_head") == FP
    assert scheme.linear("model.embed_tokens") == FP


LAYER = {"weight": "ternary"}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"name": 5},
        {"name": "x", "layers": []},
        {"name": "x", "laeyrs": {}},
        {"name": "x", "layers": {"body": "ternary"}},
        {"name": "x", "layers": {"body": {"wieght": "ternary"}}},
        {"name": "x", "layers": {"body": LAYER | {"weight": ["ternary"]}}},
        {"name": "x", "layers": {"body": LAYER | {"weight_rule": None}}},
        {"name": "x", "layers": {"body": LAYER | {"weight_scale": 5}}},
        {"name": "x", "layers": {"body": LAYER | {"weight_scale": None}}},
        {"name": "x", "layers": {"body": LAYER | {"weight_scale": "group:0"}}},
        {"name": "x", "layers": {"body": LAYER | {"weight_scale": "group:\u0661"}}},
        {"name": "x", "layers": {"body": LAYER | {"activation": "x" * 9999}}},
        {"name": "x", "layers": {"body": LAYER | {"norm": "no"}}},
        {"name": "x", "kv_bits": 5},
        {"name": "x", "kv_bits": 16.0},
        {"name": "x", "kv_bits": []},
    ],
    ids=lambda data: repr(data)[:60],
)
def test_hostile_data_is_one_line(data):
    with pytest.raises(OptionError, match=r"^scheme: ") as caught:
        Scheme.from_dict(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def bitnet(**fields):
    return of_config({"quantization_config": {"quant_method": "bitnet", **fields}})


def test_hugging_faces_bitnet():
    assert of_config({}) == SCHEMES["fp"]
    assert bitnet() == bitnet(modules_to_not_convert=["lm_head"]) == SCHEMES["bitnet-b1.58"]
    assert bitnet(use_rms_norm=True).layers == SCHEMES["bitnet-b1.58-norm"].layers


def test_modules_that_stay_float():
    """By the end of the name, or by the module that they are in, as transformers has it."""
    scheme = bitnet(modules_to_not_convert=["down_proj", "model.layers.1"])
    assert scheme.linear("model.layers.0.mlp.down_proj") == FP
    assert scheme.linear("model.layers.1.self_attn.q_proj") == FP
    assert scheme.linear("model.layers.11.self_attn.q_proj").weight == "ternary"


@pytest.mark.parametrize(
    "fields",
    [
        {"modules_to_not_convert": "lm_head"},
        {"modules_to_not_convert": [5]},
        {"modules_to_not_convert": {"a": 1}},
        {"use_rms_norm": "yes"},
        {"quant_method": "awq"},
        {"quant_method": []},
    ],
)
def test_a_quantization_config_that_cannot_be_is_one_line(fields):
    with pytest.raises(OptionError) as caught:
        bitnet(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "x" * 1000, 5])
def test_a_name_that_no_line_could_hold_is_refused(name):
    for make in (
        lambda: Scheme(name, {}),
        lambda: Scheme("s", {name: FP}),
        lambda: Scheme.from_dict({"name": "s", "layers": {name: 1}}),
        lambda: Scheme.from_dict({"name": "s", str(name): 1}),
    ):
        with pytest.raises(OptionError) as caught:
            make()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_float_weights_are_not_turned():
    """The engine runs them as they lie in the file, and would turn their input alone."""
    with pytest.raises(OptionError, match='hadamard "both" turns weights before they are rounded'):
        LinearScheme("fp", activation="int8_absmax", hadamard="both")
