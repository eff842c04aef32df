"""GGUF metadata to config and back."""

import numpy as np
import pytest

from onebit.architecture import Architecture
from onebit.errors import FormatError, MissingError, UnsupportedError
from onebit.io.gguf_config import (
    config_to_metadata,
    metadata_to_config,
    only_ours,
    rope_factors,
)
from onebit.scheme import SCHEMES, LinearScheme, Scheme

SHAPES = {"token_embd.weight": (100, 64), "output.weight": (100, 64)}
LLAMA = {
    "general.architecture": "llama",
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
    "llama.context_length": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


GEMMA3 = {
    "model_type": "gemma3_text",
    "hidden_act": "gelu_pytorch_tanh",
    "qk_norm": True,
    "post_norms": True,
    "sliding_window": 32,
    "global_every": 6,
}


def model(**fields):
    base = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    base |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Architecture(**(base | fields))


def test_llama_by_hand():
    config = metadata_to_config(LLAMA, SHAPES)
    assert Architecture.from_config(config) == model(
        tie_word_embeddings=False, **{"max_position_embeddings": 256}
    )


@pytest.mark.parametrize(
    "wanted",
    [
        model(tie_word_embeddings=False, bos_token_id=1, eos_token_id=(2,)),
        model(head_dim=32, eos_token_id=(2, 5, 7), rms_norm_eps=1e-6, hidden_act="relu2"),
        model(rope_scaling={"rope_type": "linear", "factor": 4.0}, rope_theta=5e5),
        model(rope_scaling=LLAMA3, rope_theta=5e5, head_dim=64),
        model(model_type="qwen2", qkv_bias=True),
        model(model_type="qwen3", qk_norm=True),
        model(model_type="bitnet", hidden_act="relu2", sub_norms=True),
        model(model_type="bitnet", hidden_act="silu", sub_norms=True),
        model(**GEMMA3),
        model(**GEMMA3, rope_scaling={"rope_type": "linear", "factor": 8.0}),
        model(**GEMMA3 | {"softmax_temperature": 2.0, "global_every": 3}),
    ],
    ids=lambda m: f"{m.model_type}-{m.hidden_act}-{m.rope_scaling['rope_type']}",
)
def test_what_is_written_comes_back(wanted):
    scheme = SCHEMES["bitnet-b1.58"].to_dict()
    config = wanted.to_config() | {"onebit_scheme": scheme}
    shapes = {"token_embd.weight": (100, 64)}
    if not wanted.tie_word_embeddings:
        shapes["output.weight"] = (100, 64)
    if wanted.qkv_bias:
        shapes["blk.0.attn_q.bias"] = (64,)
    found = metadata_to_config(config_to_metadata(config), shapes, rope_factors(config))
    assert Architecture.from_config(found) == wanted
    assert found["onebit_scheme"] == scheme


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ({"pre_norms": False}, "bitnet-b1.58-norm"),
        ({"softmax_temperature": 0.7, "hidden_act": "relu2"}, "bitnet-b1.58"),
        ({"learned_temperature": True, "model_type": "bitnet", "sub_norms": True}, "bitnet-b1.58"),
        ({"model_type": "qwen2", "qkv_bias": True}, "bitnet-v2-a4"),
        ({}, "bitnet-b1"),
    ],
)
def test_a_model_that_others_would_run_wrongly_has_our_architecture(fields, scheme):
    wanted = model(**fields)
    config = wanted.to_config() | {"onebit_scheme": SCHEMES[scheme].to_dict()}
    metadata = config_to_metadata(config)
    assert metadata["general.architecture"] == "onebit"
    assert not any(key.startswith(("llama.", "qwen2.", "bitnet")) for key in metadata)
    shapes = {"token_embd.weight": (100, 64)}
    if wanted.qkv_bias:
        shapes["blk.0.attn_q.bias"] = (64,)
    found = metadata_to_config(metadata, shapes)
    assert Architecture.from_config(found) == wanted
    assert found["onebit_scheme"] == config["onebit_scheme"]


@pytest.mark.parametrize(
    ("fields", "ours"),
    [({}, False), ({"local_rope_theta": 2e4}, True), ({"global_every": 2}, True)],
)
def test_gemma3_keeps_its_architecture_where_others_would_run_it(fields, ours):
    """llama.cpp takes a base of 10,000 and every sixth layer for granted."""
    metadata = config_to_metadata(model(**GEMMA3 | fields).to_config())
    arch = "onebit" if ours else "gemma3"
    assert metadata["general.architecture"] == arch
    assert metadata[f"{arch}.attention.sliding_window"] == 32
    assert ("onebit.rope.freq_base_swa" in metadata) == ours


def test_the_largest_gemma3_divides_scores_by_its_width_per_head():
    fields = GEMMA3 | {"num_hidden_layers": 62, "hidden_size": 84, "head_dim": 16}
    largest = model(**fields, softmax_temperature=(21 / 16) ** 0.5)
    metadata = config_to_metadata(largest.to_config())
    assert metadata["general.architecture"] == "gemma3"
    found = metadata_to_config(metadata, {"token_embd.weight": (100, 84)})
    assert Architecture.from_config(found) == largest


