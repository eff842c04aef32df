"""An Architecture from a config.json: what is read, what is refused, and the way back."""

import json

import pytest

from onebit import Architecture
from onebit.architecture import MODEL_TYPES, RECURRENT
from onebit.errors import OnebitError, OptionError, UnsupportedError

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("model_type", [m for m in MODEL_TYPES if m != RECURRENT])
@pytest.mark.parametrize("bias", [False, True])
def test_to_config_and_back(model_type, bias):
    config = CONFIG | {
        "model_type": model_type,
        "attention_bias": bias,
        "mlp_bias": bias,
        "tie_word_embeddings": not bias,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "rope_scaling": {"type": "linear", "factor": 2.0},
    }
    a = Architecture.from_config(config)
    assert a.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    gemma3 = model_type == "gemma3_text"
    assert (a.qk_norm, a.sub_norms) == (gemma3 or model_type == "qwen3", model_type == "bitnet")
    assert (a.post_norms, a.sliding_window > 0) == (gemma3, gemma3)
    assert Architecture.from_config(json.loads(json.dumps(a.to_config()))) == a


def test_what_a_config_leaves_out_is_the_familys():
    llama = Architecture.from_config(CONFIG)
    assert (llama.rms_norm_eps, llama.rope_theta, llama.hidden_act) == (1e-6, 1e4, "silu")
    assert (llama.head_dim, llama.tie_word_embeddings, llama.eos_token_id) == (16, False, ())
    bitnet = Architecture.from_config(CONFIG | {"model_type": "bitnet"})
    assert (bitnet.rms_norm_eps, bitnet.rope_theta, bitnet.hidden_act) == (1e-5, 5e5, "relu2")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", 1 << 40),
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("hidden_size", None),
        ("num_attention_heads", True),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 0),
        ("num_key_value_heads", 3),
        ("head_dim", 5),
        ("head_dim", []),
        ("max_position_embeddings", -1),
        ("rms_norm_eps", "small"),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", -1e-5),
        ("rope_theta", "10000"),
        ("rope_theta", float("inf")),
        ("rope_theta", [1]),
        ("rope_scaling", "linear"),
        ("rope_scaling", [1]),
        ("rope_scaling", {"rope_type": "yarn"}),
        ("rope_parameters", {"rope_theta": {}}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("tie_word_embeddings", "false"),
        ("attention_bias", "no"),
        ("mlp_bias", 1),
        ("bos_token_id", "<s>"),
        ("eos_token_id", [2, "</s>"]),
        ("eos_token_id", -1),
        ("eos_token_id", {"a": 1}),
        ("hidden_act", "gelu"),
        ("model_type", ["llama"]),
        ("use_sliding_window", True),
        ("pretraining_tp", 2),
    ],
)
def test_absurd_values_are_one_line(field, value):
    with pytest.raises(OnebitError, match=r"^config: ") as caught:
        Architecture.from_config(CONFIG | {field: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 240


def test_what_no_config_can_say_is_refused():
    """A llama with sub-norms would be saved as one without them."""
    sizes = (32, 64, 96, 2, 4, 2, 16)
    for wrong in (
        {"sub_norms": True},
        {"qk_norm": True},
        {"qkv_bias": True},
        {"model_type": "qwen2"},
        {"model_type": "bitnet"},
        {"post_norms": True},
    ):
        with pytest.raises(OptionError, match=r"has it (True|False)"):
            Architecture(*sizes, **wrong)


def test_another_model_type_is_named():
    with pytest.raises(UnsupportedError, match="model_type is 'mamba'; supported: llama, qwen2"):
        Architecture.from_config(CONFIG | {"model_type": "mamba"})


def test_norms_inside_layers_share_the_models_epsilon():
    """Else the engine and torch would compute with an epsilon that the file does not mean."""
    inner = {"quant_method": "bitnet", "use_rms_norm": True, "rms_norm_eps": 1e-5}
    config = CONFIG | {"rms_norm_eps": 1e-5, "quantization_config": inner}
    assert Architecture.from_config(config).rms_norm_eps == 1e-5
    for changed in ({"rms_norm_eps": 1e-3}, {"quantization_config": inner | {"rms_norm_eps": 1}}):
        with pytest.raises(UnsupportedError, match="only equal ones are supported"):
            Architecture.from_config(config | changed)
