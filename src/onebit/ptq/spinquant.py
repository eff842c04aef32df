"""SpinQuant: rotations that are learned, from random Hadamard ones on.

The stream's Q and each layer's R for values (`rotate`) are moved along the orthogonal matrices
until the *quantized* network predicts the calibration text best. What it computes in float stays
the same at every step, so nothing can be lost but what rounding loses; what is left to turn while
the model runs is as in `quarot`.

Inputs, keys and values are rounded while learning and weights are not, if the scheme rounds inputs
(the paper's way: GPTQ makes up for the weights afterwards); else weights are rounded, to nearest.
Gradients pass straight through.

Sources: Liu et al., SpinQuant, section 3.2, https://arxiv.org/abs/2405.16406; Li, Li and Todorovic,
Cayley SGD, https://arxiv.org/abs/2002.01113

Shape letters: W windows, T tokens, n columns of a rotation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from onebit.errors import OptionError
from onebit.io import safetensors
from onebit.ptq.calibration import Calibration
from onebit.ptq.method import Aside, Method
from onebit.ptq.options import Options
from onebit.ptq.quarot import online, random_turns
from onebit.ptq.rotate import Rotated, Turns
from onebit.ptq.source import Source
from onebit.ptq.turned_model import TurnedModel
from onebit.scheme import Scheme

ITERATIONS = 100
LEARNING_RATE = 1.5
"""At the first step; it falls to 0 in a line."""
WINDOWS = 1
"""Calibration windows in a step."""
SAVE_EVERY = 10
"""Steps."""

Progress = Callable[[int, float], None]


def spinquant(
    source: Source,
    scheme: Scheme,
    calibration: Calibration | None,
    options: Options,
    aside: Aside = Aside(),  # noqa: B008
) -> tuple[Source, Scheme]:
    """Return the rotated model, and the scheme with the turns that are left to be done online.

    Args:
        source: the float model; all of it is held in memory while learning.
        scheme: of the result: what is rounded while learning.
        calibration: windows of text.
        options: `seed` of the first rotations and of the windows' order, `iterations`,
            `learning_rate`.
        aside: told of every step; its folder takes what is learned so far, and gives it back.

    Raises:
        OptionError: there is no text, or nothing that is rounded.
    """
    if calibration is None:
        raise OptionError("spinquant: learns from text. Name a calibration text.")
    tokens_WT = torch.from_numpy(calibration.tokens_WT)
    steps = options.iterations or ITERATIONS
    place = None if aside.folder is None else aside.folder / "turns.safetensors"
    turns = learn(
        source,
        scheme,
        tokens_WT,
        options,
        place=place,
        progress=lambda step, loss: aside.tell(step + 1, steps),
    )
    return Rotated(source, turns), online(scheme, source.architecture, options.seed)


def learn(
    source: Source,
    scheme: Scheme,
    tokens_WT: Tensor,
    options: Options,
    start: Turns | None = None,
    windows: int = WINDOWS,
    place: Path | None = None,
    progress: Progress = lambda step, loss: None,
) -> Turns:
    """Return learned rotations.

    Args:
        source, scheme, options: as `spinquant`.
        tokens_WT: windows of calibration text.
        start: where to begin; None is the random Hadamard matrices of `quarot`.
        windows: of the text in each step.
        place: a file for what is learned so far; if it is there, learning goes on from it.
        progress: is given step and loss.
    """
    start = start or random_turns(source.architecture, options.seed)
    scheme = online(scheme, source.architecture, options.seed)
    steps, rate = options.iterations or ITERATIONS, options.learning_rate or LEARNING_RATE
    state = _State.at(start)
    if place is not None and place.exists():
        state = _read(place, state)
    model = TurnedModel(source, scheme) if state.step < steps else None
    order = torch.Generator().manual_seed(options.seed)
    for step in range(steps):
        chosen = torch.randperm(len(tokens_WT), generator=order)[:windows]
        if step < state.step or model is None:
            continue  # done before; the order goes on as it would have
        free = [R_nn.requires_grad_() for R_nn in state.turns]
        loss = model.loss(tokens_WT[chosen], _turns(free, start))
        slopes = torch.autograd.grad(loss, free)
        progress(step, float(loss.detach()))
        now = rate * (1 - step / steps)
        with torch.no_grad():
            moved = [cayley_step(*of, now) for of in zip(free, slopes, state.speeds, strict=True)]
        state = _State(step + 1, [R_nn for R_nn, _ in moved], [V_nn for _, V_nn in moved])
        if place is not None and (state.step % SAVE_EVERY == 0 or state.step == steps):
            _write(place, state)
    return _turns([R_nn.detach() for R_nn in state.turns], start)


class _State(NamedTuple):
    """What learning goes on from."""

    step: int
    turns: list[Tensor]
    """float64: in float32 a hundred steps would leave the orthogonal matrices by their roundings.
    The stream's first, if it is turned."""
    speeds: list[Tensor]

    @classmethod
    def at(cls, start: Turns) -> "_State":
        found = [R_nn for R_nn in (start.residual_CC, *start.values_DD) if R_nn is not None]
        turns = [R_nn.double() for R_nn in found]
        return cls(0, turns, [torch.zeros_like(R_nn) for R_nn in turns])