def test_a_layer_in_parts_is_ours_where_its_input_is_cut():
    for split, ours in (("in:2", True), ("out:2", False)):
        body = LinearScheme("binary", split=split)
        config = model().to_config() | {"onebit_scheme": Scheme("s", {"body": body}).to_dict()}
        assert only_ours(config) == ours
    assert not only_ours(model().to_config())
    assert not only_ours(model().to_config() | {"onebit_scheme": SCHEMES["bitnet-a4.8"].to_dict()})


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("model_type", None, "onebit.model_type is None; expected llama"),
        ("model_type", "gpt2", "onebit.model_type is 'gpt2'; expected llama"),
        ("model_type", ["llama"], "onebit.model_type is"),
        ("pre_norms", 1, "onebit.pre_norms is 1; expected true or false"),
        ("learned_temperature", "yes", "onebit.learned_temperature is 'yes'"),
        ("softmax_temperature", 0.0, "onebit.softmax_temperature is 0.0; expected a number"),
        ("softmax_temperature", float("nan"), "onebit.softmax_temperature is nan"),
    ],
)
def test_what_is_wrong_in_a_file_of_ours_is_one_line(key, value, match):
    metadata = config_to_metadata(model(pre_norms=False).to_config())
    metadata[f"onebit.{key}"] = value
    with pytest.raises(FormatError, match=match) as caught:
        metadata_to_config(metadata, {"token_embd.weight": (100, 64)})
    assert "\n" not in str(caught.value)


def test_bitnet_architectures_have_their_activations():
    for arch, act in (("bitnet", "silu"), ("bitnet-25", "relu2"), ("bitnet-b1.58", "relu2")):
        metadata = {key.replace("llama", arch): value for key, value in LLAMA.items()}
        metadata["general.architecture"] = arch
        found = metadata_to_config(metadata, SHAPES)
        assert (found["model_type"], found["hidden_act"]) == ("bitnet", act)


def test_rope_factors_are_transformers():
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = model(rope_scaling=LLAMA3, rope_theta=5e5, head_dim=64).to_config()
    theirs = LlamaConfig(**{k: v for k, v in config.items() if k != "architectures"})
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    plain = 5e5 ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(plain / rope_factors(config), inverse.numpy(), rtol=1e-5)


def test_models_without_scaling_have_no_factors():
    assert rope_factors(model().to_config()) is None


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"general.architecture": None}, MissingError, "general.architecture is not there"),
        ({"general.architecture": "gemma2"}, UnsupportedError, "supported: llama, qwen2, qwen3, b"),
        ({"general.architecture": 3}, UnsupportedError, "architecture 3; supported"),
        ({"llama.block_count": None}, MissingError, "key llama.block_count is not there"),
        ({"llama.block_count": "2"}, FormatError, "is '2'; expected a whole number"),
        ({"llama.block_count": True}, FormatError, "is True; expected a whole number"),
        ({"llama.block_count": 0}, FormatError, "is 0; expected a whole number"),
        ({"llama.attention.head_count": 1 << 40}, FormatError, "expected a whole number"),
        ({"llama.attention.head_count": [4, 2]}, UnsupportedError, "differs from layer to layer"),
        ({"llama.attention.head_count": 7}, FormatError, "64 is no multiple of 7 heads"),
        ({"llama.attention.layer_norm_rms_epsilon": np.nan}, FormatError, "a number over 0"),
        ({"llama.rope.dimension_count": 8}, UnsupportedError, "is 8 and a head is 16 wide"),
        ({"llama.attention.value_length": 8}, UnsupportedError, "is 8 and a head is 16 wide"),
        ({"llama.rope.scaling.type": "yarn"}, UnsupportedError, "'yarn'; supported: none, linear"),
        ({"llama.expert_count": 8}, UnsupportedError, "expert_count is 8; not supported"),
        ({"split.count": 3}, UnsupportedError, "one part of several"),
        ({"tokenizer.ggml.eos_token_id": -1}, FormatError, "is -1; expected a token id"),
        ({"onebit.scheme": 3}, FormatError, "onebit.scheme must be a string of JSON"),
        ({"onebit.scheme": "{"}, FormatError, "onebit.scheme: not valid JSON"),
    ],
)
def test_what_cannot_be_is_refused(change, kind, message):
    metadata = {key: value for key, value in (LLAMA | change).items() if value is not None}
    with pytest.raises(kind, match=message):
        metadata_to_config(metadata, SHAPES)


def test_one_number_for_all_layers_may_be_a_list():
    found = metadata_to_config(LLAMA | {"llama.attention.head_count_kv": [2, 2]}, SHAPES)
    assert found["num_key_value_heads"] == 2


def test_other_rope_factors_are_refused():
    for factors in (np.full(8, 2.0, np.float32), np.array([1, np.nan], np.float32)):
        with pytest.raises(UnsupportedError, match=r"rope_freqs\.weight are not Llama 3's"):
            metadata_to_config(LLAMA, SHAPES, factors)
    plain = metadata_to_config(LLAMA, SHAPES, np.ones(8, np.float32))
    assert plain["rope_parameters"]["rope_type"] == "default"


def test_more_eos_tokens_than_gguf_has_keys_for():
    with pytest.raises(UnsupportedError, match="4 eos_token_id; GGUF has keys for 3"):
        config_to_metadata(model(eos_token_id=(1, 2, 3, 4)).to_config())
