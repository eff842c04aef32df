"""RTN: round to nearest, the plainest way to quantize after training, and the measure of others.

Shape letters: N rows, K columns.
"""

from torch import Tensor

from onebit import quant
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats
from onebit.quant import Codes
from onebit.scheme import LinearScheme


def rtn(w_NK: Tensor, scheme: LinearScheme, stats: Stats | None, options: Options) -> Codes:
    """Round each weight to the nearest value of its grid; no calibration needed.

    Args:
        w_NK: float weights; under hadamard "both" they are turned here.
        scheme: the grid.
        stats: not used.
        options: not used.

    Raises:
        OptionError, ShapeError: as `quant.quantize_weight`.
    """
    return quant.quantize_weight(w_NK, scheme)


METHOD = Method("rounding", rtn)
