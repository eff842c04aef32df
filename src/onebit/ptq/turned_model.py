"""A model whose weights are turned anew for every input: what `spinquant` learns on.

The rotations are given with the input, and gradients go to them; the float weights stay as they
are. Layers are computed a second time for the gradient, so that one layer's turned weights and
activations are in memory at a time.

Shape letters: B windows, T tokens, C model width, D numbers of a head, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from onebit import quant
from onebit.errors import OptionError
from onebit.ptq import channel_scales
from onebit.ptq.float_model import float_model
from onebit.ptq.rotate import Rotated, Turns, turned, turns_stream
from onebit.ptq.source import Source
from onebit.scheme import LinearScheme, Scheme
from onebit.tensors import linears


class TurnedModel:
    """The model with its norms fused, whose turned weights are made anew for every input."""

    def __init__(self, source: Source, scheme: Scheme) -> None:
        """Read a model.

        Args:
            source: not turned yet.
            scheme: of the result, with its online turns. If it rounds inputs, weights stay float.

        Raises:
            OptionError: it rounds nothing.
        """
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
        self._model = float_model(source, how)
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
    activation = channel_scales.per_token(linear.activation)
    return LinearScheme(activation=activation, hadamard=turn, signs=linear.signs)
