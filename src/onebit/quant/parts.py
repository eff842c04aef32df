"""BitNet b1's group quantization: a matrix cut into parts, each rounded as a matrix of its own.

Then alpha and beta of a part need nothing of the others, which may live in other processes.

Source: BitNet, section 2.3 (Model parallelism with Group Quantization and Normalization),
    https://arxiv.org/abs/2310.11453
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from onebit.errors import ShapeError
from onebit.quant.codes import Codes
from onebit.scheme import LinearScheme


def cut(w_NK: Tensor, scheme: LinearScheme) -> tuple[Tensor, ...]:
    """Return the parts of a matrix: blocks of columns for split "in:G", of rows for "out:G".

    Raises:
        ShapeError: they would not be equally large.
    """
    axis = _axis(scheme)
    size, parts = w_NK.shape[axis], scheme.parts
    if size % parts:
        raise ShapeError(
            f"split: {size} {('rows', 'columns')[axis]} do not split into {parts} parts. "
            f"Choose a number of parts that divides {size}."
        )
    return torch.split(w_NK, size // parts, dim=axis)


def glue(parts: Sequence[Codes], scheme: LinearScheme) -> Codes:
    """Return the codes of a whole matrix from those of its parts; the inverse of `cut`.

    The scale is (N, G) with G equal-rowed columns for "in:G", and (N, 1) for "out:G".
    """
    axis = _axis(scheme)
    return Codes(
        torch.cat([part.codes_NK for part in parts], dim=axis),
        torch.cat([part.scale_NG for part in parts], dim=axis),
        _cat([part.zero_NG for part in parts], axis),
        _cat([part.minimum_NG for part in parts], axis),
    )


def _axis(scheme: LinearScheme) -> int:
    return 0 if scheme.split.startswith("out") else 1


def _cat(tensors: Sequence[Tensor | None], axis: int) -> Tensor | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(there, dim=axis) if there else None
