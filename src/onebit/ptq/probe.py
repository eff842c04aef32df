"""Whether a method rounds to what a scheme says, asked before the model is touched.

What a method refuses it refuses when it is called, which may be after hours of rotation. So it is
called once on a few numbers for every way in which layers are to be held.

Shape letters: k columns of a group or block.
"""

from dataclasses import replace
from typing import cast

import torch

from onebit import pack
from onebit.errors import UnsupportedError
from onebit.ptq.method import Method, Rounding
from onebit.ptq.options import Options
from onebit.ptq.plan import Held
from onebit.ptq.stats import Stats
from onebit.quant import Codes
from onebit.scheme import LinearScheme
from onebit.tensors import codes_shape

_COLUMNS, _ROWS = 64, 2


def check(method: Method, held: Held, options: Options, calibrated: bool) -> None:
    """Round a few numbers as a layer will be.

    Args:
        method: that rounds.
        held: how.
        options: of the run.
        calibrated: whether the layer's inputs will be known.

    Raises:
        OnebitError: what the method has against it.
    """
    scheme = replace(held.scheme, hadamard="none", signs=0)
    k = pack.find(held.format).columns if held.format else scheme.group or _COLUMNS
    w_Nk = torch.linspace(-1, 1, _ROWS * k).view(_ROWS, k)
    few = replace(options, format=held.format, iterations=min(options.iterations, 1))
    q = cast(Rounding, method.run)(w_Nk, scheme, _stats(k) if calibrated else None, few)
    check_shape(q, scheme, _ROWS, k)


def check_shape(q: Codes, scheme: LinearScheme, N: int, K: int) -> None:
    """Refuse codes of another shape than the scheme has.

    Raises:
        UnsupportedError: that is so of two planes, where the scheme knows of one.
    """
    if q.codes_NK.shape != codes_shape(scheme, N, K):
        raise UnsupportedError(
            "two planes of trits, which the scheme does not say. Take one that does, for instance "
            "w2x1.58a16-g64."
        )


def _stats(k: int) -> Stats:
    one_k = torch.ones(k)
    return Stats(k, torch.eye(k), 0 * one_k, one_k / k, one_k, -one_k, one_k, torch.eye(k))
