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

Shape letters: W windows, T tokens, C model width, D numbers of a head, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from onebit import quant
from onebit.errors import OptionError
from onebit.models.language_model import LanguageModel
from onebit.ptq.calibration import Calibration
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.quarot import online, random_turns
from onebit.ptq.rotate import Rotated, Turns, turned, turns_stream
from onebit.ptq.source import Source
from onebit.scheme import LinearScheme, Scheme
from onebit.tensors import linears

ITERATIONS = 100
LEARNING_RATE = 1.5
"""At the first step; it falls to 0 in a line."""
WINDOWS = 1
"""Calibration windows in a step."""

Progress = Callable[[int, float], None]


def spinquant(
    source: Source, scheme: Scheme, calibration: Calibration | None, options: Options
) -> tuple[Source, Scheme]:
    """Return the rotated model, and the scheme with the turns that are left to be done online.

    Args:
        source: the float model; all of it is held in memory while learning.
        scheme: of the result: what is rounded while learning.
        calibration: windows of text.
        options: `seed` of the first rotations and of the windows' order, `iterations`,
            `learning_rate`.

    Raises:
        OptionError: there is no text, or nothing that is rounded.
    """
    if calibration is None:
        raise OptionError("spinquant: learns from text. Name a calibration text.")
    turns = learn(source, scheme, torch.from_numpy(calibration.tokens_WT), options)
    return Rotated(source, turns), online(scheme, source.architecture, options.seed)


def learn(
    source: Source,
    scheme: Scheme,
    tokens_WT: Tensor,
    options: Options,
    start: Turns | None = None,
    windows: int = WINDOWS,
    progress: Progress = lambda step, loss: None,
) -> Turns:
    """Return learned rotations.

    Args:
        source, scheme, options: as `spinquant`.
        tokens_WT: windows of calibration text.
        start: where to begin; None is the random Hadamard matrices of `quarot`.
        windows: of the text in each step.
        progress: is given step and loss.
    """
    start = start or random_turns(source.architecture, options.seed)
    network = _Network(source, online(scheme, source.architecture, options.seed))
    matrices = [start.residual_CC, *start.values_DD]
    # float64, or a hundred steps would leave the orthogonal matrices by a hundred roundings
    free = [matrix.double().requires_grad_() for matrix in matrices if matrix is not None]
    speeds = [torch.zeros_like(matrix) for matrix in free]
    order = torch.Generator().manual_seed(options.seed)
    steps, rate = options.iterations or ITERATIONS, options.learning_rate or LEARNING_RATE
    for step in range(steps):
        chosen = torch.randperm(len(tokens_WT), generator=order)[:windows]
        loss = network.loss(tokens_WT[chosen], _turns(free, start))
        slopes = torch.autograd.grad(loss, free)
        progress(step, float(loss.detach()))
        now = rate * (1 - step / steps)
        with torch.no_grad():
            moved = [cayley_step(*of, now) for of in zip(free, slopes, speeds, strict=True)]
        free = [matrix.requires_grad_() for matrix, _ in moved]
        speeds = [speed for _, speed in moved]
    return _turns([matrix.detach() for matrix in free], start)


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
    return moved, Y @ R


