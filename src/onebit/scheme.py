"""A scheme says, for every linear layer of a model, how its weight and its input are represented.

It is data, saved in `config.json` (key `onebit_scheme`) and in the GGUF metadata (`onebit.scheme`).
Training, export, the runtime and the verifier all read the same one.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from onebit.errors import OptionError, UnsupportedError

WEIGHTS = (
    "fp",
    "ternary",
    "ternary2",
    "binary",
    "int2",
    "int3",
    "int4",
    "int5",
    "int6",
    "int7",
    "int8",
)
WEIGHT_RULES = (
    "absmean",
    "absmedian",
    "least_squares",
    "absmax",
    "zero_point",
    "lsq",
    "seq",
)
ACTIVATIONS = (
    "fp",
    "int8_absmax",
    "int8_absmax_tensor",
    *(f"int{bits}_absmax" for bits in range(2, 8)),
    "int4_absmean",
    "int8_b1",
    "int8_b1_positive",
    "int8_top50",
    "fp4_e2m1",
)
STATIC_ACTIVATIONS = tuple(
    f"int{bits}_static{zero}" for zero in ("", "_zero") for bits in range(2, 9)
)
"""Rounded with one scale for all inputs, `<layer>.input_scale`, which calibration has found; and
with a zero-point, `<layer>.input_zero`."""
NORMS = ("none", "rms", "layer")
HADAMARDS = ("none", "input", "both")
ROLES = ("q", "k", "v", "qkv", "i", "f", "g", "o", "up", "gate", "down", "embed", "head")
KV_BITS = (32, 16, 8, 4, 3)
"""Bits of a key or value in the engine's cache."""
TRAINED_KV_BITS = (*KV_BITS, 2)
"""Bits of a key or value that a scheme may name; a model with 2 trains, and does not run."""
Q_BITS = (16, 8, 4, 3)
"""Bits of a query, after RoPE; 16 leaves it a float."""

_NAME = 200
"""Characters of a scheme's name, or of what it names."""

# the last name of a module -> its role
_ROLE_OF = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "i_proj": "i",
    "f_proj": "f",
    "g_proj": "g",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "embed_tokens": "embed",
    "lm_head": "head",
}


