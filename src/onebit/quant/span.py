"""From a range of values to a scale and a zero-point, and from values to the nearest codes.

Scales are rounded to float16 before any code is taken, as files hold them so.

Shape letters: S shares of k weights each.
"""

import torch
from torch import Tensor

from onebit.errors import InputError

_SMALLEST_HALF = 2.0**-24
_LARGEST_HALF = 65504.0


def of_range(low_S: Tensor, high_S: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Return scale and zero-point (S,) of codes that span low ... high, with 0 between them.

    Scales are rounded to float16 and never 0: a share of zeros has the smallest there is.

    Raises:
        InputError: a scale does not fit float16.

    Source: Gholami et al., section III, https://arxiv.org/abs/2103.13630
    """
    if symmetric:
        scale_S = torch.maximum(-low_S, high_S) / (2 ** (bits - 1) - 1)
    else:
        scale_S = (high_S - low_S) / (2**bits - 1)
    scale_S = half(scale_S)
    if symmetric:
        return scale_S, torch.zeros_like(scale_S)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return scale_S, (least - low_S / scale_S).round_().clamp_(least, most)


def half(scale: Tensor) -> Tensor:
    """Return scales as float16 holds them, in their own dtype, at least 6e-8.

    Raises:
        InputError: one is not finite in float16.
    """
    largest = float(scale.max()) if scale.numel() else 0.0
    if not largest < _LARGEST_HALF:  # or nan
        raise InputError(
            f"quantize: a scale of {largest:g} does not fit float16, which ends at 65504. Weights "
            "of a sound model are far smaller: take an earlier file, or leave the layer float by a "
            "plan."
        )
    return scale.half().to(scale.dtype).clamp(min=_SMALLEST_HALF)


def nearest(
    w_Sk: Tensor, scale_S: Tensor, zero_S: Tensor, bits: int, symmetric: bool = False
) -> Tensor:
    """Return the codes (S, k) nearest to weights, whole numbers of their dtype.

    value = (code - zero) * scale
    """
    codes_Sk = (w_Sk / scale_S[:, None]).round_() + zero_S[:, None]
    return codes_Sk.clamp_(*ends(bits, symmetric))


def ends(bits: int, symmetric: bool) -> tuple[int, int]:
    """Return the least and the greatest code."""
    most = 2 ** (bits - 1) - 1
    return -most if symmetric else -most - 1, most
