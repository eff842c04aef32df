"""Calibration windows on their way through a block, and the statistics of what enters its linears.

What passes between stages is kept, so that each linear computes each token once.

Shape letters: W windows, T tokens of a window, C model width, K in features of a linear.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from onebit import quant
from onebit.models import stored_weight
from onebit.nn import Rotation, inputs
from onebit.ptq import memory, static
from onebit.ptq.method import Block, Stage
from onebit.ptq.rows import Rows, scratch
from onebit.ptq.stages import DOWN, OUT
from onebit.ptq.stats import Recorder, Stats
from onebit.quant.activation import Static
from onebit.scheme import LinearScheme

TOKENS = 2048
"""That pass a layer at a time, in whole windows."""


class Flow:
    """Calibration windows on their way through a block, stage by stage."""

    def __init__(
        self,
        block: Block,
        rotation: Rotation,
        states: Rows,
        folder: Path | None,
        prefix: str = "",
    ) -> None:
        self.layer, self.rotation, self.states = block.layer, rotation, states
        self.name = block.name
        W, T, C = states.shape
        self._step = max(1, TOKENS // T)
        width_o = block.linear(OUT).in_features
        self._attended = scratch((W, T, width_o), folder, f"{prefix}attended")
        self._middle = scratch((W, T, C), folder, f"{prefix}middle")
        self._hidden = scratch((W, T, block.linear(DOWN).in_features), folder, f"{prefix}hidden")

    @torch.no_grad()
    def stats(
        self,
        stage: Stage,
        schemes: Mapping[str, LinearScheme],
        beside: "Flow | None" = None,
        input_clip: str = "none",
    ) -> dict[str, Stats]:
        """Return the statistics of each linear's input, through the layer as it stands by now.

        Stages must be asked for in their order. Linears of a stage that take their input alike
        share their statistics. `beside` is the float block's flow, if that goes along. The range of
        static activations is found first, by `input_clip`.
        """
        self._advance(stage.name)
        if beside is not None:
            beside._advance(stage.name)
        K = cast(nn.Linear, self.layer.get_submodule(stage.linears[0])).in_features
        alike: dict[tuple[object, ...], LinearScheme] = {}
        for name in stage.linears:
            alike.setdefault(_taking(schemes[name]), schemes[name])
        W, T, _ = self.states.shape
        fixed = {
            key: static.factors(self._inputs(stage.name), scheme, input_clip)
            for key, scheme in alike.items()
        }
        drift = beside is not None
        recorders = {key: Recorder(K, W * T, gram=True, drift=drift) for key in alike}
        for first, last in self._parts():
            x_WTK = self._input(stage.name, first, last)
            float_WTK = None if beside is None else beside._input(stage.name, first, last)
            for key, scheme in alike.items():
                turned = None if float_WTK is None else inputs.turned(float_WTK, None, scheme)
                recorders[key].add(entering(x_WTK, scheme, fixed[key]), turned)
        found = {}
        for key, recorder in recorders.items():
            with stored_weight.named(f"{self.name}: the {stage.name} inputs"):
                found[key] = replace(recorder.stats(), static=fixed[key])
        memory.give_back()  # what comes next needs the most
        return {name: found[_taking(schemes[name])] for name in stage.linears}

    @torch.no_grad()
    def finish(self, after: Rows) -> None:
        """Write what the block gives."""
        for first, last in self._parts():
            y_WTC = self.layer.mlp.down_proj(self._hidden.read(first, last))
            after.write(first, self.layer.after_mlp(self._middle.read(first, last), y_WTC))

    def _parts(self) -> list[tuple[int, int]]:
        W = self.states.shape[0]
        return [(first, min(first + self._step, W)) for first in range(0, W, self._step)]

    def _inputs(self, stage: str) -> Iterator[Tensor]:
        """Yield what enters a stage, some windows at a time."""
        return (self._input(stage, first, last) for first, last in self._parts())

    def _input(self, stage: str, first: int, last: int) -> Tensor:
        """Return what enters a stage."""
        if stage == "qkv":
            return self.layer.attention_input(self.states.read(first, last))
        if stage == "o":
            return self._attended.read(first, last)
        if stage == "gate_up":
            return self.layer.mlp_input(self._middle.read(first, last))
        return self._hidden.read(first, last)

    def _advance(self, stage: str) -> None:
        """Compute what a stage is given, from what the stage before it was."""
        attention, mlp = self.layer.self_attn, self.layer.mlp
        for first, last in self._parts():
            if stage == "o":
                x_WTC = self._input("qkv", first, last)
                q, k, v = attention.q_proj(x_WTC), attention.k_proj(x_WTC), attention.v_proj(x_WTC)
                self._attended.write(first, attention.mixed(q, k, v, self.rotation))
            elif stage == "gate_up":
                y_WTC = attention.o_proj(self._attended.read(first, last))
                x_WTC = self.states.read(first, last)
                self._middle.write(first, self.layer.after_attention(x_WTC, y_WTC))
            elif stage == "down":
                x_WTC = self._input("gate_up", first, last)
                self._hidden.write(first, mlp.mixed(mlp.gate_proj(x_WTC), mlp.up_proj(x_WTC)))


def entering(x_TK: Tensor, scheme: LinearScheme, factors: Static | None = None) -> Tensor:
    """Return what the product of a linear is given: turned and rounded as the scheme says.

    `factors` are those of static activations.
    """
    x_TK = inputs.turned(x_TK, None, scheme)
    if scheme.activation == "fp":
        return x_TK
    return quant.activation.dequantize(inputs.rounded(x_TK, scheme, False, factors))


def _taking(scheme: LinearScheme) -> tuple[object, ...]:
    """Return all that says how a linear takes its input."""
    return scheme.activation, scheme.hadamard, scheme.signs, scheme.split
