"""Static activations: the one range that all inputs of a layer are rounded in, found on a text.

The range is that of what reaches the rounding, behind the layer's norm and Hadamard turn; it is
found before the inputs' statistics, which are those of the rounded values.

Shape letters: T tokens, K in features.
"""

from collections.abc import Iterable

from torch import Tensor

from onebit.nn import inputs
from onebit.quant import activation, clip
from onebit.quant.activation import Static
from onebit.quant.histogram import Histogram
from onebit.scheme import LinearScheme


def factors(parts: Iterable[Tensor], scheme: LinearScheme, rule: str) -> Static | None:
    """Return scale and zero-point for the inputs of a layer; None where they are not static.

    Args:
        parts: what the layer is given, (..., T, K), some windows at a time.
        scheme: of the layer.
        rule: how the range is found: `Options.input_clip`.

    Raises:
        InputError: a value is not finite, or none came.
    """
    if not scheme.static:
        return None
    seen = Histogram()
    for x_TK in parts:
        seen.add(inputs.turned(x_TK, None, scheme))
    bits, symmetric = int(scheme.activation[3]), not scheme.static_zero
    low, high = clip.of_values(seen, rule, bits, symmetric)
    return activation.static_factors(scheme.activation, low, high)
