"""A MatMul-free model's shape: the published config, its way back, what is refused, its tensors."""

import json

import pytest

from onebit import Architecture, tensors
from onebit.errors import OnebitError, OptionError, UnsupportedError
from onebit.scheme import FP, SCHEMES, LinearScheme, of_config

# As the published 370M model's config.json has it.
PUBLISHED = {
    "architectures": ["HGRNBitForCausalLM"],
    "attn_mode": "fused_recurrent",
    "bos_token_id": 1,
    "conv_size": 4,
    "eos_token_id": 2,
    "expand_ratio": 1,
    "fuse_cross_entropy": True,
    "hidden_act": "swish",
    "hidden_ratio": 4,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": None,
    "max_position_embeddings": 2048,
    "model_type": "hgrn_bit",
    "num_heads": 1,
    "num_hidden_layers": 24,
    "rms_norm_eps": 1e-06,
    "share_conv_kernel": True,
    "tie_word_embeddings": False,
    "use_lower_bound": True,
    "use_short_conv": False,
    "vocab_size": 32000,
}
TERNARY = LinearScheme("ternary", activation="int8_absmax", norm="rms")


@pytest.mark.parametrize(
    ("layers", "hidden", "wide", "millions"),
    [(24, 1024, 2816, 374), (24, 2048, 5632, 1365), (32, 2560, 6912, 2702)],
    ids=["370M", "1.3B", "2.7B"],
)
def test_published_sizes(layers, hidden, wide, millions):
    config = PUBLISHED | {"num_hidden_layers": layers, "hidden_size": hidden}
    a = Architecture.from_config(config)
    assert a.recurrent
    assert (a.intermediate_size, a.hidden_act, a.max_position_embeddings) == (wide, "silu", 2048)
    assert (a.num_attention_heads, a.num_key_value_heads, a.head_dim) == (0, 0, 0)
    assert of_config(config) == SCHEMES["matmulfree"]
    shapes = tensors.shapes(a, SCHEMES["matmulfree"])
    count = sum(shape[0] * (shape[1] if shape[1:] else 1) for shape in shapes.values())
    assert round(count / 1e6) == millions
    assert shapes["model.lower_bounds"] == (layers, hidden)
    assert shapes["model.layers.0.mlp.gate_proj.weight"] == (2 * wide, hidden)
    assert shapes["model.layers.3.mlp.down_proj.rms_norm.weight"] == (wide,)
    assert shapes["lm_head.rms_norm.weight"] == shapes["model.layers.1.attn.g_norm.weight"]
    native = a.native()
    assert native["recurrent"]
    assert native["inv_freq"].size == 0


@pytest.mark.parametrize("ours", [{}, {"mlgru": "paper"}, {"use_lower_bound": False}], ids=str)
def test_a_recurrent_config_and_back(ours):
    a = Architecture.from_config(PUBLISHED | ours)
    config = json.loads(json.dumps(a.to_config()))
    assert Architecture.from_config(config) == a
    assert config.get("mlgru") == ours.get("mlgru")
    assert {k: v for k, v in config.items() if PUBLISHED.get(k) not in (v, None)} == {
        k: v for k, v in ours.items() if k in PUBLISHED
    }
    names = tensors.shapes(a, SCHEMES["fp"])
    assert ("model.lower_bounds" in names) is a.lower_bounds
    assert ("model.layers.0.attn.g_norm.weight" in names) is (a.mlgru == "code")


def test_a_state_has_no_length_of_its_own():
    silent = {k: v for k, v in PUBLISHED.items() if k != "max_position_embeddings"}
    assert Architecture.from_config(silent).max_position_embeddings > 1 << 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expand_ratio", 2),
        ("use_short_conv", True),
        ("hidden_act", "relu2"),
        ("hidden_act", "gelu"),
        ("hidden_ratio", "4"),
        ("hidden_ratio", -1),
        ("hidden_size", None),
        ("hidden_size", 0),
        ("hidden_size", [1]),
        ("hidden_size", 10**400),
        ("hidden_size", True),
        ("hidden_ratio", 10**400),
        ("hidden_ratio", 1 << 26),
        ("hidden_ratio", True),
        ("num_heads", 10**400),
        ("num_heads", True),
        ("rope_theta", 5e5),
        ("rope_theta", "10000"),
        ("intermediate_size", -1),
        ("num_hidden_layers", 1 << 30),
        ("num_attention_heads", 4),
        ("head_dim", True),
        ("num_key_value_heads", "2"),
        ("use_lower_bound", "yes"),
        ("mlgru", "book"),
        ("mlgru", ["code"]),
        ("rms_norm_eps", float("nan")),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("pre_norms", False),
        ("softmax_temperature", 2),
        ("learned_temperature", True),
        ("max_position_embeddings", 0),
        ("vocab_size", None),
    ],
)
def test_what_a_recurrent_model_is_not_is_one_line(field, value):
    with pytest.raises(OnebitError, match=r"^config: ") as caught:
        Architecture.from_config(PUBLISHED | {field: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 240


def test_attention_has_heads_and_no_recurrent_parts():
    sizes = (32, 64, 96, 2, 4, 2, 16)
    with pytest.raises(OptionError, match="num_attention_heads is 4; a hgrn_bit model has no att"):
        Architecture(*sizes, model_type="hgrn_bit")
    for wrong in ({"lower_bounds": False}, {"mlgru": "paper"}):
        with pytest.raises(UnsupportedError, match="a llama model has it"):
            Architecture(*sizes, **wrong)
    with pytest.raises(OptionError, match="num_attention_heads is 0"):
        Architecture(32, 64, 96, 2, 0, 0, 0)


def test_every_linear_of_the_scheme_is_ternary_but_the_embedding():
    a = Architecture.from_config(PUBLISHED)
    held = {linear.name: SCHEMES["matmulfree"].linear(linear.name) for linear in tensors.linears(a)}
    assert held.pop("model.embed_tokens") == FP
    assert set(held.values()) == {TERNARY}
    assert len(held) == 24 * 6 + 1


def test_a_published_models_inner_norms_have_their_epsilon():
    """They have 1e-6 whatever the config says; computing with another would be another model."""
    with pytest.raises(UnsupportedError, match="rms_norm_eps is 1e-05; supported"):
        of_config(PUBLISHED | {"rms_norm_eps": 1e-5})
    assert of_config({"model_type": "hgrn_bit"}) == SCHEMES["matmulfree"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("hidden_act", "gelu", "hidden_act is 'gelu'; a hgrn_bit model has it 'silu' or 'swish'"),
        ("attention_bias", True, "attention_bias is True; a hgrn_bit model has it False"),
        ("attention_bias", "no", "attention_bias is 'no'; it must be true or false"),
        ("use_lower_bound", 1, "use_lower_bound is 1; it must be true or false"),
        ("hidden_ratio", 10**400, "hidden_ratio is 10*; it must be a whole number from 1 to "),
        ("hidden_ratio", 1 << 20, "intermediate_size is 715827968; it must be a whole number"),
        ("hidden_size", True, "hidden_size is True; it must be a whole number from 1 to 131072"),
    ],
)
def test_a_refusal_has_the_words_of_the_config(field, value, says):
    with pytest.raises(OnebitError, match=f"^config: {says}"):
        Architecture.from_config(PUBLISHED | {field: value})


def test_an_epsilon_that_is_null_is_the_usual_one():
    config = PUBLISHED | {"rms_norm_eps": None}
    assert of_config(config) == SCHEMES["matmulfree"]
    assert Architecture.from_config(config).rms_norm_eps == 1e-6
