"""HQQ: integers that forgive a few large errors, without calibration.

Where there is no text to calibrate with, or no time: `quant.half_quadratic` fits each group's scale
and zero-point so that most weights are met well, and those far out are let be.

Source: Badri and Shaji, 2023, https://mobiusml.github.io/hqq_blog/; departures in
`quant/half_quadratic.py`.

Shape letters: N rows, K columns.
"""

import torch
from torch import Tensor

from onebit import quant
from onebit.errors import InputError, OptionError
from onebit.ptq import ranges
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats
from onebit.quant import Codes, half_quadratic
from onebit.scheme import LinearScheme


def hqq(w_NK: Tensor, scheme: LinearScheme, stats: Stats | None, options: Options) -> Codes:
    """Round a layer's weights to integers with a small sum of |error|^0.7.

    Args:
        w_NK: float weights; under hadamard "both" they are turned here.
        scheme: integers by "absmax" or "zero_point".
        stats: not used.
        options: `iterations`, rounds of fitting; 0 is 20.

    Raises:
        OptionError: the scheme's weights are not such integers.
        ShapeError: K does not split into the scheme's groups.
        InputError: weights that are not finite.
    """
    if scheme.weight_rule not in ("absmax", "zero_point") or not scheme.weight.startswith("int"):
        raise OptionError(
            f'hqq: the scheme says weight "{scheme.weight}" by "{scheme.weight_rule}"; accepted: '
            "int2 to int8 by absmax or zero_point. For ternary weights take ternary."
        )
    if scheme.parts > 1:
        raise OptionError(f"hqq: the scheme has split {scheme.split!r}; accepted: none.")
    if not bool(torch.isfinite(w_NK).all()):
        raise InputError(
            "hqq: weights that are not finite. The file is damaged, or the run that made it "
            "failed; take an earlier one."
        )
    w_NK = quant.hadamard.turned(w_NK.detach().float(), scheme)
    return half_quadratic.quantize(
        w_NK,
        ranges.bits_of(scheme),
        quant.group_of(scheme, w_NK.shape[1]),
        symmetric=scheme.weight_rule == "absmax",
        iterations=options.iterations or half_quadratic.ITERATIONS,
    )


METHOD = Method("rounding", hqq, frozenset({"iterations"}))
