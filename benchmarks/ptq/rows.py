"""The lines of the table: what is done to a model, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MODELS = {"smollm2": "SmolLM2-135M-Instruct", "gemma3-270m": "Gemma 3 270M"}
"""Catalog name to what people call it. Both come quantized: the reference is their dequantized
weights, and every method is told to take these as floats (`kept="force"`)."""
CALIBRATION = "wiki"
"""Its part that no measurement reads."""
WINDOWS, WINDOW = 64, 512
MORE_WINDOWS = 192
IMPORTANCE_WINDOWS = 16
"""For the importance of columns, which needs less text than a Gram matrix."""
TEXTS = ("wiki", "sotu")
TASKS = ("piqa", "openbookqa")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    """Also of its folder."""
    group: str
    """The table it stands in: a key of `GROUPS`."""
    words: str
    """What it is, for the page."""
    method: str = ""
    """As `ptq.quantize` takes it; "" leaves the model as it is."""
    scheme: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `ptq.Options` that are not at their defaults."""
    windows: int = WINDOWS
    """Of calibration; 0 is none."""
    models: tuple[str, ...] = tuple(MODELS)
    """On which it is measured."""
    blocks: tuple[str, ...] = ()
    """ggml's types in place of a scheme: the first that fits a layer's width."""
    bits: float | None = None
    """Mean bits of the layers, which the plan of `mixed` keeps to."""
    bits_of: str = ""
    """A row whose size mixed precision has to keep to, in place of `bits`."""
    torch: bool = False
    """Whether the file is measured in torch too, to hold the engine against."""

    @property
    def mixed(self) -> bool:
        """Whether the bits of each layer are chosen."""
        return self.bits is not None or bool(self.bits_of)


GROUPS = {
    "reference": "As they came",
    "weights": "Weights alone, by group of 64",
    "three": "Three bits, one thing changed at a time",
    "blocks": "Block formats of ggml",
    "low": "Weights, inputs and the cache in few bits",
    "ternary": "Ternary",
    "mixed": "Bits chosen for every layer",
}

_REFERENCE = (
    Row("float", "reference", "dequantized, in float32 torch"),
    Row("shipped", "reference", "the file as it came, in the engine"),
)

ONE = ("smollm2",)
"""For rows that change one thing more than the question needs: a model tells what it does."""
_PLAIN = {"clip": "none"}
"""Ranges of all weights, as the papers have them; by default they are cut for least error."""
_WEIGHTS = tuple(
    Row(
        f"{method.replace('+', '-')}-w{bits}",
        "weights",
        f"{words}, {bits} bits",
        method,
        f"w{bits}a16-g64",
        _PLAIN if method == "rtn" else {},
        windows=0 if method in ("rtn", "hqq") else WINDOWS,
        models=ONE if method == "hqq" and bits != 3 else tuple(MODELS),
        torch=(method, bits) == ("gptq", 3),
    )
    for method, words, widths in (
        ("rtn", "RTN, ranges of all weights", (8, 4, 3, 2)),
        ("gptq", "GPTQ", (8, 4, 3, 2)),
        ("awq+rtn", "AWQ, then RTN", (4, 3, 2)),
        ("hqq", "HQQ, no calibration", (4, 3, 2)),
    )
    for bits in widths
)

_W3 = Row("", "three", "", "gptq", "w3a16-g64", models=ONE)
_BEST = {"propagate": 0.5, "iterations": 3}
_THREE = (
    replace(_W3, name="rtn-w3-mse", words="RTN, ranges of least squared error", method="rtn"),
    replace(_W3, name="gptq-w3-plain", words="GPTQ, ranges of all weights", options=_PLAIN),
    replace(_W3, name="gptq-w3-in-order", words="GPTQ without act-order",
            options={"act_order": False}),
    replace(_W3, name="gptq-w3-moving", words="GPTQ, groups that move",
            options={"static_groups": False}),
    replace(_W3, name="gptq-w3-refined", words="GPTQ, then 3 rounds of exact scales and sweeps",
            options={"iterations": 3}),
    replace(_W3, name="gptq-w3-propagate", words="GPTQ that makes up for half of what was changed "
            "before", options={"propagate": 0.5}),
    replace(_W3, name="awq-gptq-w3", words="AWQ, then GPTQ", method="awq+gptq"),
    replace(_W3, name="quarot-gptq-w3", words="QuaRot, then GPTQ", method="quarot+gptq"),
    replace(_W3, name="gptq-w3-more", words=f"GPTQ, {MORE_WINDOWS} windows", windows=MORE_WINDOWS),
    replace(_W3, name="gptq-w3-best", words=f"GPTQ, half made up for, 3 rounds, {MORE_WINDOWS} "
            "windows", options=_BEST, windows=MORE_WINDOWS),
)  # fmt: skip