class _Network:
    """The model with its norms fused, whose turned weights are made anew for every input."""

    def __init__(self, source: Source, scheme: Scheme) -> None:
        """`scheme` has its online turns."""
        a = source.architecture
        if turns_stream(a):
            source = Rotated(source, Turns(torch.eye(a.hidden_size)))
        rounds = {x.name: scheme.linear(x.name) for x in linears(a)}
        inputs = any(linear.activation != "fp" for linear in rounds.values())
        if not inputs and scheme.kv_bits > 8 and not scheme.quantized:
            raise OptionError(
                f"spinquant: {scheme.name} rounds nothing, so nothing can be learned."
            )
        layers = {name: _learning(linear) for name, linear in rounds.items()} if inputs else None
        how = scheme if layers is None else replace(scheme, layers=layers)
        self._model = read_model(source, how)
        self._layers = [
            _TurnedLayer(layer, i, rounds if inputs else {})
            for i, layer in enumerate(self._model.model.layers)
        ]
        self._model.model.layers = nn.ModuleList(self._layers)

    def loss(self, tokens_BT: Tensor, turns: Turns) -> Tensor:
        """Return the mean cross-entropy of every token but the first."""
        Q_CC = turns.residual_CC
        for i, layer in enumerate(self._layers):
            layer.Q_CC, layer.R_DD = Q_CC, turns.values_DD[i] if turns.values_DD else None
        body = self._model.model
        hooks = []
        if Q_CC is not None:  # tokens are turned, not the whole embedding and head
            hooks = [
                body.embed_tokens.register_forward_hook(lambda _, __, x_BTC: x_BTC @ Q_CC),
                body.norm.register_forward_hook(lambda _, __, x_BTC: x_BTC @ Q_CC.T),
            ]
        try:
            logits_BTV = self._model(tokens_BT)
        finally:
            for hook in hooks:
                hook.remove()
        return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())


class _TurnedLayer(nn.Module):
    """A decoder layer; its linears are turned when it is called, and again for the gradient."""

    Q_CC: Tensor | None = None
    R_DD: Tensor | None = None

    def __init__(self, layer: nn.Module, index: int, folds: Mapping[str, LinearScheme]) -> None:
        """`folds`: by full name, schemes whose Hadamard turn goes into the float weights."""
        super().__init__()
        self._layer = [layer]  # in a list: its parameters are to be no module's of the model
        self._prefix, self._folds = f"model.layers.{index}.", folds

    def forward(self, *inputs: Any) -> Tensor:
        y_BTC: Tensor = checkpoint(self._run, *inputs, use_reentrant=False)
        return y_BTC

    def _run(self, *inputs: Any) -> Tensor:
        layer = self._layer[0]
        weights = {name: self._turned(name, w) for name, w in layer.named_parameters()}
        y_BTC: Tensor = functional_call(layer, weights, inputs)
        return y_BTC

    def _turned(self, name: str, w: Tensor) -> Tensor:
        part, _, leaf = name.rpartition(".")
        w = turned(part, w, self.Q_CC, self.R_DD)
        fold = self._folds.get(self._prefix + part)
        return w if fold is None or leaf != "weight" else quant.hadamard.turned(w, fold)


def _learning(linear: LinearScheme) -> LinearScheme:
    """Return the scheme of a linear that rounds its input only; its turn is in its weights."""
    turn = "none" if linear.hadamard == "none" else "input"
    # a static scale is measured on the rotated model; until then each token has its own
    activation = linear.activation.replace("_static", "_absmax")
    return LinearScheme(activation=activation, hadamard=turn, signs=linear.signs)


def _turns(free: Sequence[Tensor], like: Turns) -> Turns:
    """Return matrices as `Turns` of the same parts, float32."""
    matrices = [matrix.float() for matrix in free]
    residual_CC = None if like.residual_CC is None else matrices.pop(0)
    return Turns(residual_CC, matrices)


def read_model(source: Source, scheme: Scheme) -> LanguageModel:
    """Return the model of a source, without gradients."""
    a = source.architecture
    with torch.device("meta"):
        model = LanguageModel(a, scheme)
    model.model.set_ropes(a)
    for name, _ in list(model.named_parameters()):
        module, _, leaf = name.rpartition(".")
        values = nn.Parameter(source.tensor(name), requires_grad=False)
        setattr(model.get_submodule(module), leaf, values)
    return model.eval()


METHOD = Method(
    "rotation",
    spinquant,
    frozenset({"seed", "iterations", "learning_rate"}),
    calibrates=True,
    rounds_with="gptq",
)