def _one_of(part: str, value: Any, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise OptionError(f"scheme: {part} is {value!r:.40}; accepted: {', '.join(accepted)}.")


@dataclass(frozen=True)
class LinearScheme:
    """How one linear layer holds its weight and takes its input."""

    weight: str = "fp"
    """"fp" (not quantized), "ternary", "ternary2" (two planes of trits, each with its scales: their
    values add up), "binary", or "int2" ... "int8"."""
    weight_rule: str = "absmean"
    """Where the scale comes from: "absmean" (BitNet), "absmedian", "least_squares", "absmax",
    "zero_point" (asymmetric); or a learned parameter `step`: "lsq" (integers), "seq" (ternary)."""
    weight_scale: str = "tensor"
    """What shares a scale: "tensor", "row", or "group:G" for G columns of a row."""
    activation: str = "fp"
    """One of `ACTIVATIONS` or `STATIC_ACTIVATIONS`, or "dynamic:R": 8 bits for tokens whose largest
    magnitude is above R times their mean magnitude, else 4."""
    norm: str = "none"
    """Inside the layer, before its input is quantized: "none", "rms" (RMSNorm with weights,
    `rms_norm`), or "layer" (LayerNorm without any, as in BitNet b1)."""
    hadamard: str = "none"
    """"input": the input is turned by an orthonormal Hadamard matrix, after the norm (BitNet v2);
    "both": the weight too, before it is rounded, so that the layer computes what it did."""
    signs: int = 0
    """Of the Hadamard matrix's columns: 0 for none, else the seed of random ones."""
    split: str = "none"
    """BitNet b1's group quantization and normalization: "in:G" or "out:G" cuts the layer's columns
    or rows into G parts, each with its own alpha and beta, and by columns also its own norm and
    activation scale. So parts can live in different processes."""

    def __post_init__(self) -> None:
        _one_of("weight", self.weight, WEIGHTS)
        _one_of("weight_rule", self.weight_rule, WEIGHT_RULES)
        if not (isinstance(self.activation, str) and self.activation.startswith("dynamic:")):
            if self.activation not in STATIC_ACTIVATIONS:
                spelled = ('"intB_static"', '"intB_static_zero"', '"dynamic:R"')
                _one_of("activation", self.activation, (*ACTIVATIONS, *spelled))
        elif not self.outlier_ratio > 0:
            raise OptionError(
                f"scheme: activation is {self.activation!r:.80}; after dynamic: comes a number "
                "above 0."
            )
        _one_of("norm", self.norm, NORMS)
        _one_of("hadamard", self.hadamard, HADAMARDS)
        if self.weight_scale not in ("tensor", "row") and not (
            isinstance(self.weight_scale, str)
            and re.fullmatch(r"group:[1-9][0-9]{0,5}", self.weight_scale)
        ):
            raise OptionError(
                f"scheme: weight_scale is {self.weight_scale!r:.80}; "
                'accepted: "tensor", "row", "group:G" with G columns.'
            )
        if type(self.signs) is not int or not 0 <= self.signs < 1 << 32:
            raise OptionError(
                f"scheme: signs is {self.signs!r:.80}; accepted: 0, or a seed below 2^32."
            )
        if not (
            isinstance(self.split, str)
            and re.fullmatch(r"none|(in|out):([2-9]|[1-9][0-9]{1,2})", self.split)
        ):
            raise OptionError(
                f'scheme: split is {self.split!r:.80}; accepted: "none", "in:G", "out:G" with '
                "2 to 999 parts."
            )
        if self.parts > 1 and self.weight_scale != "tensor":
            raise OptionError(
                f"scheme: split {self.split!r} gives each part one scale, and weight_scale is "
                f"{self.weight_scale!r}. Leave one of them out."
            )
        if self.planes > 1 and (self.parts > 1 or self.weight_rule != "least_squares"):
            raise OptionError(
                'scheme: weight "ternary2" has weight_rule "least_squares" and no split; they are '
                f"{self.weight_rule!r} and {self.split!r}."
            )
        if self.parts > 1 and self.static:
            raise OptionError(
                f"scheme: split {self.split!r} gives each part of an input its own scale, and "
                f"activation {self.activation!r} has one. Leave one of them out."
            )
        if self.weight == "fp" and self.hadamard == "both":
            raise OptionError(
                'scheme: hadamard "both" turns weights before they are rounded, and weight is '
                '"fp". Set hadamard to "input" or "none", or weight to what rounds.'
            )
        if self.signs and self.hadamard == "none":
            raise OptionError(
                'scheme: signs are those of a Hadamard matrix; set hadamard to "input" or "both".'
            )

    @property
    def group(self) -> int | None:
        """Columns that share a scale, when the scale is by group; else None."""
        kind, _, size = self.weight_scale.partition(":")
        return int(size) if kind == "group" else None

    @property
    def parts(self) -> int:
        """Parts that the layer is cut into; 1 without `split`."""
        return int(self.split.partition(":")[2] or 1)

    @property
    def static(self) -> bool:
        """Whether the input's scale is a number of the layer, `input_scale`."""
        return self.activation in STATIC_ACTIVATIONS

    @property
    def static_zero(self) -> bool:
        """Whether it has a zero-point beside it, `input_zero`."""
        return self.static and self.activation.endswith("_zero")

    @property
    def planes(self) -> int:
        """Matrices of codes side by side, which the same input is multiplied with; their products
        add up."""
        return 2 if self.weight == "ternary2" else 1

    @property
    def learned(self) -> bool:
        """Whether the scale is a parameter, `step`."""
        return self.weight_rule in ("lsq", "seq") and self.weight != "fp"

    @property
    def outlier_ratio(self) -> float:
        """R of an activation "dynamic:R"; nan where that is no number, or for other rules."""
        text = self.activation.partition("dynamic:")[2]
        return float(text) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) else float("nan")


FP = LinearScheme()


