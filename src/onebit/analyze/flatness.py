"""How wide the minimum is that training found: the loss against the size of a perturbation.

    curve = flatness.curve(loss, model, sizes=[0.05, 0.1, 0.2], seeds=3)

Every row of every matrix inside the layers is moved in a random direction by `size` times its own
length (filter normalization), so that models with large and small weights can be compared. What is
moved are the weights that a model computes with: for a quantized one the values of its codes, held
as floats by `dequantized`; or its float masters, which are then rounded again.

Source: Li et al., "Visualizing the loss landscape of neural nets", section 4,
https://arxiv.org/abs/1712.09913

Shape letters: N rows of a weight matrix, K columns.
"""

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from onebit import quant
from onebit.errors import OptionError
from onebit.models import LanguageModel
from onebit.nn import BitLinear, bit_linears, convert
from onebit.scheme import Scheme, role_of


@dataclass(frozen=True)
class Point:
    """The loss at one size of perturbation."""

    size: float
    """Length of each row's move, as a share of the row's length."""
    mean: float
    """Of the loss over the directions."""
    spread: float
    """Largest less smallest."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def curve(
    loss: Callable[[nn.Module], float], model: nn.Module, sizes: Sequence[float], seeds: int = 3
) -> list[Point]:
    """Return the loss of the model at each size, over several random directions.

    Args:
        loss: what a model has; called on `model` itself, moved for the moment.
        model: its weights are the same afterwards, to the bit.
        sizes: 0 is the model as it is, and measured once.
        seeds: directions for each size; the same ones for all sizes.
    """
    points = []
    for size in sizes:
        found = []
        for seed in range(seeds if size else 1):
            with perturbed(model, size, seed):
                found.append(loss(model))
        points.append(Point(size, statistics.fmean(found), max(found) - min(found)))
    return points


@contextmanager
def perturbed(model: nn.Module, size: float, seed: int) -> Iterator[None]:
    """Move the rows of the layers' matrices at random for as long as the block runs.

    Raises:
        OptionError: a layer is frozen: it multiplies codes, and its weights are not looked at.
    """
    for name, layer in layer_linears(model):
        if isinstance(layer, BitLinear) and layer.frozen:
            raise OptionError(f"flatness: {name} is frozen. Move the weights of `dequantized`.")
    random = torch.Generator().manual_seed(seed)
    before = [(layer, layer.weight.data) for _, layer in layer_linears(model)]
    try:
        for layer, w_NK in before:
            layer.weight.data = moved(w_NK, size, random)
        yield
    finally:
        for layer, w_NK in before:
            layer.weight.data = w_NK


def moved(w_NK: Tensor, size: float, random: torch.Generator) -> Tensor:
    """Return the weights with each row moved by `size` times its length in a random direction."""
    way_NK = torch.randn(w_NK.shape, generator=random).to(w_NK.device)
    length_N1 = w_NK.float().norm(dim=1, keepdim=True)
    move_NK = way_NK * (size * length_N1 / way_NK.norm(dim=1, keepdim=True))
    moved_NK: Tensor = (w_NK.float() + move_NK).to(w_NK.dtype)
    return moved_NK


def relative_size(w_NK: Tensor, other_NK: Tensor) -> float:
    """Return the length of a move as a share of the row's, as root mean square over the rows."""
    move_N = (other_NK - w_NK).float().norm(dim=1)
    length_N = w_NK.float().norm(dim=1)
    some_N = length_N > 0
    return float((move_N[some_N] / length_N[some_N]).square().mean().sqrt())


@torch.no_grad()
def dequantized(model: LanguageModel) -> LanguageModel:
    """Return a copy of the model that holds the values of its weight codes as floats.

    It computes what the model computes, up to the order of float sums, and rounds no weight;
    inputs are rounded as before. Under hadamard "both" the values are those of the turned weights.
    """
    twin = copy.deepcopy(model)
    for _, layer in bit_linears(twin):
        if layer.scheme.weight != "fp":
            layer.weight.data = quant.dequantize(layer.codes()).to(layer.weight.dtype)
            layer.step = None
    convert(twin, _float_weights(twin.scheme))
    return twin


def layer_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield name and module of the linears inside the layers: all but embedding and head."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and role_of(name) not in ("", "head"):
            yield name, module


@torch.no_grad()
def rounding_size(model: nn.Module) -> float:
    """Return the size of the move that rounding is, over all layers: what `moved` calls size."""
    total = count = 0.0
    for _, layer in bit_linears(model):
        if layer.scheme.weight != "fp":
            w_NK = quant.hadamard.turned(layer.weight.detach(), layer.scheme)
            size = relative_size(w_NK, quant.dequantize(layer.codes()))
            total += size**2 * w_NK.numel()
            count += w_NK.numel()
    return (total / count) ** 0.5 if count else 0.0


def _float_weights(scheme: Scheme) -> Scheme:
    """Return the scheme with float weights, inputs rounded and turned as before."""
    layers = {
        name: replace(
            how,
            weight="fp",
            weight_rule="absmean",
            weight_scale="tensor",
            hadamard="none" if how.hadamard == "none" else "input",
        )
        for name, how in scheme.layers.items()
    }
    return replace(scheme, name=f"{scheme.name}, weights dequantized", layers=layers)
