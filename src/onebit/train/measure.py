"""What the layers of a model see, measured on a little held-out text: for `measure = true`.

    "zeros": {"q": 0.01, "k": ...}   share of a projection's input codes that are 0, mean of layers
    "softmax_range": [-9.1, 12.4]    smallest and largest score before a softmax, of all layers; not
                                     in a model without attention
    "activation_bits": 4.6           mean over tokens and layers, where "dynamic:R" decides

An input that a layer does not round counts the zeros that it has. Compare BitNet a4.8, table 2,
https://arxiv.org/abs/2411.04965.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.data.blocks import TokenFile
from onebit.nn import mean_bits, record, score_ranges, zero_share
from onebit.scheme import role_of
from onebit.train.held_out import chosen

WINDOWS = 4


@torch.no_grad()
def measure(model: nn.Module, file: TokenFile, context: int) -> dict[str, Any]:
    """Return the numbers of the module's docstring, from `WINDOWS` windows of the held-out text.

    Args:
        model: tokens (B, T) to logits; it is left in eval mode.
        file: the held-out documents.
        context: tokens in a window.

    Raises:
        InputError: no document has two tokens.
    """
    model.eval()
    record(model)
    with _count_zeros(model) as zeros:
        for window_T in chosen(file, context, WINDOWS):
            model(torch.from_numpy(np.asarray(window_T[None, :-1], np.int64)))
    bits, ranges = mean_bits(model), score_ranges(model)
    record(model, on=False)
    found: dict[str, Any] = {
        "zeros": {role: sum(shares) / len(shares) for role, shares in zeros.items()}
    }
    if ranges:
        lows, highs = zip(*ranges.values(), strict=True)
        found["softmax_range"] = [min(lows), max(highs)]
    return found | ({"activation_bits": sum(bits.values()) / len(bits)} if bits else {})


def in_words(found: dict[str, Any]) -> str:
    """Return what `measure` has found for a line of progress, but the zeros; "" of nothing."""
    if not found:
        return ""
    scores, bits = found.get("softmax_range"), found.get("activation_bits")
    return ("" if scores is None else f", scores {scores[0]:.1f} to {scores[1]:.1f}") + (
        "" if bits is None else f", inputs {bits:.2f} bits"
    )


@contextmanager
def _count_zeros(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Fill a dict, role to shares of zeros, for as long as the block runs."""
    shares: dict[str, list[float]] = defaultdict(list)

    def hook(role: str) -> Any:
        def count(layer: nn.Linear, inputs: tuple[Tensor]) -> None:
            shares[role].append(zero_share(layer, inputs[0]))

        return count

    hooks = [
        layer.register_forward_pre_hook(hook(role_of(name)))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and role_of(name)
    ]
    try:
        yield shares
    finally:
        for handle in hooks:
            handle.remove()
