"""How many bytes a linear layer takes in a file, before it is written.

As `models.export` writes them: codes densely in the format of their bits, a scale as float16 (one
for a whole matrix as float32), a zero-point in as many bits as a code, each row of zero-points
filled to whole bytes.
"""

from onebit import pack
from onebit.errors import OptionError
from onebit.ptq.plan import FLOAT, KEEP, Held
from onebit.scheme import LinearScheme
from onebit.tensors import codes_shape


def size_bytes(held: Held, N: int, K: int) -> int:
    """Return the bytes of N rows of K columns, factors counted.

    Raises:
        OptionError: the layer is kept; then its file says.
        ShapeError: the format or the groups do not fit K columns.
    """
    if held.format == KEEP:
        raise OptionError("size: a layer that is kept has the size that it has in its file.")
    if held.format == FLOAT or (not held.format and held.scheme.weight == "fp"):
        return 2 * N * K
    if held.format:
        return pack.find(held.format).size_bytes(N, K)
    return codes_bytes(held.scheme, N, K) + factors_bytes(held.scheme, N, K)


def codes_bytes(scheme: LinearScheme, N: int, K: int) -> int:
    """Return the bytes of the codes alone."""
    return pack.FORMATS[pack.USUAL[scheme.weight]].size_bytes(*codes_shape(scheme, N, K))


def factors_bytes(scheme: LinearScheme, N: int, K: int) -> int:
    """Return the bytes of scales and zero-points."""
    if scheme.weight_scale == "tensor":
        rows, groups = 1, 1
    else:
        rows, groups = N, K // (scheme.group or K)
    groups *= scheme.planes
    scale = 4 if rows * groups == 1 else 2 * rows * groups
    if scheme.weight_rule != "zero_point":
        return scale
    return scale + pack.FORMATS[pack.USUAL[scheme.weight]].size_bytes(rows, groups)