def cayley_step(
    R: Tensor, slope: Tensor, speed: Tensor, rate: float, momentum: float = 0.9
) -> tuple[Tensor, Tensor]:
    """Return an orthogonal matrix further down the slope, and its speed there.

    R' = (I - t/2 Y)^-1 (I + t/2 Y) R with the skew Y = (V R^T - R V^T) / 2 of the speed
    V = momentum V - dL/dR, and t = min(rate, 1 / ||Y||_1); V' = Y R is what of V lies along the
    orthogonal matrices. The papers' code comes near the inverse in 5 steps and is brought back to
    the orthogonal matrices now and then; here it is solved.

    Args:
        R: square, orthogonal; `slope` dL/dR and `speed` of its shape. Best in float64.

    Source: Li et al., algorithm 1; SpinQuant, equations 3 and 4.
    """
    V = momentum * speed - slope
    Y = (V @ R.T - R @ V.T) / 2
    t = min(rate, 1 / (float(Y.abs().sum(dim=0).max()) + 1e-8))
    half = t / 2 * Y
    moved = torch.linalg.solve(torch.eye(len(R), dtype=R.dtype) - half, R + half @ R)
    # solve gives columns in a row; a state that was read back would be multiplied in another order
    return moved.contiguous(), (Y @ R).contiguous()


def _turns(free: Sequence[Tensor], like: Turns) -> Turns:
    """Return matrices as `Turns` of the same parts, float32."""
    matrices = [matrix.float() for matrix in free]
    residual_CC = None if like.residual_CC is None else matrices.pop(0)
    return Turns(residual_CC, matrices)


def _write(place: Path, state: _State) -> None:
    """Write the state; the file is whole or as it was."""
    named = {f"turn.{i}": R_nn for i, R_nn in enumerate(state.turns)}
    named |= {f"speed.{i}": V_nn for i, V_nn in enumerate(state.speeds)}
    declared = [safetensors.Declared(name, "F64", tuple(m.shape)) for name, m in named.items()]
    with safetensors.Writer(place, declared, {"step": str(state.step)}) as file:
        for name, matrix in named.items():
            file.write(name, matrix.detach().contiguous().numpy())


def _read(place: Path, like: _State) -> _State:
    """Return the state that a file holds, of matrices of the shapes of `like`."""
    reader = safetensors.Reader(place)

    def matrix(name: str, shape: torch.Size) -> Tensor:
        return torch.from_numpy(reader.data(name).view(np.float64).reshape(shape).copy())

    turns = [matrix(f"turn.{i}", R_nn.shape) for i, R_nn in enumerate(like.turns)]
    speeds = [matrix(f"speed.{i}", R_nn.shape) for i, R_nn in enumerate(like.turns)]
    return _State(int(reader.metadata["step"]), turns, speeds)


METHOD = Method(
    "rotation",
    spinquant,
    frozenset({"seed", "iterations", "learning_rate"}),
    calibrates=True,
    rounds_with="gptq",
)