@dataclass(frozen=True)
class Scheme:
    """A name, and a `LinearScheme` for each role or for layers whose name matches a glob.

    `layers` maps a role ("qkv", "down", ...), a glob over module names
    ("model.layers.0.*", "*.down_proj") or "body" (every linear but embed and head) to its scheme.
    A glob wins over a role, "q", "k" and "v" over "qkv", a role over "body", and what nothing names
    is "fp".
    """

    name: str
    layers: Mapping[str, LinearScheme] = field(default_factory=dict)
    kv_bits: int = 16
    """Bits of keys and values after RoPE, one of `TRAINED_KV_BITS`; the first position is kept."""
    q_bits: int = 16
    """Bits of queries after RoPE, one of `Q_BITS`."""

    def __post_init__(self) -> None:
        for what in (self.name, *self.layers):  # lines of text name them
            if not isinstance(what, str) or len(what) > _NAME or not what.isprintable():
                raise OptionError(
                    f"scheme: {what!r:.80} is no name; accepted: up to {_NAME} characters that "
                    "print."
                )
        for part, bits, accepted in (
            ("kv_bits", self.kv_bits, TRAINED_KV_BITS),
            ("q_bits", self.q_bits, Q_BITS),
        ):
            if type(bits) is not int or bits not in accepted:
                words = ", ".join(map(str, accepted))
                raise OptionError(f"scheme: {part} is {bits!r:.80}; accepted: {words}.")

    def linear(self, module_name: str) -> LinearScheme:
        """Return the scheme of a module, for instance of "model.layers.3.mlp.up_proj"."""
        for pattern, linear in self.layers.items():
            if pattern not in ROLES and pattern != "body" and fnmatchcase(module_name, pattern):
                return linear
        role = role_of(module_name)
        for name in (role, "qkv") if role in ("q", "k", "v") else (role,):
            if name in self.layers:
                return self.layers[name]
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
        bits = {"kv_bits": self.kv_bits, "q_bits": self.q_bits}
        return {"name": self.name, "layers": layers, **bits}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Scheme":
        """Read what `to_dict` wrote, from a file that may be a stranger's.

        Raises:
            OptionError: a part is missing, unknown or of the wrong type.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise OptionError("scheme: expected a table with a name and layers.")
        unknown = set(data) - {"name", "layers", "kv_bits", "q_bits"}
        layers = data.get("layers", {})
        if unknown or not isinstance(layers, Mapping):
            raise OptionError(
                f"scheme: unknown part {sorted(unknown) or 'layers'!s:.80}; "
                "accepted: name, layers (a table), kv_bits, q_bits."
            )
        return cls(
            data["name"],
            {name: _linear(name, linear) for name, linear in layers.items()},
            data.get("kv_bits", 16),
            data.get("q_bits", 16),
        )


def role_of(module_name: str) -> str:
    """Return the role of a module, or "" for a name that is no linear layer we know."""
    return _ROLE_OF.get(module_name.rpartition(".")[2], "")


def find(name: str) -> Scheme:
    """Return the scheme called `name`: one of `SCHEMES`, or what the name spells.

    "w3a16-g64": weights of 3 bits, inputs of 16, a scale per 64 columns. In full
    `w{1|1.58|2x1.58|2..8}a{16|2..8}[s|sz][kv{8|4|3}][-g{G}|-row|-tensor][-sym]`: weights of 2 to 8
    bits have a zero-point, or none with -sym; 1.58 are ternary, 2x1.58 two planes of that, 1 is
    binary; a scale is per row unless it says otherwise. Inputs of 16 bits stay floats, fewer are
    rounded anew for each token, or with one scale for all of them ("a8s"; "a8sz" with a
    zero-point). kv are the bits of keys and values.

    Raises:
        OptionError: it is neither.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    if (found := _SPELLED.fullmatch(name)) is not None:
        return _spelled(name, found)
    raise OptionError(
        f"{name!r:.80} is not a scheme. Known: {', '.join(SCHEMES)}, and names like w3a16-g64, "
        "w4a8-row-sym, w4a4kv4, w1.58a8-g64."
    )


_SPELLED = re.compile(
    r"w(?P<w>(2x)?1\.58|[1-8])a(?P<a>16|[2-8])(?P<static>(sz?)?)(kv(?P<kv>[843]))?"
    r"(-(?P<scale>g[1-9][0-9]{0,5}|row|tensor))?(?P<sym>-sym)?"
)


def _spelled(name: str, found: re.Match[str]) -> Scheme:
    """Return the scheme that a name spells."""
    bits, scale = found["w"], found["scale"] or "row"
    if bits == "2x1.58":
        weight, rule = "ternary2", "least_squares"
    elif bits in ("1", "1.58"):
        weight, rule = {"1": "binary", "1.58": "ternary"}[bits], "absmean"
    else:
        weight, rule = f"int{bits}", "absmax" if found["sym"] else "zero_point"
    rounding = {"": "absmax", "s": "static", "sz": "static_zero"}[found["static"]]
    body = LinearScheme(
        weight,
        rule,
        f"group:{scale[1:]}" if scale[0] == "g" else scale,
        "fp" if found["a"] == "16" and not found["static"] else f"int{found['a']}_{rounding}",
    )
    return Scheme(name, {"body": body}, kv_bits=int(found["kv"] or 16))


def of_config(config: Mapping[str, Any]) -> Scheme:
    """Return the scheme of a `config.json`: ours, or the one its quantization_config implies.

    A Hugging Face `quant_method: bitnet` is b1.58 on every linear that it does not exempt. A
    published MatMul-free model rounds by its code, and its config says nothing of it.
    """
    if "onebit_scheme" in config:
        return Scheme.from_dict(config["onebit_scheme"])
    hf = config.get("quantization_config") or {}
    if not isinstance(hf, Mapping) or hf.get("quant_method") not in (None, "bitnet", "gguf"):
        raise OptionError(
            f"quantization_config: {hf!r:.80} is not one we read; accepted: quant_method bitnet."
        )
    if config.get("model_type") == "hgrn_bit" and not hf:
        return _matmulfree(config)
    if hf.get("quant_method") != "bitnet":
        return SCHEMES["fp"]
    inner = hf.get("use_rms_norm") or False
    if not isinstance(inner, bool):
        raise OptionError(f"quantization_config: use_rms_norm is {inner!r:.80}; true or false.")
    body = LinearScheme("ternary", activation="int8_absmax", norm="rms" if inner else "none")
    exempt = {glob: FP for name in _exempt(hf) for glob in (f"*{name}", f"{name}.*")}
    return Scheme("bitnet-b1.58", {**exempt, "body": body})


