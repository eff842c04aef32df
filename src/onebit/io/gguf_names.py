"""One table of tensor names: GGUF's ("blk.0.attn_q.weight") and Hugging Face's.

The norm inside a linear layer, which GGUF files of BitNet embedding models call `attn_q_norm_in`,
is `q_proj.rms_norm` in Hugging Face's BitNet layers; inside the head it is `output_norm_in`, which
only our files have. Gemma 3 has norms behind attention and MLP too, and Hugging Face's
`post_attention_layernorm` is such a one there. A learned temperature of attention is nobody's but
ours: `attn_temperature.weight` is `self_attn.temperature`, a parameter and no module. So are the
names of a MatMul-free model's tensors, which no other reader of GGUF has (docs/formats/hgrn.md).
"""

import re

from onebit.architecture import RECURRENT
from onebit.errors import UnsupportedError
from onebit.tensors import LOWER_BOUNDS

_WHOLE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "output_norm_in": "lm_head.rms_norm",
}
_LINEARS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_RECURRENT_LINEARS = {
    "attn_i": "attn.i_proj",
    "attn_f": "attn.f_proj",
    "attn_g": "attn.g_proj",
    "attn_output": "attn.o_proj",
    "ffn_gate_up": "mlp.gate_proj",
    "ffn_down": "mlp.down_proj",
}


def _norms_in(linears: dict[str, str]) -> dict[str, str]:
    return {f"{gguf}_norm_in": f"{module}.rms_norm" for gguf, module in linears.items()}


_LAYER = {
    **_LINEARS,
    **_norms_in(_LINEARS),
    "attn_norm": "input_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_sub_norm": "mlp.ffn_sub_norm",
}
_OF_TYPE = {
    "gemma3_text": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
}
"""Model type -> what it names otherwise."""
_RECURRENT_LAYER = {
    **_RECURRENT_LINEARS,
    **_norms_in(_RECURRENT_LINEARS),
    "attn_norm": "attn_norm",
    "attn_gate_norm": "attn.g_norm",
    "ffn_norm": "mlp_norm",
}
"""All that a layer without attention has."""
_GGUF_LOWER_BOUNDS = "hgrn.lower_bounds"
_WHOLE_BACK = {hf: gguf for gguf, hf in _WHOLE.items()}
_KINDS = "weight|bias|weight_scale|weight_minimum|weight_zero|input_scale|input_zero"
_NUMBER = r"(0|[1-9]\d{0,3})"
_GGUF_LAYER = re.compile(rf"blk\.{_NUMBER}\.([a-z_]+)\.({_KINDS})")
_HF_LAYER = re.compile(rf"model\.layers\.{_NUMBER}\.([a-z_.]+)\.({_KINDS})")
_GGUF_TEMPERATURE = re.compile(rf"blk\.{_NUMBER}\.attn_temperature\.weight")
_HF_TEMPERATURE = re.compile(rf"model\.layers\.{_NUMBER}\.self_attn\.temperature")


def _layer(model_type: str) -> dict[str, str]:
    if model_type == RECURRENT:
        return _RECURRENT_LAYER
    return _LAYER | _OF_TYPE.get(model_type, {})


def to_huggingface(name: str, model_type: str = "llama") -> str:
    """Return the Hugging Face name of a GGUF tensor of a model of this type.

    Raises:
        UnsupportedError: no model that onebit builds has such a tensor.
    """
    stem, _, kind = name.rpartition(".")
    if stem in _WHOLE and kind in _KINDS.split("|"):
        return f"{_WHOLE[stem]}.{kind}"
    if name == _GGUF_LOWER_BOUNDS and model_type == RECURRENT:
        return LOWER_BOUNDS
    if temperature := _GGUF_TEMPERATURE.fullmatch(name):
        return f"model.layers.{temperature[1]}.self_attn.temperature"
    layer = _GGUF_LAYER.fullmatch(name)
    if layer and (module := _layer(model_type).get(layer[2])):
        return f"model.layers.{layer[1]}.{module}.{layer[3]}"
    raise UnsupportedError(
        f"{name!r:.80}: no model that onebit builds has a GGUF tensor of this name."
    )


def to_gguf(name: str, model_type: str = "llama") -> str:
    """Return the GGUF name of a Hugging Face tensor of a model of this type.

    Raises:
        UnsupportedError: GGUF has none for it.
    """
    stem, _, kind = name.rpartition(".")
    if stem in _WHOLE_BACK and kind in _KINDS.split("|"):
        return f"{_WHOLE_BACK[stem]}.{kind}"
    if name == LOWER_BOUNDS and model_type == RECURRENT:
        return _GGUF_LOWER_BOUNDS
    if temperature := _HF_TEMPERATURE.fullmatch(name):
        return f"blk.{temperature[1]}.attn_temperature.weight"
    layer = _HF_LAYER.fullmatch(name)
    back = {hf: gguf for gguf, hf in _layer(model_type).items()}
    if layer and layer[2] in back:
        return f"blk.{layer[1]}.{back[layer[2]]}.{layer[3]}"
    raise UnsupportedError(f"{name!r:.80}: GGUF has no name for a tensor of this name.")
