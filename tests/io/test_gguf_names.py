"""Tensor names, against the table of the `gguf` package."""

import gguf as reference
import pytest

from onebit.errors import UnsupportedError
from onebit.io import gguf_names

MODULES = [
    *("embed_tokens", "norm"),
    *("layers.7.input_layernorm", "layers.7.post_attention_layernorm"),
    *(f"layers.7.self_attn.{m}" for m in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"layers.7.self_attn.{m}" for m in ("q_norm", "k_norm")),
    *(f"layers.7.mlp.{m}" for m in ("gate_proj", "up_proj", "down_proj")),
]


@pytest.mark.parametrize("module", [*(f"model.{m}" for m in MODULES), "lm_head"])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_names_are_the_gguf_packages(module, kind):
    table = reference.get_tensor_name_map(reference.MODEL_ARCH.QWEN3, 8)
    theirs = table.get_name(f"{module}.{kind}", (".weight", ".bias"))
    assert gguf_names.to_gguf(f"{module}.{kind}") == theirs
    assert gguf_names.to_huggingface(theirs) == f"{module}.{kind}"


GEMMA3 = ["post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]


@pytest.mark.parametrize("module", [*MODULES[2:3], *GEMMA3, "self_attn.q_norm", "mlp.up_proj"])
def test_names_of_gemma3(module):
    """`post_attention_layernorm` is behind attention there, and before the MLP elsewhere."""
    table = reference.get_tensor_name_map(reference.MODEL_ARCH.GEMMA3, 8)
    name = f"model.layers.3.{module.removeprefix('layers.7.')}.weight"
    theirs = table.get_name(name, (".weight", ".bias"))
    assert gguf_names.to_gguf(name, "gemma3_text") == theirs
    assert gguf_names.to_huggingface(theirs, "gemma3_text") == name


@pytest.mark.parametrize(
    ("hf", "own"),
    [
        ("model.layers.0.self_attn.attn_sub_norm.weight", "blk.0.attn_sub_norm.weight"),
        ("model.layers.12.mlp.ffn_sub_norm.weight", "blk.12.ffn_sub_norm.weight"),
        ("model.layers.1.mlp.up_proj.rms_norm.weight", "blk.1.ffn_up_norm_in.weight"),
        ("lm_head.rms_norm.weight", "output_norm_in.weight"),
        ("model.layers.1.self_attn.o_proj.weight_scale", "blk.1.attn_output.weight_scale"),
    ],
)
def test_names_of_bitnet_models(hf, own):
    assert gguf_names.to_gguf(hf) == own
    assert gguf_names.to_huggingface(own) == hf


@pytest.mark.parametrize(
    "name", ["", "blk.0.ffn_gate_exps.weight", "blk.00.attn_q.weight", "token_embd", "x\ny.weight"]
)
def test_other_names_are_refused(name):
    with pytest.raises(UnsupportedError, match="no model that onebit builds") as caught:
        gguf_names.to_huggingface(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedError, match="GGUF has no name"):
        gguf_names.to_gguf(name)
