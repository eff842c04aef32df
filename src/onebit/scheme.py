"""A scheme says, for every linear layer of a model, how its weight and its input are represented.

It is data, saved in `config.json` (key `onebit_scheme`) and in the GGUF metadata (`onebit.scheme`).
Training, export, the runtime and the verifier all read the same one.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from onebit.errors import OptionError

WEIGHTS = ("fp", "ternary", "binary", "int2", "int3", "int4", "int5", "int6", "int7", "int8")
WEIGHT_RULES = ("absmean", "absmedian", "least_squares", "absmax")
ACTIVATIONS = ("fp", "int8_absmax", "int8_absmax_tensor", "int4_absmean")
ROLES = ("qkv", "o", "up", "gate", "down", "embed", "head")
KV_BITS = (32, 16, 8, 4, 3)
"""Bits of a cached key or value."""

# the last name of a module -> its role
_ROLE_OF = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "embed_tokens": "embed",
    "lm_head": "head",
}


def _one_of(part: str, value: Any, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise OptionError(f"scheme: {part} is {value!r:.80}; accepted: {', '.join(accepted)}.")


@dataclass(frozen=True)
class LinearScheme:
    """How one linear layer holds its weight and takes its input."""

    weight: str = "fp"
    """"fp" (not quantized), "ternary", "binary", or "int2" ... "int8" (symmetric)."""
    weight_rule: str = "absmean"
    """Where the scale comes from: "absmean" (BitNet), "absmedian", "least_squares", "absmax"."""
    weight_scale: str = "tensor"
    """What shares a scale: "tensor", "row", or "group:G" for G columns of a row."""
    activation: str = "fp"
    """"fp", "int8_absmax" (per token), "int8_absmax_tensor", or "int4_absmean" (per token)."""
    norm: bool = False
    """RMSNorm inside the layer, before its input is quantized."""

    def __post_init__(self) -> None:
        _one_of("weight", self.weight, WEIGHTS)
        _one_of("weight_rule", self.weight_rule, WEIGHT_RULES)
        _one_of("activation", self.activation, ACTIVATIONS)
        if self.weight_scale not in ("tensor", "row") and not (
            isinstance(self.weight_scale, str)
            and re.fullmatch(r"group:[1-9][0-9]{0,5}", self.weight_scale)
        ):
            raise OptionError(
                f"scheme: weight_scale is {self.weight_scale!r:.80}; "
                'accepted: "tensor", "row", "group:G" with G columns.'
            )
        if not isinstance(self.norm, bool):
            raise OptionError(f"scheme: norm is {self.norm!r:.80}; accepted: true, false.")

    @property
    def group(self) -> int | None:
        """Columns that share a scale, when the scale is by group; else None."""
        kind, _, size = self.weight_scale.partition(":")
        return int(size) if kind == "group" else None


FP = LinearScheme()


@dataclass(frozen=True)
class Scheme:
    """A name, and a `LinearScheme` for each role or for layers whose name matches a glob.

    `layers` maps a role ("qkv", "down", ...), a glob over module names
    ("model.layers.0.*", "*.down_proj") or "body" (every linear but embed and head) to its scheme.
    A glob wins over a role, a role over "body", and what nothing names is "fp".
    """

    name: str
    layers: Mapping[str, LinearScheme] = field(default_factory=dict)
    kv_bits: int = 16

    def linear(self, module_name: str) -> LinearScheme:
        """Return the scheme of a module, for instance of "model.layers.3.mlp.up_proj"."""
        for pattern, linear in self.layers.items():
            if pattern not in ROLES and pattern != "body" and fnmatchcase(module_name, pattern):
                return linear
        role = role_of(module_name)
        if role in self.layers:
            return self.layers[role]
        if role in ("embed", "head"):
            return FP
        return self.layers.get("body", FP)

    @property
    def quantized(self) -> bool:
        """Whether any layer's weight is quantized."""
        return any(linear.weight != "fp" for linear in self.layers.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `from_dict` reads it back to an equal value."""
        layers = {name: asdict(linear) for name, linear in self.layers.items()}
        return {"name": self.name, "layers": layers, "kv_bits": self.kv_bits}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Scheme":
        """Read what `to_dict` wrote, from a file that may be a stranger's.

        Raises:
            OptionError: a part is missing, unknown or of the wrong type.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise OptionError("scheme: expected a table with a name and layers.")
        unknown = set(data) - {"name", "layers", "kv_bits"}
        layers = data.get("layers", {})
        if unknown or not isinstance(layers, Mapping):
            raise OptionError(
                f"scheme: unknown part {sorted(unknown) or 'layers'}; "
                "accepted: name, layers (a table), kv_bits."
            )
        kv_bits = data.get("kv_bits", 16)
        if type(kv_bits) is not int or kv_bits not in KV_BITS:
            accepted = ", ".join(map(str, KV_BITS))
            raise OptionError(f"scheme: kv_bits is {kv_bits!r:.80}; accepted: {accepted}.")
        return cls(data["name"], {k: _linear(k, v) for k, v in layers.items()}, kv_bits)


def role_of(module_name: str) -> str:
    """Return the role of a module, or "" for a name that is no linear layer we know."""
    return _ROLE_OF.get(module_name.rpartition(".")[2], "")


def find(name: str) -> Scheme:
    """Return the scheme called `name`.

    Raises:
        OptionError: there is none.
    """
    if name not in SCHEMES:
        raise OptionError(f"{name!r} is not a scheme. Known: {', '.join(SCHEMES)}.")
    return SCHEMES[name]


def of_config(config: Mapping[str, Any]) -> Scheme:
    """Return the scheme of a `config.json`: ours, or the one its quantization_config implies.

    A Hugging Face `quant_method: bitnet` is b1.58 on every linear that it does not exempt.
    """
    if "onebit_scheme" in config:
        return Scheme.from_dict(config["onebit_scheme"])
    hf = config.get("quantization_config") or {}
    if not isinstance(hf, Mapping) or hf.get("quant_method") not in (None, "bitnet", "gguf"):
        raise OptionError(
            f"quantization_config: {hf!r:.80} is not one we read; accepted: quant_method bitnet."
        )
    if hf.get("quant_method") != "bitnet":
        return SCHEMES["fp"]
    body = LinearScheme("ternary", activation="int8_absmax", norm=hf.get("use_rms_norm") or False)
    exempt = {glob: FP for name in _exempt(hf) for glob in (f"*{name}", f"{name}.*")}
    return Scheme("bitnet-b1.58", {**exempt, "body": body})


def _exempt(hf: Mapping[str, Any]) -> list[str]:
    """Return the modules that stay float, by the end of their name or by a module around them."""
    names = hf.get("modules_to_not_convert") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise OptionError(
            f"quantization_config: modules_to_not_convert is {names!r:.80}; expected a list of "
            "names of modules."
        )
    return [name for name in names if name != "lm_head"]


def _linear(where: str, data: Any) -> LinearScheme:
    accepted = LinearScheme.__dataclass_fields__
    if not isinstance(data, Mapping) or set(data) - set(accepted):
        raise OptionError(
            f"scheme: layers.{where} must be a table of {', '.join(accepted)}; got {data!r:.80}."
        )
    return LinearScheme(**data)


_B158 = LinearScheme("ternary", activation="int8_absmax")

# What onebit can train and run, in one screen. Source: BitNet b1.58, https://arxiv.org/abs/2402.17764
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp"),
        Scheme("bitnet-b1.58", {"body": _B158}),
        # the official training tips: RMSNorm inside every BitLinear
        Scheme(
            "bitnet-b1.58-norm",
            {"body": LinearScheme("ternary", activation="int8_absmax", norm=True)},
        ),
        # no activation quantization: what a plain ternary TQ1_0 / TQ2_0 file promises
        Scheme("ternary-weights", {"body": LinearScheme("ternary")}),
    )
}
