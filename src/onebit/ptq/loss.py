"""What rounding a layer, or some of them, does to the loss of the whole model, measured.

    prefix = loss.Prefix(model, tokens_WT)
    prefix.base                                          # nats per token, as the model is
    prefix.with_weights({"model.layers.3.mlp.up_proj": w_hat_NK}) - prefix.base

The hidden states in front of every layer are kept, so a change in layer 20 runs from layer 20 on.

Shape letters: W windows, T tokens of a window, C model width, N rows, K columns.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import InputError, OptionError
from onebit.models import LanguageModel
from onebit.ptq.layer_name import ATTENTION, MLP, place


class Prefix:
    """A model, some windows, and the hidden states that they make in front of each layer."""

    base: float
    """Mean loss of the model as it is, in nats per predicted token."""

    @torch.no_grad()
    def __init__(self, model: LanguageModel, tokens_WT: Tensor) -> None:
        """Run the model once over the windows.

        Args:
            model: in evaluation mode.
            tokens_WT: int64 ids; at least two in a window.

        Raises:
            InputError: there is nothing to predict, or the loss is no number.
        """
        if tokens_WT.ndim != 2 or tokens_WT.shape[0] < 1 or tokens_WT.shape[1] < 2:
            raise InputError(
                f"loss: the tokens have shape {tuple(tokens_WT.shape)}; accepted: windows of at "
                "least 2 tokens, (W, T)."
            )
        self._model, self._tokens_WT = model, tokens_WT
        self._hidden: list[list[Tensor]] = [[] for _ in model.model.layers]

        def keep(index: int) -> Any:
            return lambda _, args: self._hidden[index].append(args[0])

        hooks = [
            layer.register_forward_pre_hook(keep(i)) for i, layer in enumerate(model.model.layers)
        ]
        try:
            self.base = self._loss(0)
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def with_weights(self, weights: Mapping[str, Tensor]) -> float:
        """Return the loss with other weights in these layers; the model is left as it was.

        Args:
            weights: layer -> (N, K).

        Raises:
            InputError: the loss is no number.
        """
        depths = [place(layer)[0] for layer in weights]
        outside = all(depth is None for depth in depths)  # a head: after all layers
        first = len(self._hidden) - 1 if outside else min(d for d in depths if d is not None)
        with replaced(self._model, weights):
            return self._loss(first)

    def _loss(self, first: int) -> float:
        """Run from layer `first` on."""
        total, count = 0.0, 0
        with _from_layer(self._model, first) as start:
            for window, tokens_T in enumerate(self._tokens_WT):
                start.hidden = self._hidden[first][window] if first else None
                logits_TV = self._model(tokens_T[None])[0]
                total += float(F.cross_entropy(logits_TV[:-1], tokens_T[1:], reduction="sum"))
                count += len(tokens_T) - 1
        if total != total:
            raise InputError(
                "loss: the model's loss is no number; its weights are not finite, or it overflows."
            )
        return total / count


@contextmanager
def replaced(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other weights into linear layers, and the old ones back at the end.

    Args:
        model: whose layers are plain linear ones.
        weights: layer -> (N, K).
    """
    modules = {layer: _linear(model, layer) for layer in weights}
    before = {layer: module.weight for layer, module in modules.items()}
    try:
        for layer, module in modules.items():
            new = weights[layer].to(before[layer].dtype)
            assert new.shape == before[layer].shape, layer
            module.weight = nn.Parameter(new, requires_grad=False)
        yield
    finally:
        for layer, module in modules.items():
            module.weight = before[layer]


@dataclass(frozen=True)
class OrderEffect:
    """Losses, in nats per token, of rounding the attention's linears, the MLP's, and both."""

    base: float
    attention: float
    mlp: float
    both: float

    @property
    def excess(self) -> float:
        """What both together cost beyond the sum of what each costs alone."""
        return (self.both - self.base) - (self.attention - self.base) - (self.mlp - self.base)


def order_effect(prefix: Prefix, rounded: Mapping[str, Tensor]) -> OrderEffect:
    """Measure whether errors add up over the two halves of the layers.

    Args:
        prefix: model and text.
        rounded: layer -> rounded weights; layers that are neither's are left out.

    Raises:
        OptionError: one half has no layers.
    """
    attention = {layer: w for layer, w in rounded.items() if place(layer)[1] in ATTENTION}
    mlp = {layer: w for layer, w in rounded.items() if place(layer)[1] in MLP}
    if not attention or not mlp:
        raise OptionError("order_effect: there must be rounded layers of attention and of MLP.")
    losses = [prefix.with_weights(part) for part in (attention, mlp, attention | mlp)]
    return OrderEffect(prefix.base, *losses)


class _Start(nn.Module):
    """Stands for the layers that need not run: gives what they gave."""

    hidden: Tensor | None = None

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x if self.hidden is None else self.hidden


@contextmanager
def _from_layer(model: LanguageModel, first: int) -> Iterator[_Start]:
    """Let the model begin at layer `first`, with the hidden states put into what is yielded."""
    start = _Start()
    layers = model.model.layers
    try:
        if first:
            model.model.layers = nn.ModuleList([start] * first + list(layers[first:]))
        yield start
    finally:
        model.model.layers = layers


def _linear(model: nn.Module, layer: str) -> nn.Linear:
    module = model.get_submodule(layer)
    if not isinstance(module, nn.Linear):
        raise OptionError(f"loss: {layer} is no linear layer.")
    return module
