"""What a method of quantizing after training is: one function, of one of three kinds.

    rotation   Source -> Source           the float model in another basis (quarot, spinquant)
    transform  changes a float block      so that it rounds better (smoothquant, awq)
    rounding   floats -> Codes            one linear layer (rtn, gptq, kquants, ternary, hqq)

"quarot+awq+gptq" is one of each, in this order. A method's file has its function and, under it,
`METHOD`, the line that the table in `ptq/__init__.py` shows.

Shape letters: N rows, K columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from onebit.models.layer import Layer
from onebit.ptq.calibration import Calibration
from onebit.ptq.options import Options
from onebit.ptq.source import Source
from onebit.ptq.stats import Stats
from onebit.quant import Codes
from onebit.scheme import LinearScheme, Scheme

Kind: TypeAlias = Literal["rotation", "transform", "rounding"]


class Stage(NamedTuple):
    """Linears of a layer that share their input."""

    name: str
    """"qkv", "o", "gate_up" or "down"."""
    linears: tuple[str, ...]
    """Their names in the layer: "self_attn.q_proj"."""
    before: str
    """What gives them their input, name in the layer: a norm ("input_layernorm"), or a linear
    whose rows scale it ("self_attn.v_proj", "mlp.up_proj")."""


@dataclass
class Block:
    """A decoder layer in float, and what is to become of its linears."""

    index: int
    name: str
    """"model.layers.3"."""
    layer: Layer
    """With float32 weights, its own to change."""
    targets: Mapping[str, LinearScheme]
    """Name of a linear in the layer -> its scheme; FP where it stays float or goes into blocks."""

    def linear(self, name: str) -> nn.Linear:
        """Return a linear by its name in the layer."""
        found = self.layer.get_submodule(name)
        assert isinstance(found, nn.Linear)
        return found


Rounding: TypeAlias = Callable[[Tensor, LinearScheme, Stats | None, Options], Codes]
"""(w_NK, scheme, stats, options) -> Codes of the scheme's grid."""
Transform: TypeAlias = Callable[[Block, Stage, Stats, Options], None]
"""(block, stage, stats of the stage's inputs in the float block, options); changes block.layer so
that its float function stays. Called for every stage before any of them is rounded."""


class Aside(NamedTuple):
    """For a rotation that takes long: where it may leave its state, and whom it tells."""

    folder: Path | None = None
    """Of the run: what a killed one left there is of the same model, options and text."""
    tell: Callable[[int, int], None] = lambda done, steps: None


Rotation: TypeAlias = Callable[
    [Source, Scheme, Calibration | None, Options, Aside], tuple[Source, Scheme]
]
"""(source, scheme of the result, calibration, options, aside) -> (rotated source, scheme), the
scheme with what is turned while the model runs."""


@dataclass(frozen=True)
class Method:
    """A method, as the driver needs to know it."""

    kind: Kind
    run: Rounding | Transform | Rotation
    options: frozenset[str] = frozenset()
    """Names of the fields of `Options` that it takes."""
    calibrates: bool = False
    """Whether it needs calibration text."""
    gram: bool = False
    """Whether it needs the Gram matrix of the inputs."""
    rounds_with: str = ""
    """For a rotation or transform that is named alone: the rounding that follows it."""
