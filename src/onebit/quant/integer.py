"""Integer weights of 2 to 8 bits, by the largest magnitude of what shares a scale.

Symmetric codes use -(2^(b-1) - 1) ... 2^(b-1) - 1, and 0 stands for 0. With a zero-point the range
from the smallest to the largest weight is spread over all 2^b codes; 0 is always one of the values,
so padding and sparse weights stay exact. Codes are stored signed (the unsigned ones of the
literature less 2^(b-1)), so that 8 bits fit int8.

Shape letters: N out features, K in features, S shares of k weights each.
"""

import torch
from torch import Tensor

from onebit.errors import OptionError
from onebit.quant.codes import Codes, join, split

BITS = range(2, 9)
_TINY = torch.finfo(torch.float32).tiny


def quantize(w_NK: Tensor, bits: int, group: int | None = None) -> Codes:
    """Round weights to integers times (largest magnitude) / (2^(bits-1) - 1).

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        bits: 2 to 8.
        group: columns that share a scale; K is a scale per row; None is one for the matrix.

    Returns:
        Codes with G = K // group, or 1. |w - value| <= scale / 2.

    Raises:
        OptionError: `bits` is not 2 to 8.
        ShapeError: not a matrix, or K is not a multiple of `group`.

    Source: Gholami et al., A Survey of Quantization Methods, section III-C,
        https://arxiv.org/abs/2103.13630 (restricted range)
    """
    _check_bits(bits)
    w_Sk = split("integer.quantize", w_NK, group)
    largest = 2 ** (bits - 1) - 1
    scale_S = (w_Sk.abs().amax(dim=1) / largest).clamp(min=_TINY)
    codes_Sk = (w_Sk / scale_S[:, None]).round_().clamp_(-largest, largest)
    return join(w_NK.shape, codes_Sk, scale_S)


def quantize_zero_point(w_NK: Tensor, bits: int, group: int | None = None) -> Codes:
    """Round weights to 2^bits evenly spaced values from the smallest to the largest, and 0.

    Arguments and errors as `quantize`.

    Returns:
        Codes with a zero-point; codes and zero in -2^(bits-1) ... 2^(bits-1) - 1.

    Source: Gholami et al., section III-C, https://arxiv.org/abs/2103.13630
    """
    _check_bits(bits)
    w_Sk = split("integer.quantize_zero_point", w_NK, group)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    smallest_S = w_Sk.amin(dim=1).clamp(max=0)  # 0 is inside the range, even of weights all > 0
    largest_S = w_Sk.amax(dim=1).clamp(min=0)
    scale_S = ((largest_S - smallest_S) / (high - low)).clamp(min=_TINY)
    zero_S = (low - smallest_S / scale_S).round_().clamp_(low, high)
    codes_Sk = ((w_Sk / scale_S[:, None]).round_() + zero_S[:, None]).clamp_(low, high)
    return join(w_NK.shape, codes_Sk, scale_S, zero_S)


def zero_of_minimum(q: Codes) -> Codes | None:
    """Return the codes of a file with the zero-point that their minimum is; None if it is none.

    A file says a zero-point as minimum = -zero * scale, in float32. None where that does not give
    the minimum back to the bit, or the zero-point is no int8.
    """
    if q.minimum_NG is None:
        return q
    zero_NG = (-q.minimum_NG / q.scale_NG.where(q.scale_NG != 0, 1.0)).round()
    if not bool((zero_NG.abs() <= 128).all()):
        return None
    found = Codes(q.codes_NK, q.scale_NG, zero_NG.clamp(-128, 127).to(torch.int8))
    again_NG = minimum_of_zero(found)
    return found if torch.equal(again_NG, q.minimum_NG) else None


def minimum_of_zero(q: Codes) -> Tensor:
    """Return -zero * scale, (N, G): what a file adds to code * scale; `zero_of_minimum` inverts."""
    zero_NG = torch.zeros_like(q.scale_NG) if q.zero_NG is None else q.zero_NG.float()
    return -zero_NG * q.scale_NG


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise OptionError(f"integer: {bits!r} bits; accepted: a whole number from 2 to 8.")
