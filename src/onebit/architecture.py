"""The shape of a model, as data: what `config.json` says, read once and shared by all.

The torch models and the native runtime both build from an `Architecture`, so a model that trains
and a model that runs cannot disagree about their shape. Field names are Hugging Face's.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onebit.errors import OptionError, UnsupportedError

RECURRENT = "hgrn_bit"
"""The model type of MatMul-free language models: layers with a state in place of attention."""
MODEL_TYPES = ("llama", "qwen2", "qwen3", "bitnet", "gemma3_text", RECURRENT)
ACTIVATIONS = ("silu", "relu2", "gelu_pytorch_tanh")
ROPE_TYPES = ("default", "linear", "llama3")
MLGRU_FORMS = ("code", "paper")

# A config from a stranger may ask for any size; beyond these it is damage, not a model.
LIMITS = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 1024,
    "max_position_embeddings": 1 << 26,
}
_LARGEST = max(LIMITS.values())
"""Of any other whole number, before something is computed with it."""
NO_LIMIT = sys.maxsize
"""Tokens that a recurrent model takes: its state has no length."""
_OF_ATTENTION = ("num_attention_heads", "num_key_value_heads", "head_dim")
MAX_TOKEN = (1 << 31) - 1
_OURS = {
    "pre_norms": True,
    "softmax_temperature": 1.0,
    "learned_temperature": False,
    "mlgru": "code",
}
FLAGS = (
    "tie_word_embeddings",
    "qkv_bias",
    "out_bias",
    "mlp_bias",
    "qk_norm",
    "sub_norms",
    "pre_norms",
    "post_norms",
    "learned_temperature",
    "lower_bounds",
)
_KEY_OF = {
    "qkv_bias": "attention_bias",
    "out_bias": "attention_bias",
    "lower_bounds": "use_lower_bound",
}
"""What a config calls a field that has another name here: messages say that."""
_USUAL_THETA = 10000.0
GLOBAL, LOCAL = "full_attention", "sliding_attention"
"""Hugging Face's words in `layer_types` and in Gemma 3's `rope_parameters`."""


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer (the llama family, BitNet b1.58 2B4T, Gemma 3's text models), or a
    MatMul-free language model, whose layers have a state in place of attention."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    """0, as the next two, where there is no attention."""
    num_key_value_heads: int
    head_dim: int
    model_type: str = "llama"
    hidden_act: str = "silu"
    """Of the gate: "silu", "relu2" for the squared ReLU, or "gelu_pytorch_tanh" for GELU with its
    tanh approximation."""
    rms_norm_eps: float = 1e-5
    rope_theta: float = _USUAL_THETA
    """Of every layer; of the global ones where there are local ones."""
    rope_scaling: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default"})
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over each head of q and k, before RoPE (qwen3, Gemma 3)."""
    sub_norms: bool = False
    """RMSNorm before the attention output and before the down projection (BitNet 2B4T)."""
    pre_norms: bool = True
    """RMSNorm before attention and before the MLP; not where every linear layer has its own norm
    inside (BitNet b1, and the training tips of b1.58)."""
    post_norms: bool = False
    """RMSNorm over what attention and the MLP give, before it is added to the stream (Gemma 3)."""
    sliding_window: int = 0
    """Tokens that a local layer sees, the newest among them; 0 where all layers see all of them."""
    global_every: int = 1
    """Where there is a window: of so many layers the last is global, the others are local."""
    local_rope_theta: float = 10000.0
    """Of the local layers, whose positions are never scaled."""
    softmax_temperature: float = 1.0
    """Scores are divided by it before the softmax, on top of sqrt(head_dim)."""
    learned_temperature: bool = False
    """Whether each head learns its own, `self_attn.temperature`, beginning at that."""
    lower_bounds: bool = True
    """Whether forget gates of deeper layers stay above learned bounds (MatMul-free)."""
    mlgru: str = "code"
    """Of a MatMul-free model's recurrent layers: "code" as published, or "paper"; `nn.MLGRU` has
    both."""
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in LIMITS:
            value = getattr(self, name)
            if self.recurrent and name in _OF_ATTENTION:
                if type(value) is not int or value:
                    raise OptionError(
                        f"config: {name} is {value!r:.80}; a {RECURRENT} model has no attention "
                        "and has it 0."
                    )
                continue
            _positive(name, value)
        _one_of("model_type", self.model_type, MODEL_TYPES)
        _one_of("hidden_act", self.hidden_act, ACTIVATIONS)
        _one_of("rope_type", self.rope_scaling.get("rope_type"), ROPE_TYPES)
        _number("rms_norm_eps", self.rms_norm_eps, 0, 1)
        _number("rope_theta", self.rope_theta, 1, 1e12)
        _number("local_rope_theta", self.local_rope_theta, 1, 1e12)
        _whole("sliding_window", self.sliding_window, 0)
        _whole("global_every", self.global_every, 1)
        _number("softmax_temperature", self.softmax_temperature, 1e-3, 1e3)
        _one_of("mlgru", self.mlgru, MLGRU_FORMS)
        for name in FLAGS:
            _flag(_KEY_OF.get(name, name), getattr(self, name))
        for token in (self.bos_token_id, *self.eos_token_id):
            if token is not None and (type(token) is not int or not 0 <= token <= MAX_TOKEN):
                raise OptionError(f"config: {token!r:.80} is no id of a begin or end token.")
        self._check_family()
        if self.recurrent:
            return
        if self.num_attention_heads % self.num_key_value_heads:
            raise OptionError(
                f"config: {self.num_attention_heads} attention heads do not divide among "
                f"{self.num_key_value_heads} key/value heads. Make the first a multiple."
            )
        if self.head_dim % 2:
            raise OptionError(f"config: head_dim is {self.head_dim}; RoPE needs an even one.")

    def _check_family(self) -> None:
        """Refuse what no `config.json` can say: some parts follow from the model type."""
        qwen2, gemma3 = self.model_type == "qwen2", self.model_type == "gemma3_text"
        follows = {
            "qk_norm": gemma3 or self.model_type == "qwen3",
            "post_norms": gemma3,
            "sub_norms": self.model_type == "bitnet",
            "qkv_bias": qwen2 or self.qkv_bias,
            "out_bias": self.qkv_bias and not qwen2,
        }
        for name, wanted in follows.items():
            if getattr(self, name) != wanted:
                raise OptionError(
                    f"config: {name} is {getattr(self, name)}; a {self.model_type} model with "
                    f"qkv_bias {self.qkv_bias} has it {wanted}."
                )
        only = _ONLY_RECURRENT if self.recurrent else _NEVER_RECURRENT
        for name, usual in only.items():
            if getattr(self, name) != usual:
                raise UnsupportedError(
                    f"config: {_KEY_OF.get(name, name)} is {getattr(self, name)!r:.80}; a "
                    f"{self.model_type} model has it {usual!r}."
                )
        if bool(self.sliding_window) != gemma3:
            raise OptionError(
                f"config: sliding_window is {self.sliding_window}; a gemma3_text model has one of "
                "at least 1 token, any other has 0 (none)."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """Read a Hugging Face `config.json`.

        Raises:
            UnsupportedError: the model type or something in it is not one we build.
            OptionError: a field is missing or absurd.
        """
        model_type = config.get("model_type")
        gemma3 = model_type == "gemma3_text"
        if model_type not in MODEL_TYPES:
            raise UnsupportedError(
                f"config: model_type is {model_type!r:.80}; supported: {', '.join(MODEL_TYPES)}."
            )
        if model_type == RECURRENT:
            return cls(**_recurrent(config))
        if config.get("use_sliding_window"):
            raise UnsupportedError("config: sliding-window attention is not supported.")
        if config.get("pretraining_tp", 1) not in (None, 1):
            raise UnsupportedError("config: pretraining_tp must be 1.")
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            if config.get(name) is not None:
                raise UnsupportedError(f"config: {name} is not supported; it must be null.")
        heads = _need(config, "num_attention_heads")
        hidden = _need(config, "hidden_size")
        bias = _flag("attention_bias", config.get("attention_bias") or False)
        head_dim = config.get("head_dim", _GEMMA3["head_dim"] if gemma3 else None)
        if head_dim is None:
            _positive("num_attention_heads", heads)
            _positive("hidden_size", hidden)
            if hidden % heads:
                raise OptionError(
                    f"config: hidden_size {hidden} is no multiple of {heads} heads; give head_dim."
                )
            head_dim = hidden // heads
        theta, scaling = _rope(_rope_of_layers(config, GLOBAL) if gemma3 else config)
        eps = config.get("rms_norm_eps")
        if eps is None:
            eps = 1e-5 if model_type == "bitnet" else 1e-6
        _check_inner_norms(config.get("quantization_config"), eps)
        kv_heads = config.get("num_key_value_heads")
        return cls(
            vocab_size=_need(config, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_need(config, "intermediate_size"),
            num_hidden_layers=_need(config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=heads if kv_heads is None else kv_heads,
            head_dim=head_dim,
            model_type=model_type,
            hidden_act=(config.get("hidden_activation") if gemma3 else None)
            or config.get("hidden_act")
            or _USUAL_ACT.get(model_type, "silu"),
            rms_norm_eps=_number("rms_norm_eps", eps, 0, 1),
            rope_theta=theta,
            rope_scaling=scaling,
            max_position_embeddings=config.get("max_position_embeddings", 2048),
            tie_word_embeddings=config.get("tie_word_embeddings", gemma3) or False,
            qkv_bias=True if model_type == "qwen2" else bias,
            out_bias=False if model_type == "qwen2" else bias,
            mlp_bias=config.get("mlp_bias") or False,
            qk_norm=gemma3 or model_type == "qwen3",
            sub_norms=model_type == "bitnet",
            pre_norms=config.get("pre_norms", True),
            post_norms=gemma3,
            softmax_temperature=_temperature(config, head_dim if gemma3 else None),
            learned_temperature=config.get("learned_temperature", False),
            lower_bounds=config.get("use_lower_bound", True),
            mlgru=config.get("mlgru", "code"),
            bos_token_id=config.get("bos_token_id"),
            eos_token_id=_tokens(config.get("eos_token_id")),
            **(_local_layers(config) if gemma3 else {}),
        )

    def to_config(self) -> dict[str, Any]:
        """Return the `config.json` fields that `from_config` reads back to an equal value."""
        if self.recurrent:
            return _recurrent_config(self)
        config = asdict(self)
        bias = {"qkv": config.pop("qkv_bias"), "out": config.pop("out_bias")}
        for name in ("qk_norm", "sub_norms", "post_norms"):  # follow from the model type
            del config[name]
        del config["lower_bounds"]
        every, local_theta = config.pop("global_every"), config.pop("local_rope_theta")
        theta, scaling = config.pop("rope_theta"), dict(config.pop("rope_scaling"))
        eos = config.pop("eos_token_id")
        for (
            name,
            usual,
        ) in _OURS.items():  # no word of Hugging Face's; left out where they are usual
            if config[name] == usual:
                del config[name]
        if not self.sliding_window:
            del config["sliding_window"]
        config |= {
            "architectures": [_HF_CLASS[self.model_type]],
            "attention_bias": bias["qkv"] and self.model_type != "qwen2",
            "rope_parameters": scaling | {"rope_theta": theta},
            "rope_theta": theta,
            "eos_token_id": None if not eos else eos[0] if len(eos) == 1 else list(eos),
        }
        if not self.sliding_window:
            return config
        local = {"rope_type": "default", "rope_theta": local_theta}
        layers = range(self.num_hidden_layers)
        return config | {
            "hidden_activation": self.hidden_act,
            "rope_parameters": {GLOBAL: config["rope_parameters"], LOCAL: local},
            "rope_local_base_freq": local_theta,
            "query_pre_attn_scalar": max(1, round(self.head_dim * self.softmax_temperature**2)),
            "sliding_window_pattern": every,
            "layer_types": [LOCAL if self.is_local(layer) else GLOBAL for layer in layers],
        }

    @property
    def recurrent(self) -> bool:
        """Whether layers have a state of `hidden_size` numbers in place of attention."""
        return self.model_type == RECURRENT

    @property
    def longest(self) -> int:
        """Most tokens of a sequence, NO_LIMIT where there is a state: of such a model
        `max_position_embeddings` says what its training saw, and nothing ends there."""
        return NO_LIMIT if self.recurrent else self.max_position_embeddings

    @property
    def embedding_scale(self) -> float:
        """What embeddings are multiplied by on their way into the stream: sqrt(hidden_size) in
        Gemma, as float32 has it."""
        gemma3 = self.model_type == "gemma3_text"
        return float(np.float32(math.sqrt(self.hidden_size))) if gemma3 else 1.0

    def native(self) -> dict[str, Any]:
        """Return the fields as the native decoder takes them: RoPE is frequencies, ready to use."""
        fields = asdict(self) | {"recurrent": self.recurrent}
        for name in ("rope_theta", "rope_scaling", "local_rope_theta"):
            del fields[name]
        if self.sliding_window:
            fields["local_inv_freq"] = self.inv_freq(local=True)
        return fields | {"inv_freq": self.inv_freq(), "embedding_scale": self.embedding_scale}

    def is_local(self, layer: int) -> bool:
        """Whether a layer, counted from 0, sees only the last `sliding_window` tokens."""
        return self.sliding_window > 0 and (layer + 1) % self.global_every != 0

    def inv_freq(self, local: bool = False) -> NDArray[np.float32]:
        """Return the angles that the pairs of a head turn per position (RoPE), [head_dim / 2]; none
        where there is no attention.

        Args:
            local: those of the local layers, where there are any.

        Raises:
            OptionError: a parameter of the scaling is missing or absurd.

        Source: RoFormer, section 3.2.2, https://arxiv.org/abs/2104.09864; linear and llama3 scaling
            as in transformers, `modeling_rope_utils.py`.
        """
        if self.recurrent:
            return np.empty(0, np.float32)
        exponent = np.arange(0, self.head_dim, 2) / self.head_dim
        freq = 1.0 / (self.local_rope_theta if local else self.rope_theta) ** exponent
        kind = "default" if local else self.rope_scaling.get("rope_type")
        if kind != "default":
            factor = _scaling_number(self.rope_scaling, "factor")
            freq = _llama3(freq, factor, self.rope_scaling) if kind == "llama3" else freq / factor
        return freq.astype(np.float32)


def _llama3(
    freq: NDArray[np.float64], factor: float, scaling: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Slow the low frequencies by `factor`, keep the high ones, and go over smoothly between."""
    low = _scaling_number(scaling, "low_freq_factor")
    high = _scaling_number(scaling, "high_freq_factor")
    context = _scaling_number(scaling, "original_max_position_embeddings")
    if high <= low:
        raise OptionError(
            f"config: rope high_freq_factor {high} must be larger than low_freq_factor {low}."
        )
    turns = context * freq / (2 * np.pi)  # full circles within the original context
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return freq * (keep + (1 - keep) / factor)


def _scaling_number(scaling: Mapping[str, Any], name: str) -> float:
    value = scaling.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
        raise OptionError(f"config: rope {name} is {value!r}; it must be a number above 0.")
    return float(value)


_HF_CLASS = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "bitnet": "BitNetForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    RECURRENT: "HGRNBitForCausalLM",
}
# What no other model type has, and what this one has not.
_NEVER_RECURRENT = {"lower_bounds": True, "mlgru": "code"}
_ONLY_RECURRENT = {
    "qkv_bias": False,
    "hidden_act": "silu",
    "mlp_bias": False,
    "pre_norms": True,
    "softmax_temperature": 1.0,
    "learned_temperature": False,
    "rope_scaling": {"rope_type": "default"},
}
# Of the published `HGRNBitConfig`: what onebit builds in one form only.
_HGRN_FIXED = {"expand_ratio": 1, "use_short_conv": False}
# Of other models' configs: what an MLGRU layer cannot have. Where it says nothing, it is let be.
_NOT_HGRN = (
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
_NOTHING: tuple[Any, ...] = (None, False, {}, {"rope_type": "default"})
_USUAL_ACT = {"bitnet": "relu2", "gemma3_text": "gelu_pytorch_tanh"}
# What transformers takes where a config of Gemma 3 is silent: `configuration_gemma3.py`.
_GEMMA3 = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096, "every": 6}
_GEMMA3_THETAS = {GLOBAL: 1e6, LOCAL: 1e4}


def _recurrent(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a MatMul-free model, from a published `HGRNBitConfig` or one of ours.

    `num_heads`, which must divide the width, and `attn_mode` change nothing: the state is updated
    channel by channel.

    Source: ridgerchu/matmulfreellm, `configuration_hgrn_bit.py` and `modeling_hgrn_bit.py`.
    """
    for name, fixed in _HGRN_FIXED.items():
        if config.get(name, fixed) not in (fixed, None):
            raise UnsupportedError(f"config: {name} is {config[name]!r:.80}; supported: {fixed!r}.")
    for name in _NOT_HGRN:
        if config.get(name) not in _NOTHING:
            raise UnsupportedError(
                f"config: {name} is {config[name]!r:.80}; a {RECURRENT} model has none."
            )
    hidden = _need(config, "hidden_size")
    _positive("hidden_size", hidden)
    heads = config.get("num_heads")
    _positive("num_heads", heads := 1 if heads is None else heads)
    if hidden % heads:
        raise OptionError(f"config: hidden_size {hidden} is no multiple of num_heads {heads}.")
    width = config.get("intermediate_size")
    if width is None:
        ratio = config.get("hidden_ratio")
        _positive("hidden_ratio", ratio := 4 if ratio is None else ratio)
        width = 256 * -(-int(hidden * ratio * 2 / 3) // 256)
    act = config.get("hidden_act") or "swish"
    if act not in ("silu", "swish"):  # two names of one function
        raise UnsupportedError(
            f"config: hidden_act is {act!r:.80}; a {RECURRENT} model has it 'silu' or 'swish'."
        )
    if config.get("rope_theta") not in (None, _USUAL_THETA):  # as a recipe says that sets none
        raise UnsupportedError(
            f"config: rope_theta is {config['rope_theta']!r:.80}; a {RECURRENT} model has no "
            "attention and no RoPE. Leave it out."
        )
    positions, eps = config.get("max_position_embeddings"), config.get("rms_norm_eps")
    ours = {name: config[name] for name in ("pre_norms", "learned_temperature") if name in config}
    return ours | {
        "vocab_size": _need(config, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": _need(config, "num_hidden_layers"),
        **{name: config.get(name) or 0 for name in _OF_ATTENTION},
        "model_type": RECURRENT,
        "hidden_act": "silu",
        "rms_norm_eps": _number("rms_norm_eps", 1e-6 if eps is None else eps, 0, 1),
        # a state has no length: where nothing is claimed, nothing ends
        "max_position_embeddings": LIMITS["max_position_embeddings"]
        if positions is None
        else positions,
        "tie_word_embeddings": config.get("tie_word_embeddings") or False,
        "qkv_bias": config.get("attention_bias") or False,
        "out_bias": config.get("attention_bias") or False,
        "mlp_bias": config.get("mlp_bias") or False,
        "softmax_temperature": _temperature(config, None),
        "lower_bounds": config.get("use_lower_bound", True),
        "mlgru": config.get("mlgru", "code"),
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": _tokens(config.get("eos_token_id")),
    }


def _recurrent_config(a: Architecture) -> dict[str, Any]:
    """Return a MatMul-free model's config in the words of the published one; `mlgru` is ours."""
    same = (
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
        "bos_token_id",
    )
    config: dict[str, Any] = {name: getattr(a, name) for name in same}
    eos = a.eos_token_id
    config |= _HGRN_FIXED | {
        "architectures": [_HF_CLASS[a.model_type]],
        "attn_mode": "fused_recurrent",
        "num_heads": 1,
        "hidden_act": "swish",
        "use_lower_bound": a.lower_bounds,
        "eos_token_id": None if not eos else eos[0] if len(eos) == 1 else list(eos),
    }
    return config if a.mlgru == "code" else config | {"mlgru": a.mlgru}


def _tokens(eos: Any) -> tuple[Any, ...]:
    return () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Return (theta, scaling), from the old fields or from `rope_parameters`."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise OptionError(f"config: the rope parameters are {found!r:.80}; expected a table.")
    scaling = dict(found)
    if scaling.get("partial_rotary_factor") not in (None, 1):
        raise UnsupportedError("config: partial_rotary_factor must be 1.")
    theta = scaling.pop("rope_theta", None)
    theta = config.get("rope_theta") if theta is None else theta
    scaling["rope_type"] = scaling.pop("type", None) or scaling.get("rope_type") or "default"
    if theta is None:
        theta = 500000.0 if config.get("model_type") == "bitnet" else 10000.0
    return _number("rope_theta", theta, 1, 1e12), scaling


def _temperature(config: Mapping[str, Any], gemma3_head_dim: int | None) -> float:
    """Return what scores are divided by on top of sqrt(head_dim). Gemma 3 divides them by the root
    of a number of its own, which is head_dim in all but its largest model."""
    value = config.get("softmax_temperature")
    if value is None and gemma3_head_dim is not None:
        scalar = config.get("query_pre_attn_scalar", _GEMMA3["query_pre_attn_scalar"])
        _positive("head_dim", gemma3_head_dim)
        return math.sqrt(_number("query_pre_attn_scalar", scalar, 1e-3, 1e6) / gemma3_head_dim)
    return 1.0 if value is None else _number("softmax_temperature", value, 1e-3, 1e3)


def _rope_of_layers(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the config as `_rope` reads it, of the global or the local layers of Gemma 3."""
    both = config.get("rope_parameters")
    usual = {"rope_theta": _GEMMA3_THETAS[kind]}
    if isinstance(both, Mapping) and (GLOBAL in both or LOCAL in both):
        return usual | {"rope_parameters": both.get(kind)}
    if kind == GLOBAL:
        return usual | {k: v for k, v in config.items() if k.startswith("rope_") and v is not None}
    theta = config.get("rope_local_base_freq")
    return usual if theta is None else {"rope_theta": theta}


def _local_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return which layers of a Gemma 3 are local, how far they see, and their RoPE.

    Raises:
        UnsupportedError: the global layers do not stand at equal distances.
    """
    if config.get("use_bidirectional_attention"):
        raise UnsupportedError("config: use_bidirectional_attention is not supported.")
    layers = _need(config, "num_hidden_layers")
    _positive("num_hidden_layers", layers)
    types = config.get("layer_types")
    every = config.get("sliding_window_pattern")
    if every is None:
        first = types.index(GLOBAL) + 1 if isinstance(types, list) and GLOBAL in types else None
        every = first or (_GEMMA3["every"] if types is None else layers + 1)
    _positive("sliding_window_pattern", every)
    wanted = [LOCAL if (layer + 1) % every else GLOBAL for layer in range(min(layers, 1024))]
    if types is not None and types != wanted:
        raise UnsupportedError(
            f"config: layer_types is {types!r:.80}; supported is one {GLOBAL} after every "
            f"{every - 1} layers of {LOCAL}."
        )
    theta, scaling = _rope(_rope_of_layers(config, LOCAL))
    if scaling["rope_type"] != "default":
        raise UnsupportedError(
            f"config: the local layers' rope_type is {scaling['rope_type']!r:.80}; supported: "
            "default."
        )
    return {
        "sliding_window": config.get("sliding_window", _GEMMA3["sliding_window"]),
        "global_every": every,
        "local_rope_theta": theta,
    }


def _check_inner_norms(quantization: Any, eps: Any) -> None:
    """Norms inside linear layers take the model's epsilon; Hugging Face lets theirs differ."""
    if not isinstance(quantization, Mapping) or not quantization.get("use_rms_norm"):
        return
    inner = quantization.get("rms_norm_eps", 1e-6)
    if inner != eps:
        raise UnsupportedError(
            f"config: quantization_config.rms_norm_eps is {inner!r:.80} and rms_norm_eps "
            f"{eps!r:.80}; only equal ones are supported."
        )


def _need(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is None:
        raise OptionError(f"config: {name} is missing.")
    return config[name]


def _positive(name: str, value: Any) -> None:
    limit = LIMITS.get(name, _LARGEST)
    if type(value) is not int or not 0 < value <= limit:
        raise OptionError(
            f"config: {name} is {value!r:.80}; it must be a whole number from 1 to {limit}."
        )


def _whole(name: str, value: Any, low: int) -> None:
    if type(value) is not int or not low <= value <= _LARGEST:
        raise OptionError(f"config: {name} is {value!r:.80}; it must be a whole number from {low}.")


def _number(name: str, value: Any, low: float, high: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # nan is refused
        raise OptionError(
            f"config: {name} is {value!r:.80}; it must be a number from {low:g} to {high:g}."
        )
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"config: {name} is {value!r:.80}; it must be true or false.")
    return value


def _one_of(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise UnsupportedError(
            f"config: {name} is {value!r:.80}; supported: {', '.join(accepted)}."
        )
