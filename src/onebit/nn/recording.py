"""What a model's layers can tell of themselves while they run; nothing is computed unasked.

After `record(model)` and some `model(tokens)`: `mean_bits(model)`, `score_ranges(model)`.
"""

import torch
from torch import Tensor, nn

from onebit.nn.attention import ScoreRange
from onebit.nn.bitlinear import BitLinear
from onebit.nn.convert import attentions, bit_linears
from onebit.nn.inputs import BitCount


def record(model: nn.Module, on: bool = True) -> None:
    """Begin to record anew in every layer, or stop; what was recorded is forgotten."""
    for _, layer in bit_linears(model):
        dynamic = layer.scheme.activation.startswith("dynamic:")
        layer.bit_count = BitCount() if on and dynamic else None
    for _, attention in attentions(model):
        attention.score_range = ScoreRange() if on else None


def mean_bits(model: nn.Module) -> dict[str, float]:
    """Return the mean bits of each layer's input whose width differs by token ("dynamic:R").

    Layers that have seen nothing since `record` are left out.
    """
    counts = ((name, layer.bit_count) for name, layer in bit_linears(model))
    return {name: count.mean_bits for name, count in counts if count is not None and count.inputs}


@torch.no_grad()
def zero_share(layer: nn.Linear, x_TK: Tensor) -> float:
    """Return the share of a layer's input codes that are zero; of its input, if it rounds none.

    Codes that stand for a distance from a minimum leave no weight out: their share is 0.

    Args:
        layer: any linear layer; a plain one rounds nothing.
        x_TK: what the layer is handed, (..., K).
    """
    if not isinstance(layer, BitLinear):
        return float((x_TK == 0).double().mean())
    if layer.scheme.activation == "fp":
        return float((layer.turned_input(x_TK) == 0).double().mean())
    a = layer.input_codes(x_TK)
    return 0.0 if a.minimum is not None else float((a.codes == 0).double().mean())


def score_ranges(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest score before the softmax, for each attention layer.

    Scores are taken as the softmax gets them, divided by sqrt(D) and the temperature, of the
    positions that a token sees. Layers that have seen nothing since `record` are left out.
    """
    ranges = ((name, attention.score_range) for name, attention in attentions(model))
    return {name: (r.low, r.high) for name, r in ranges if r is not None and r.low <= r.high}
