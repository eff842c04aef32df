"""Codes as a file will hold them.

Shape letters: N rows, K columns, G groups of a row.
"""

import math

import numpy as np
from torch import Tensor

from onebit import pack
from onebit.io import StoredTensor
from onebit.models import stored_weight
from onebit.pack import Unpacked
from onebit.ptq.plan import Held
from onebit.quant import Codes
from onebit.scheme import LinearScheme


def stored(name: str, q: Codes, held: Held) -> StoredTensor:
    """Return codes in the format of their layer, or the one that holds them in the fewest bits.

    Raises:
        OptionError: there is no such format.
        InputError, ShapeError: the codes or their factors do not fit it.
    """
    form = held.format or pack.USUAL[held.scheme.weight]
    N, K = q.codes_NK.shape
    scale_NG = q.scale_NG.numpy().astype(np.float32, copy=False)
    weights = Unpacked(q.codes_NK.numpy(), scale_NG, stored_weight.minimum(q))
    data = pack.find(form).pack(weights)
    if pack.FORMATS[form].scale_inside:
        return StoredTensor(name, form, (N, K), data)
    return StoredTensor(name, form, (N, K), data, weights.scale_NG, weights.minimum_NG)


def floats(name: str, values: Tensor, half: bool = False) -> StoredTensor:
    """Return float32 values as they are; with `half`, as float16 where all of them fit."""
    array = values.detach().float().contiguous().numpy()
    half = half and bool(np.abs(array).max() < 65504)
    data = array.astype("<f2") if half else array
    form = "f16" if half else "f32"
    return StoredTensor(name, form, array.shape, data.reshape(-1).view(np.uint8))


def size_bytes(tensor: StoredTensor) -> int:
    """Return the bytes of a tensor in a file, its factors as float16 and whole zero-points."""
    if tensor.scale is None:
        return tensor.data.nbytes
    groups = tensor.scale.size
    per_code = 8 * tensor.data.nbytes / math.prod(tensor.shape)
    zeros = 0 if tensor.minimum is None else math.ceil(per_code * groups / 8)
    return tensor.data.nbytes + (2 * groups if groups > 1 else 4) + zeros


def in_words(scheme: LinearScheme) -> str:
    """Return how a linear is held: "int3 zero_point group:64", "int4 absmax row, input int8"."""
    turned = ", turned" if scheme.hadamard != "none" else ""
    taken = "" if scheme.activation == "fp" else f", input {scheme.activation}"
    return f"{scheme.weight} {scheme.weight_rule} {scheme.weight_scale}{taken}{turned}"
