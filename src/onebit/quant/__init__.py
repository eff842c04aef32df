"""Float to codes and back: pure functions on torch tensors.

Rounding of weights and activations happens in this folder and nowhere else, once per formula.

    codes = quant.quantize_weight(w, linear_scheme)     # by scheme
    codes = quant.ternary.quantize_absmean(w)           # by name
    w_hat = quant.dequantize(codes)
"""

from collections.abc import Callable

from torch import Tensor

from onebit.errors import OptionError
from onebit.quant import activation, binary, blockwise, grid, integer, ternary
from onebit.quant.codes import Codes, dequantize, fewest_scales
from onebit.quant.grid import on_grid
from onebit.quant.straight_through import straight_through
from onebit.scheme import LinearScheme

__all__ = [
    "Codes",
    "activation",
    "binary",
    "blockwise",
    "dequantize",
    "fewest_scales",
    "grid",
    "group_of",
    "integer",
    "on_grid",
    "quantize_weight",
    "quantizer_of",
    "straight_through",
    "ternary",
]

Quantizer = Callable[[Tensor, int | None], Codes]


def _of_bits(bits: int) -> Quantizer:
    return lambda w_NK, group: integer.quantize(w_NK, bits, group)


# (weight, weight_rule) of a LinearScheme -> the function
WEIGHT_QUANTIZERS: dict[tuple[str, str], Quantizer] = {
    ("ternary", "absmean"): ternary.quantize_absmean,
    ("ternary", "absmedian"): ternary.quantize_absmedian,
    ("ternary", "least_squares"): ternary.quantize_least_squares,
    ("binary", "absmean"): binary.quantize,
    **{(f"int{bits}", "absmax"): _of_bits(bits) for bits in integer.BITS},
}


def quantizer_of(scheme: LinearScheme) -> Quantizer:
    """Return the function that rounds weights by this scheme, called with (w_NK, group).

    Raises:
        OptionError: the scheme's weight is "fp", or has no such rule.
    """
    found = WEIGHT_QUANTIZERS.get((scheme.weight, scheme.weight_rule))
    if found is None:
        rules = [rule for weight, rule in WEIGHT_QUANTIZERS if weight == scheme.weight]
        raise OptionError(
            f'scheme: weight "{scheme.weight}" with weight_rule "{scheme.weight_rule}" cannot be '
            f"rounded; accepted rules: {', '.join(rules) or 'none, it stays float'}."
        )
    return found


def group_of(scheme: LinearScheme, columns: int) -> int | None:
    """Return the columns that share a scale under this scheme: K for "row", None for "tensor"."""
    return columns if scheme.weight_scale == "row" else scheme.group


def quantize_weight(w_NK: Tensor, scheme: LinearScheme) -> Codes:
    """Round a weight matrix (N, K) as its scheme says.

    Raises:
        OptionError: the scheme's weight is "fp", or has no such rule.
        ShapeError: not a matrix, or the scheme's group does not divide K.
    """
    return quantizer_of(scheme)(w_NK, group_of(scheme, w_NK.shape[-1]))
