"""Float to codes and back: pure functions on torch tensors.

Rounding of weights and activations happens in this folder and nowhere else, once per formula.

    codes = quant.quantize_weight(w, linear_scheme)     # by scheme, the one door
    codes = quant.ternary.quantize_absmean(w)           # by name
    w_hat = quant.dequantize(codes)
"""

from collections.abc import Callable

from torch import Tensor

from onebit.errors import OptionError
from onebit.quant import (
    activation,
    binary,
    blockwise,
    clip,
    descent,
    grid,
    hadamard,
    half_quadratic,
    histogram,
    integer,
    kv,
    learned,
    parts,
    planes,
    shifted,
    span,
    ternary,
)
from onebit.quant.codes import Codes, dequantize, fewest_scales
from onebit.quant.grid import on_grid
from onebit.quant.straight_through import straight_through
from onebit.scheme import LinearScheme

__all__ = [
    "Codes",
    "activation",
    "binary",
    "blockwise",
    "clip",
    "dequantize",
    "descent",
    "fewest_scales",
    "grid",
    "group_of",
    "hadamard",
    "half_quadratic",
    "histogram",
    "integer",
    "kv",
    "learned",
    "on_grid",
    "parts",
    "planes",
    "quantize_weight",
    "quantizer_of",
    "shifted",
    "span",
    "straight_through",
    "ternary",
    "values",
]

Quantizer = Callable[[Tensor, int | None], Codes]


def _of_bits(quantize: Callable[[Tensor, int, int | None], Codes], bits: int) -> Quantizer:
    return lambda w_NK, group: quantize(w_NK, bits, group)


# (weight, weight_rule) of a LinearScheme -> the function
WEIGHT_QUANTIZERS: dict[tuple[str, str], Quantizer] = {
    ("ternary", "absmean"): ternary.quantize_absmean,
    ("ternary", "absmedian"): ternary.quantize_absmedian,
    ("ternary", "least_squares"): ternary.quantize_least_squares,
    ("ternary2", "least_squares"): planes.quantize,
    ("binary", "absmean"): binary.quantize,
    **{
        (f"int{bits}", rule): _of_bits(quantize, bits)
        for bits in integer.BITS
        for rule, quantize in (
            ("absmax", integer.quantize),
            ("zero_point", integer.quantize_zero_point),
            ("lsq", learned.lsq_at_start),
        )
    },
    ("ternary", "seq"): learned.seq_at_start,
}


def quantizer_of(scheme: LinearScheme) -> Quantizer:
    """Return the function that rounds weights by this scheme, called with (w_NK, group).

    Raises:
        OptionError: the scheme's weight is "fp", has no such rule, or learns a step for a split.
    """
    found = WEIGHT_QUANTIZERS.get((scheme.weight, scheme.weight_rule))
    if found is None:
        rules = [rule for weight, rule in WEIGHT_QUANTIZERS if weight == scheme.weight]
        raise OptionError(
            f'scheme: weight "{scheme.weight}" with weight_rule "{scheme.weight_rule}" cannot be '
            f"rounded; accepted rules: {', '.join(rules) or 'none, it stays float'}."
        )
    if scheme.learned and scheme.parts > 1:
        raise OptionError(
            f'scheme: split "{scheme.split}" gives each part a scale of its own, and weight_rule '
            f'"{scheme.weight_rule}" learns one step for all. Leave one of them out.'
        )
    return found


def values(q: Codes, scheme: LinearScheme) -> Tensor:
    """Return the float32 weights (N, K) that codes of a scheme stand for, planes added up."""
    return planes.dequantize(q) if scheme.planes > 1 else dequantize(q)


def group_of(scheme: LinearScheme, columns: int) -> int | None:
    """Return the columns that share a scale under this scheme: K for "row", None for "tensor"."""
    return columns if scheme.weight_scale == "row" else scheme.group


def quantize_weight(w_NK: Tensor, scheme: LinearScheme, step: Tensor | None = None) -> Codes:
    """Round a weight matrix (N, K) as its scheme says: the one door from floats to codes.

    Under hadamard "both" the weights are turned first. Under a split each part is rounded as a
    matrix of its own; its scales are (N, G) for "in:G", (N, 1) for "out:G".

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        scheme: how.
        step: of a learned rule, `tensors.step_shape`; None is the step that training begins with.

    Raises:
        OptionError: the scheme's weight is "fp", has no such rule, or its rule learns no step.
        ShapeError: not a matrix, or the scheme's group or parts do not divide it.
    """
    quantize = quantizer_of(scheme)
    group = group_of(scheme, w_NK.shape[-1])
    w_NK = hadamard.turned(w_NK.detach(), scheme)
    if step is not None:
        return learned.quantize(w_NK, step, scheme)
    if scheme.parts == 1:
        return quantize(w_NK, group)
    return parts.glue([quantize(part, group) for part in parts.cut(w_NK, scheme)], scheme)
