"""RTN: round to nearest, the plainest way to quantize after training, and the measure of others.

Shape letters: N rows, K columns.
"""

from torch import Tensor

from onebit import quant
from onebit.ptq import ranges
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.stats import Stats
from onebit.quant import Codes
from onebit.scheme import LinearScheme


def rtn(w_NK: Tensor, scheme: LinearScheme, stats: Stats | None, options: Options) -> Codes:
    """Round each weight to the nearest value of its grid.

    Args:
        w_NK: float weights; under hadamard "both" they are turned here.
        scheme: the grid.
        stats: of the inputs, where `options.clip` weighs columns by them; else not used.
        options: `clip`.

    Raises:
        OptionError, ShapeError, InputError: as `ranges.grid`.
    """
    w_NK = quant.hadamard.turned(w_NK.detach().float(), scheme)
    return ranges.codes(w_NK, ranges.grid(w_NK, scheme, stats, options))


METHOD = Method("rounding", rtn, frozenset({"clip"}))
