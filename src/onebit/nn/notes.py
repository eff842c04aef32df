"""What layers do otherwise than their scheme would have it, in words, to be printed once."""

from torch import nn

from onebit import hadamard
from onebit.nn.convert import bit_linears


def notes(model: nn.Module) -> list[str]:
    """Return a line for each width that has no Hadamard matrix for the whole."""
    layers: dict[int, set[str]] = {}
    for name, layer in bit_linears(model):
        K = layer.in_features
        if layer.scheme.hadamard != "none" and hadamard.block(K) != K:
            layers.setdefault(K, set()).add(name.rpartition(".")[2])
    return [f"{', '.join(sorted(names))}: {hadamard.describe(K)}." for K, names in layers.items()]
