"""One tensor on its way to a file: which codes or floats it has, and their bytes in a format.

A weight is quantized once. What is packed keeps its codes and scale; floats are first asked whether
they already lie on a grid, and keep it; only float masters under a scheme that quantizes are rounded,
here and for the last time.

Shape letters: N rows, K columns, G groups of a row that share a scale.
"""

from dataclasses import replace
from typing import NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from onebit import pack, quant
from onebit.errors import InputError, NotTernaryError, OnebitError
from onebit.io import StoredTensor
from onebit.pack import Unpacked
from onebit.scheme import LinearScheme

Floats: TypeAlias = NDArray[np.float32]

FLOATS = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype(ml_dtypes.bfloat16)}
TERNARY = ("t1_6", "t2", "tq1_0", "tq2_0", "i2_s", "hf_2bit")

_Q8_0 = LinearScheme("int8", weight_rule="absmax", weight_scale="group:32")
_LEAST_HALF = 2.0**-25  # a float16 below this is 0


class Encoded(NamedTuple):
    """A tensor's bytes, and its scale where the format stores it apart."""

    data: NDArray[np.generic]
    scale: NDArray[np.float32] | None = None


def values(tensor: StoredTensor) -> Floats:
    """Return a stored tensor as float32, of its own shape."""
    if tensor.format == "f64":
        return tensor.data.view("<f8").astype(np.float32).reshape(tensor.shape)
    return pack.decode(tensor.format, tensor.data, tensor.shape, tensor.scale)


def linear(tensor: StoredTensor, claim: LinearScheme) -> Unpacked | Floats:
    """Return what a linear layer computes with: codes and scale if it is quantized, else floats.

    Args:
        tensor: a matrix (N, K).
        claim: what the model's scheme says of it.
    """
    if tensor.format in pack.FORMATS:
        unpacked = pack.FORMATS[tensor.format].unpack(tensor.data, _matrix(tensor), tensor.scale)
        if is_ternary(unpacked):
            return unpacked
    w_NK = values(tensor)
    found = _on_grid(w_NK, claim)
    if found is not None:
        return found
    if claim.weight == "fp" or tensor.format in pack.FORMATS:
        return w_NK  # what another format rounded is no master: rounding it again would be twice
    return _unpacked(quant.quantize_weight(torch.from_numpy(w_NK), claim))


def is_ternary(weights: Unpacked) -> bool:
    """Whether all codes are -1, 0 or +1 and stand for themselves times a scale."""
    codes_NK = weights.codes_NK
    return weights.minimum_NG is None and bool(codes_NK.min() >= -1 and codes_NK.max() <= 1)


def _matrix(tensor: StoredTensor) -> tuple[int, int]:
    N, K = tensor.shape
    return N, K


def _on_grid(w_NK: Floats, claim: LinearScheme) -> Unpacked | None:
    """Return the codes of weights that are ternary already, by tensor, row or the scheme's group."""
    w = torch.from_numpy(w_NK)
    K = w.shape[1]
    groups = [None, K, *([claim.group] if claim.group and K % claim.group == 0 else [])]
    for group in groups:
        if (codes := quant.on_grid(w, group)) is not None:
            return _unpacked(codes)
    return None


def _unpacked(codes: quant.Codes) -> Unpacked:
    assert codes.zero_NG is None  # the schemes that a model trains under are symmetric
    return Unpacked(codes.codes_NK.numpy(), codes.scale_NG.numpy().astype(np.float32, copy=False))


def encode(name: str, weights: Unpacked | Floats, format: str) -> Encoded:
    """Return the bytes of a tensor in `format`.

    Args:
        name: the tensor's, for errors.
        weights: from `linear`, or floats of any shape.
        format: one of FLOATS, TERNARY or "q8_0".

    Raises:
        NotTernaryError: the format is ternary and the weights are not.
        InputError: a value or scale does not fit the format.
        ShapeError: the shape or the number of scales does not.
    """
    if format in FLOATS:
        return Encoded(_cast(name, weights, format))
    if isinstance(weights, np.ndarray) and format == "q8_0":
        weights = _flushed(_unpacked(quant.quantize_weight(torch.from_numpy(weights), _Q8_0)))
    if isinstance(weights, np.ndarray) or (format in TERNARY and not is_ternary(weights)):
        raise _not_ternary(name, weights, format)
    try:
        data = pack.FORMATS[format].pack(weights)
    except OnebitError as error:
        raise type(error)(f"{name}: {error}") from error
    return Encoded(data, None if pack.FORMATS[format].scale_inside else _scale(weights.scale_NG))


def _cast(name: str, weights: Unpacked | Floats, format: str) -> NDArray[np.generic]:
    w = weights if isinstance(weights, np.ndarray) else weights.values()
    with np.errstate(over="ignore"):
        cast: NDArray[np.generic] = w.astype(FLOATS[format])
    if format == "f16" and np.isinf(cast).any() and np.isfinite(w).all():
        raise InputError(
            f"{name}: holds {np.abs(w).max():g}, and f16 ends at 65504. Choose f32 or bf16."
        )
    return cast


def _flushed(weights: Unpacked) -> Unpacked:
    """Make groups 0 whose scale is below the least float16, as ggml does."""
    tiny_NG = weights.scale_NG < _LEAST_HALF
    if not tiny_NG.any():
        return weights
    N, K = weights.codes_NK.shape
    codes_NGk = weights.codes_NK.reshape(N, tiny_NG.shape[1], -1) * ~tiny_NG[..., None]
    return Unpacked(codes_NGk.reshape(N, K), np.where(tiny_NG, np.float32(0), weights.scale_NG))


def _scale(scale_NG: Floats) -> Floats:
    """Return the scale in the fewest numbers: (1,), (N,) or (N, G)."""
    if (scale_NG == scale_NG[0, 0]).all():
        return scale_NG[0, :1].copy()
    return scale_NG[:, 0].copy() if scale_NG.shape[1] == 1 else scale_NG


def _not_ternary(name: str, weights: Unpacked | Floats, format: str) -> NotTernaryError:
    w = weights if isinstance(weights, np.ndarray) else weights.values()
    return NotTernaryError(
        f"{name}: {np.unique(w).size:,} distinct values, and {format} holds -1, 0 and +1 times a "
        "scale. Train under a ternary scheme (`onebit train`), or export as q8_0, f16 or f32."
    )


def permuted(weights: Unpacked | Floats, order_N: NDArray[np.intp]) -> Unpacked | Floats:
    """Return the weights with their rows, and the rows' scales, in another order."""
    if isinstance(weights, np.ndarray):
        return weights[order_N]
    minimum_NG = weights.minimum_NG
    return weights._replace(
        codes_NK=weights.codes_NK[order_N],
        scale_NG=weights.scale_NG[order_N],
        minimum_NG=None if minimum_NG is None else minimum_NG[order_N],
    )


def floats_of_claim(claim: LinearScheme) -> LinearScheme:
    """Return `claim` with its weights left float: for a layer that the format need not quantize."""
    return replace(claim, weight="fp")