_FALLBACK = {
    **{"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"},
    "tq2_0": "q4_0",
}
"""What llama.cpp takes where a width is no multiple of 256 (llama-quant.cpp), but for the types
that we do not write: it has iq4_nl for q2_k and q3_k."""
_BLOCKS = (
    Row("q8_0", "blocks", "Q8_0", "kquants", blocks=("q8_0",), windows=IMPORTANCE_WINDOWS),
    *(
        Row(
            name,
            "blocks",
            name.upper(),
            "kquants",
            blocks=(name,),
            models=ONE,
            windows=IMPORTANCE_WINDOWS,
        )
        for name in ("q4_0", "q4_1")
    ),
    *(
        Row(
            name,
            "blocks",
            f"{name.upper()}; {other.upper()} where 256 does not divide a width",
            "kquants",
            windows=IMPORTANCE_WINDOWS,
            blocks=(name, other),
            torch=name == "q4_k",
        )
        for name, other in _FALLBACK.items()
    ),
)

_LOW_OF_BOTH = {(name, "w4a4") for name in ("rtn", "quarot", "spinquant")} | {("gptq", "w4a8")}
_LOW = tuple(
    Row(
        f"{name}-{short}",
        "low",
        f"{words}, {scheme.upper()}",
        method,
        scheme,
        models=tuple(MODELS) if (name, short) in _LOW_OF_BOTH else ONE,
        torch=kept,
        windows=0 if method == "rtn" else WINDOWS,
    )
    for scheme, short, arms in (
        (
            "w4a4kv4",
            "w4a4",
            (
                ("rtn", "RTN", "rtn", False),
                ("gptq", "GPTQ", "gptq", False),
                ("smoothquant", "SmoothQuant, then RTN", "smoothquant+rtn", False),
                ("quarot-rtn", "QuaRot, then RTN", "quarot+rtn", False),
                ("quarot", "QuaRot, then GPTQ", "quarot+gptq", True),
                ("spinquant", "SpinQuant, then GPTQ", "spinquant+gptq", True),
            ),
        ),
        (
            "w4a8",
            "w4a8",
            (
                ("rtn", "RTN", "rtn", False),
                ("smoothquant", "SmoothQuant, then RTN", "smoothquant+rtn", False),
                ("gptq", "GPTQ", "gptq", False),
            ),
        ),
    )
    for name, words, method, kept in arms
)

_TERNARY = (
    Row("ternary-absmean", "ternary", "absmean, the scale of b1.58", "rtn", "w1.58a16-g64"),
    Row("ternary", "ternary", "activation-aware, inside GPTQ", "ternary", "w1.58a16-g64",
        torch=True),
    Row("ternary-a8", "ternary", "activation-aware, inputs of 8 bits", "ternary", "w1.58a8-g64",
        models=ONE),
    Row("ternary-quarot", "ternary", "QuaRot, then activation-aware", "quarot+ternary",
        "w1.58a16-g64", models=ONE),
    Row("ternary-propagate", "ternary", "activation-aware, half made up for", "ternary",
        "w1.58a16-g64", {"propagate": 0.5}, models=ONE),
    Row("ternary-planes", "ternary", "two trit planes", "ternary", "w2x1.58a16-g64"),
)  # fmt: skip

_MIXED = (
    *(
        Row(f"mixed-{bits:g}", "mixed", f"{bits:g} bits in the mean, GPTQ", "gptq", bits=bits)
        for bits in (4.0, 3.5, 3.0, 2.5)
    ),
    *(
        Row(f"mixed-as-{name}", "mixed", f"the size of {name}", "gptq", bits_of=name)
        for name in ("gptq-w4", "gptq-w3", "gptq-w2")
    ),
)  # fmt: skip

ROWS = {
    row.name: row for row in (*_REFERENCE, *_WEIGHTS, *_THREE, *_BLOCKS, *_LOW, *_TERNARY, *_MIXED)
}
WORDS = ("w2a16-g64", "w3a16-g64", "w4a16-g64", "w5a16-g64", "w6a16-g64", "w8a16-g64")
"""What mixed precision may give a layer."""


@dataclass(frozen=True)
class Setup:
    """What is wanted; the page is made with the defaults."""

    models: tuple[str, ...] = tuple(MODELS)
    rows: tuple[str, ...] = tuple(ROWS)
    items: int | None = 500
    """Questions of each task, from the first; None asks all."""
    limit_chars: int | None = None
    """Of each text; None takes 40,000."""
    threads: int = 2
