"""Names and keys of MatMul-free models in GGUF, both ways; what is wrong in them is one line."""

import json

import pytest

from onebit.architecture import Architecture
from onebit.errors import FormatError, MissingError, OnebitError, UnsupportedError
from onebit.io import gguf_names
from onebit.io.gguf_config import config_to_metadata, metadata_to_config, only_ours
from onebit.scheme import SCHEMES
from onebit.tensors import shapes

CONFIG = {
    "model_type": "hgrn_bit",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHAPES = {"token_embd.weight": (100, 64), "output.weight": (100, 13)}
METADATA = config_to_metadata(CONFIG)


@pytest.mark.parametrize(
    "changes",
    [{}, {"mlgru": "paper"}, {"use_lower_bound": False}, {"max_position_embeddings": 2048}],
    ids=str,
)
def test_what_is_written_comes_back(changes):
    config = CONFIG | changes
    metadata = config_to_metadata(config)
    assert metadata["general.architecture"] == "onebit"
    assert metadata["onebit.model_type"] == "hgrn_bit"
    assert not any("rope" in key or "head_count" in key for key in metadata)
    found = metadata_to_config(metadata, SHAPES)
    assert Architecture.from_config(found) == Architecture.from_config(config)
    assert found["onebit_scheme"] == SCHEMES["matmulfree"].to_dict()
    assert config_to_metadata(found) == metadata
    assert only_ours(config)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_every_tensor_has_a_name(form):
    a = Architecture.from_config(CONFIG | {"mlgru": form})
    names = list(shapes(a, SCHEMES["matmulfree"]))
    own = [gguf_names.to_gguf(name, "hgrn_bit") for name in names]
    assert len(set(own)) == len(names)
    assert [gguf_names.to_huggingface(name, "hgrn_bit") for name in own] == names
    assert ("blk.1.attn_gate_norm.weight" in own) == (form == "code")
    wanted = {
        "model.lower_bounds": "hgrn.lower_bounds",
        "model.layers.1.attn.i_proj.rms_norm.weight": "blk.1.attn_i_norm_in.weight",
        "model.layers.1.mlp.gate_proj.weight": "blk.1.ffn_gate_up.weight",
        "lm_head.weight": "output.weight",
    }
    assert {name: own[names.index(name)] for name in wanted} == wanted


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q.weight", "blk.0.ffn_gate.weight", "blk.0.attn_temperature.bias"]
)
def test_names_of_models_with_attention_are_refused(name):
    with pytest.raises(UnsupportedError, match="no model that onebit builds has a GGUF tensor"):
        gguf_names.to_huggingface(name, "hgrn_bit")


def test_names_of_ours_are_no_others():
    for name in ("hgrn.lower_bounds", "blk.0.attn_i.weight", "blk.0.ffn_gate_up.weight"):
        with pytest.raises(UnsupportedError, match="no model that onebit builds"):
            gguf_names.to_huggingface(name)
    with pytest.raises(UnsupportedError, match="GGUF has no name"):
        gguf_names.to_gguf("model.lower_bounds")


@pytest.mark.parametrize(
    ("key", "value", "kind", "says"),
    [
        ("onebit.scheme", None, MissingError, "onebit.scheme is not there; hgrn_bit models"),
        ("onebit.block_count", None, MissingError, "onebit.block_count is not there"),
        ("onebit.block_count", 2.0, FormatError, "onebit.block_count is 2.0; expected a whole"),
        ("onebit.lower_bounds", 1, FormatError, "onebit.lower_bounds is 1; expected true"),
        ("onebit.mlgru", "other", UnsupportedError, "mlgru is 'other'; supported: code, paper"),
        ("onebit.mlgru", ["code"], UnsupportedError, "mlgru is"),
        *(
            (f"onebit.{key}", value, UnsupportedError, f"onebit.{key} is .*; a hgrn_bit model has")
            for key, value in {
                "attention.head_count": 4,
                "attention.head_count_kv": [2, 2],
                "attention.key_length": 16,
                "attention.sliding_window": 512,
                "rope.freq_base": 1e4,
                "rope.scaling.type": "linear",
                "softmax_temperature": 2.0,
                "learned_temperature": True,
            }.items()
        ),
        ("onebit.hidden_act", "relu2", UnsupportedError, "hidden_act is 'relu2'; a hgrn_bit"),
        ("onebit.model_type", "hgrn", FormatError, "onebit.model_type is 'hgrn'; expected llama"),
        ("onebit.scheme", "{", FormatError, "onebit.scheme"),
        ("split.count", 2, UnsupportedError, "one part of several"),
    ],
)
def test_what_is_wrong_in_the_keys_is_one_line(key, value, kind, says):
    metadata = {k: v for k, v in (METADATA | {key: value}).items() if v is not None}
    with pytest.raises(kind, match=says) as caught:
        Architecture.from_config(metadata_to_config(metadata, SHAPES))
    assert "\n" not in str(caught.value)


def test_heads_must_divide_the_width():
    assert Architecture.from_config(CONFIG | {"num_heads": 4}).hidden_size == 64
    for heads in (3, 0, "2"):
        with pytest.raises(OnebitError, match="num_heads"):
            Architecture.from_config(CONFIG | {"num_heads": heads})


def test_the_scheme_is_json_of_ours():
    assert json.loads(METADATA["onebit.scheme"])["name"] == "matmulfree"
