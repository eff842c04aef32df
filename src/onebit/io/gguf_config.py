"""GGUF metadata to a Hugging Face config and back.

GGUF keeps a model's shape under keys that begin with the architecture's name
("llama.block_count"). A few facts stand elsewhere: that the output is tied is said by the absence
of `output.weight`, and Llama 3's RoPE scaling is a tensor, `rope_freqs.weight`, of one factor for
each frequency.

A model that another reader would take for one it knows, and run wrongly in silence, has the
architecture "onebit", which only we know: `only_ours` says which they are. MatMul-free models are
among them, with keys that docs/formats/hgrn.md lists.

Sources: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; for the BitNet architectures,
`src/llama.cpp` of https://github.com/microsoft/BitNet.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onebit.architecture import MODEL_TYPES, RECURRENT, Architecture
from onebit.errors import FormatError, MissingError, UnsupportedError
from onebit.io.json_file import parse_object
from onebit.io.packed import SCHEME_KEY
from onebit.scheme import Scheme, of_config

MODEL_TYPE_OF = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "bitnet": "bitnet",
    "bitnet-25": "bitnet",
    "bitnet-b1.58": "bitnet",
    "gemma3": "gemma3_text",
    "onebit": "",
}
"""general.architecture to model_type. "bitnet-25" and "bitnet-b1.58" are the same architecture,
with the squared ReLU; "bitnet" is llama.cpp's own and has SiLU. "onebit" is ours, and a key says of
which model type it is."""

ROPE_FACTORS_NAME = "rope_freqs.weight"
_HIDDEN_ACT_KEY = "onebit.hidden_act"
_EPSILON_KEY = "attention.layer_norm_rms_epsilon"
"""Of all norms, for all that it is called."""
_ONLY_OF_ATTENTION = ("softmax_temperature", "learned_temperature")
_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_GEMMA3_EVERY, _GEMMA3_LOCAL_THETA, _GEMMA3_27B_LAYERS = 6, 10000.0, 62
"""What readers of GGUF take for Gemma 3 where a file is silent: llama.cpp, `src/models/gemma3.cpp`.
It knows the 27B, which divides scores by a number of its own, by its layers."""
_LLAMA3_USUAL = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def metadata_to_config(
    metadata: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    rope_factors: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Return the config that the metadata of a GGUF file says.

    Args:
        metadata: keys to values.
        shapes: the tensors' GGUF names to their shapes.
        rope_factors: the values of `rope_freqs.weight`, (head_dim / 2,), where there is one.

    Raises:
        UnsupportedError: the architecture, or something in it, is none that onebit builds.
        MissingError: a key is not there.
        FormatError: a key is of the wrong type or absurd.
    """
    keys = _Keys(metadata)
    if keys.model_type() == RECURRENT:
        return _recurrent_config(keys, metadata, shapes)
    heads = keys.whole("attention.head_count")
    hidden = keys.whole("embedding_length")
    if hidden % heads and keys.get("attention.key_length") is None:
        raise FormatError(f"GGUF: embedding_length {hidden} is no multiple of {heads} heads.")
    head_dim = keys.whole("attention.key_length", hidden // heads)
    _refuse_other_models(keys, head_dim)
    model_type = keys.model_type()
    biases = "blk.0.attn_q.bias" in shapes
    rope = _rope(keys, head_dim, rope_factors)
    config = _same_in_all(keys, metadata, shapes) | {
        "num_attention_heads": heads,
        "num_key_value_heads": keys.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": _hidden_act(keys),
        "rope_theta": rope["rope_theta"],
        "rope_parameters": rope,
        "attention_bias": biases and model_type != "qwen2",
        "mlp_bias": "blk.0.ffn_gate.bias" in shapes,
    }
    if model_type == "gemma3_text":
        config |= _gemma3(keys, hidden // heads)
    if keys.arch == "onebit":
        config["pre_norms"] = keys.flag("pre_norms", True)
        config["softmax_temperature"] = keys.real("softmax_temperature", 1.0)
        config["learned_temperature"] = keys.flag("learned_temperature", False)
    return config


def _same_in_all(
    keys: "_Keys", metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Return the config's fields that every model has."""
    config = {
        "model_type": keys.model_type(),
        "vocab_size": _vocab_size(metadata, shapes),
        "hidden_size": keys.whole("embedding_length"),
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.whole("block_count"),
        "rms_norm_eps": keys.real(_EPSILON_KEY),
        "max_position_embeddings": keys.whole("context_length"),
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": keys.token("bos_token_id"),
        "eos_token_id": _eos(keys),
    }
    if SCHEME_KEY in metadata:
        config["onebit_scheme"] = _scheme(metadata[SCHEME_KEY])
    return config


def _recurrent_config(
    keys: "_Keys", metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Return the config of a MatMul-free model, whose scheme no type of a tensor implies."""
    if keys.own("split.count") not in (None, 0, 1):
        raise _one_of_several()
    if SCHEME_KEY not in metadata:
        raise MissingError(f"GGUF: the key {SCHEME_KEY} is not there; {RECURRENT} models have it.")
    for key, value in metadata.items():
        own = key.removeprefix(f"{keys.arch}.")
        of_attention = own.startswith(("attention.", "rope.")) and own != _EPSILON_KEY
        if (of_attention or own in _ONLY_OF_ATTENTION) and value not in (None, 0):
            raise UnsupportedError(
                f"GGUF: {key} is {value!r:.40}; a {RECURRENT} model has no attention."
            )
    return _same_in_all(keys, metadata, shapes) | {
        "hidden_act": _hidden_act(keys),
        "use_lower_bound": keys.flag("lower_bounds", True),
        "mlgru": keys.get("mlgru") or "code",
    }


def config_to_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the GGUF metadata of a model, without its tokenizer: `metadata_to_config` reads it
    back. A model with Llama 3's RoPE also needs the tensor that `rope_factors` returns.

    Raises:
        UnsupportedError: the config is of a model that onebit does not build.
        OptionError: a field is missing or absurd.
    """
    model = Architecture.from_config(config)
    arch = "gemma3" if model.model_type == "gemma3_text" else model.model_type
    if arch == "bitnet" and model.hidden_act == "relu2":
        arch = "bitnet-b1.58"
    if only_ours(config):
        arch = "onebit"
    values: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "context_length": model.max_position_embeddings,
        "embedding_length": model.hidden_size,
        "block_count": model.num_hidden_layers,
        "feed_forward_length": model.intermediate_size,
    }
    if model.recurrent:
        values |= {
            _EPSILON_KEY: model.rms_norm_eps,
            "model_type": model.model_type,
            "lower_bounds": model.lower_bounds,
            "mlgru": model.mlgru,
        }
    else:
        values |= _of_attention(model, arch)
    metadata = {"general.architecture": arch} | {f"{arch}.{k}": v for k, v in values.items()}
    if model.hidden_act != _usual_act(arch):
        metadata[_HIDDEN_ACT_KEY] = model.hidden_act
    if model.bos_token_id is not None:
        metadata["tokenizer.ggml.bos_token_id"] = model.bos_token_id
    if len(model.eos_token_id) > len(_EOS_KEYS):
        raise UnsupportedError(
            f"config: {len(model.eos_token_id)} eos_token_id; GGUF has keys for {len(_EOS_KEYS)}."
        )
    for key, token in zip(_EOS_KEYS, model.eos_token_id, strict=False):
        metadata[f"tokenizer.ggml.{key}"] = token
    if model.recurrent:  # also where the published config says nothing
        metadata[SCHEME_KEY] = json.dumps(of_config(config).to_dict())
    elif "onebit_scheme" in config:
        metadata[SCHEME_KEY] = json.dumps(config["onebit_scheme"])
    return metadata


def _of_attention(model: Architecture, arch: str) -> dict[str, Any]:
    """Return the architecture's keys that a model without attention does not have."""
    values: dict[str, Any] = {
        "attention.head_count": model.num_attention_heads,
        "attention.head_count_kv": model.num_key_value_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        _EPSILON_KEY: model.rms_norm_eps,
        "rope.dimension_count": model.head_dim,
        "rope.freq_base": model.rope_theta,
    }
    if arch == "onebit":
        values |= {
            "model_type": model.model_type,
            "pre_norms": model.pre_norms,
            "softmax_temperature": model.softmax_temperature,
            "learned_temperature": model.learned_temperature,
        }
    if model.sliding_window:
        values["attention.sliding_window"] = model.sliding_window
        if arch == "onebit":
            values["attention.sliding_window_pattern"] = model.global_every
            values["rope.freq_base_swa"] = model.local_rope_theta
    if model.rope_scaling["rope_type"] == "linear":
        values["rope.scaling.type"] = "linear"
        values["rope.scaling.factor"] = float(model.rope_scaling["factor"])
    return values


def only_ours(config: Mapping[str, Any]) -> bool:
    """Whether a reader of GGUF that knows the model's type would compute something else.

    That is so where the input of a layer is turned by a Hadamard matrix, or normalised without
    weights or in parts, for attention without norms before it or with a temperature, and where
    there is no attention. How finely inputs are rounded is another matter: a reader that does not
    round them is close.
    """
    model = Architecture.from_config(config)
    if model.recurrent or not model.pre_norms or model.learned_temperature:
        return True
    if model.softmax_temperature != _usual_temperature(model):
        return True
    local = model.global_every, model.local_rope_theta
    if model.sliding_window and local != (_GEMMA3_EVERY, _GEMMA3_LOCAL_THETA):
        return True
    if "onebit_scheme" not in config:
        return False
    return any(
        linear.hadamard != "none" or linear.norm == "layer" or linear.split.startswith("in:")
        for linear in Scheme.from_dict(config["onebit_scheme"]).layers.values()
    )


def rope_factors(config: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """Return the values of `rope_freqs.weight`, (head_dim / 2,), that divide RoPE's frequencies;
    None where the model needs none.

    Source: Llama 3.1's RoPE scaling as transformers computes it, `modeling_rope_utils.py`,
    `_compute_llama3_parameters`.
    """
    model = Architecture.from_config(config)
    if model.rope_scaling["rope_type"] != "llama3":
        return None
    return _llama3_factors(model.rope_scaling, model.rope_theta, model.head_dim)


def architecture_of(metadata: Mapping[str, Any]) -> str:
    """Return the architecture that a GGUF file names, a key of `MODEL_TYPE_OF`.

    Raises:
        MissingError: it names none.
        UnsupportedError: it is none that onebit builds.
    """
    arch = metadata.get("general.architecture")
    if arch is None:
        raise MissingError("GGUF: the key general.architecture is not there.")
    if not isinstance(arch, str) or arch not in MODEL_TYPE_OF:
        raise UnsupportedError(
            f"GGUF: architecture {arch!r:.40}; supported: {', '.join(MODEL_TYPE_OF)}."
        )
    return arch


def model_type_of(metadata: Mapping[str, Any]) -> str:
    """Return the model type of Hugging Face's that a GGUF file is of.

    Raises:
        MissingError, UnsupportedError: as `architecture_of`.
        FormatError: the architecture is ours, and the key that says of which type is wrong.
    """
    return _Keys(metadata).model_type()


class _Keys:
    """The keys of a GGUF file that begin with its architecture, each checked as it is read."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.arch = architecture_of(metadata)
        self._metadata = metadata

    def get(self, key: str) -> Any:
        """Return the value of the architecture's `key`, or None."""
        return self._metadata.get(f"{self.arch}.{key}")

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number above 0; a list must hold the same one for every layer."""
        value = self.get(key)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if value is None:
            value = default
        if value is None:
            raise MissingError(f"GGUF: the key {self.arch}.{key} is not there.")
        if isinstance(value, list):
            raise UnsupportedError(f"GGUF: {self.arch}.{key} differs from layer to layer.")
        if type(value) is not int or not 0 < value < 1 << 31:
            raise FormatError(f"GGUF: {self.arch}.{key} is {value!r:.40}; expected a whole number.")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Return a number above 0, far from where float32 ends."""
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            raise MissingError(f"GGUF: the key {self.arch}.{key} is not there.")
        if type(value) not in (int, float) or not 1e-30 < value < 1e30:
            raise FormatError(
                f"GGUF: {self.arch}.{key} is {value!r:.40}; expected a number over 0."
            )
        return _shortest(float(value))

    def flag(self, key: str, default: bool) -> bool:
        """Return whether the architecture's `key` is set."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise FormatError(f"GGUF: {self.arch}.{key} is {value!r:.40}; expected true or false.")
        return default if value is None else value

    def model_type(self) -> str:
        """Return the model type of Hugging Face's that the architecture is, or names."""
        if self.arch != "onebit":
            return MODEL_TYPE_OF[self.arch]
        value = self.get("model_type")
        if value not in MODEL_TYPES:
            raise FormatError(
                f"GGUF: onebit.model_type is {value!r:.40}; expected {', '.join(MODEL_TYPES)}."
            )
        return str(value)

    def token(self, key: str) -> int | None:
        """Return a token id of the tokenizer's keys, or None."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and (type(value) is not int or not 0 <= value < 1 << 31):
            raise FormatError(f"GGUF: tokenizer.ggml.{key} is {value!r:.40}; expected a token id.")
        return value

    def own(self, key: str) -> Any:
        """Return the value of a whole key, or None."""
        return self._metadata.get(key)


def _shortest(value: float) -> float:
    """Return the shortest decimal that is the same float32: 1e-5, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if value == float(np.float32(value)) else value


def _refuse_other_models(keys: _Keys, head_dim: int) -> None:
    """Refuse what the architecture's name allows and onebit's models do not have."""
    refused = ["expert_count", "attn_logit_softcapping", "final_logit_softcapping"]
    if keys.model_type() != "gemma3_text":
        refused.append("attention.sliding_window")
    for key in refused:
        if keys.get(key) not in (None, 0):
            raise UnsupportedError(
                f"GGUF: {keys.arch}.{key} is {keys.get(key)!r:.40}; not supported."
            )
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.whole(key, head_dim) != head_dim:
            raise UnsupportedError(
                f"GGUF: {keys.arch}.{key} is {keys.whole(key)} and a head is {head_dim} wide; "
                "supported are models where they are equal."
            )
    if keys.own("split.count") not in (None, 0, 1):
        raise _one_of_several()


def _one_of_several() -> UnsupportedError:
    return UnsupportedError("GGUF: one part of several. Merge them with llama-gguf-split first.")


def _rope(keys: _Keys, head_dim: int, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    """Return the config's `rope_parameters`."""
    theta = keys.real("rope.freq_base", 10000.0)
    kind = keys.get("rope.scaling.type") or "none"
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        raise UnsupportedError(
            f"GGUF: {keys.arch}.rope.scaling.type is {kind!r:.40}; supported: none, linear."
        )
    if factors is not None and not (factors == 1).all():
        return {"rope_theta": theta, **_llama3_parameters(factors, theta, head_dim)}
    if factor != 1.0:
        return {"rope_theta": theta, "rope_type": "linear", "factor": factor}
    return {"rope_theta": theta, "rope_type": "default"}


def _llama3_parameters(factors: NDArray[np.float32], theta: float, head_dim: int) -> dict[str, Any]:
    """Return Llama 3's parameters that give these factors; the file holds only the factors."""
    found = {"rope_type": "llama3", "factor": float(factors.max(initial=1)), **_LLAMA3_USUAL}
    if factors.shape != (head_dim // 2,) or not np.allclose(
        factors, _llama3_factors(found, theta, head_dim), rtol=1e-4, atol=0
    ):
        raise UnsupportedError(
            f"GGUF: the factors of {ROPE_FACTORS_NAME} are not Llama 3's with low_freq_factor 1, "
            "high_freq_factor 4 and original_max_position_embeddings 8192; no others are read."
        )
    return found


def _llama3_factors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> NDArray[np.float32]:
    """Return what each of RoPE's frequencies is divided by, (head_dim / 2,)."""
    factor, low, high = (
        float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    original = float(scaling["original_max_position_embeddings"])
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    # 1 where waves are short, 0 where they are long, in between a straight line
    kept = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / factor + kept)).astype(np.float32)


def _gemma3(keys: _Keys, hidden_per_head: int) -> dict[str, Any]:
    """Return the config's fields that only Gemma 3 has."""
    every = keys.whole("attention.sliding_window_pattern", _GEMMA3_EVERY)
    largest = keys.whole("block_count") == _GEMMA3_27B_LAYERS
    scalar = hidden_per_head if largest else keys.whole("attention.key_length", hidden_per_head)
    theta = keys.real("rope.freq_base_swa", _GEMMA3_LOCAL_THETA)
    return {
        "sliding_window": keys.whole("attention.sliding_window"),
        "sliding_window_pattern": every,
        "rope_local_base_freq": theta,
        "query_pre_attn_scalar": scalar,
    }


def _usual_temperature(model: Architecture) -> float:
    """Return what a reader of GGUF divides scores by, on top of sqrt(head_dim)."""
    if model.sliding_window and model.num_hidden_layers == _GEMMA3_27B_LAYERS:
        return math.sqrt(model.hidden_size // model.num_attention_heads / model.head_dim)
    return 1.0


def _usual_act(arch: str) -> str:
    if arch == "gemma3":
        return "gelu_pytorch_tanh"
    return "relu2" if arch in ("bitnet-25", "bitnet-b1.58") else "silu"


def _hidden_act(keys: _Keys) -> str:
    found = keys.own(_HIDDEN_ACT_KEY)
    return found if isinstance(found, str) else _usual_act(keys.arch)


def _vocab_size(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the rows of the embedding, or the number of tokens of a file that has no tensors."""
    embedding = shapes.get("token_embd.weight")
    if embedding:
        return embedding[0]
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise MissingError("GGUF: neither token_embd.weight nor tokenizer.ggml.tokens is there.")
    return len(tokens)


def _eos(keys: _Keys) -> int | list[int] | None:
    found = [token for key in _EOS_KEYS if (token := keys.token(key)) is not None]
    distinct = list(dict.fromkeys(found))
    return distinct[0] if len(distinct) == 1 else distinct or None


def _scheme(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise FormatError(f"GGUF: {SCHEME_KEY} must be a string of JSON.")
    return parse_object(text, f"GGUF: {SCHEME_KEY}")