def _matmulfree(config: Mapping[str, Any]) -> Scheme:
    """Return the scheme of a published MatMul-free model. Norms inside its linear layers have an
    epsilon of their own, 1e-6, and here they take the model's.

    That is the fused function's; the module of the unfused path says 1e-8, which for inputs of mean
    square m is another output by 5e-7 / m of it (docs/methods/matmulfree.md).
    """
    if config.get("rms_norm_eps") not in (None, 1e-6):
        raise UnsupportedError(
            f"config: rms_norm_eps is {config['rms_norm_eps']!r:.80}; supported in a published "
            "hgrn_bit model is 1e-06, that of the norms inside its linear layers."
        )
    return SCHEMES["matmulfree"]


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
            f"scheme: layers.{where!r:.80} must be a table of {', '.join(accepted)}; "
            f"got {data!r:.80}."
        )
    norm = data.get("norm", "none")
    if isinstance(norm, bool):  # as files of version 0.1 have it
        norm = "rms" if norm else "none"
    return LinearScheme(**(dict(data) | {"norm": norm}))


def _ternary(activation: str, **parts: Any) -> LinearScheme:
    return LinearScheme("ternary", activation=activation, **parts)


# What onebit can train and run, in one screen.
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp"),
        # https://arxiv.org/abs/2310.11453
        Scheme(
            "bitnet-b1",
            {
                "body": LinearScheme("binary", activation="int8_b1", norm="layer"),
                "gate": LinearScheme("binary", activation="int8_b1_positive", norm="layer"),
            },
        ),
        # https://arxiv.org/abs/2402.17764, norms outside the layers
        Scheme("bitnet-b1.58", {"body": _ternary("int8_absmax")}),
        # the official training tips: RMSNorm inside every BitLinear
        Scheme("bitnet-b1.58-norm", {"body": _ternary("int8_absmax", norm="rms")}),
        # https://arxiv.org/abs/2504.12285 (2B4T): norms inside the two output projections
        Scheme(
            "bitnet-b1.58-sub",
            {
                "body": _ternary("int8_absmax"),
                "o": _ternary("int8_absmax", norm="rms"),
                "down": _ternary("int8_absmax", norm="rms"),
            },
        ),
        # https://arxiv.org/abs/2411.04965; its first stage is bitnet-b1.58-sub
        Scheme(
            "bitnet-a4.8",
            {
                "body": _ternary("int4_absmean"),
                "o": _ternary("int8_top50", norm="rms"),
                "down": _ternary("int8_absmax", norm="rms"),
            },
        ),
        Scheme(
            "bitnet-a4.8-fp4",
            {
                "body": _ternary("fp4_e2m1"),
                "o": _ternary("fp4_e2m1", norm="rms"),
                "down": _ternary("int8_absmax", norm="rms"),
            },
        ),
        # https://arxiv.org/abs/2504.18415, first and second stage
        *(
            Scheme(
                f"bitnet-v2-{name}",
                {
                    "body": _ternary(rule),
                    "o": _ternary(rule, norm="rms", hadamard="input"),
                    "down": _ternary(rule, norm="rms", hadamard="input"),
                },
            )
            for name, rule in (("a8", "int8_absmax"), ("a4", "int4_absmean"))
        ),
        # 1-bit attention: only the four projections
        Scheme(
            "ternary-attention",
            {"qkv": _ternary("int8_absmax"), "o": _ternary("int8_absmax", norm="rms")},
        ),
        # https://arxiv.org/abs/2406.02528 (MatMul-free): a norm inside every layer, the head too
        Scheme(
            "matmulfree",
            {
                "body": _ternary("int8_absmax", norm="rms"),
                "head": _ternary("int8_absmax", norm="rms"),
            },
        ),
        # no activation quantization: what a plain ternary TQ1_0 / TQ2_0 file promises
        Scheme("ternary-weights", {"body": LinearScheme("ternary")}),
        # integer quantization-aware training with a learned step (LSQ)
        *(
            Scheme(
                f"int{bits}-lsq",
                {
                    "body": LinearScheme(
                        f"int{bits}", "lsq", weight_scale="row", activation="int8_absmax"
                    )
                },
            )
            for bits in (2, 3, 4, 8)
        ),
    )
}
