"""One tensor on its way to a file: which codes or floats it has, and their bytes in a format.

A weight is quantized once. What is packed keeps its codes and scale; floats are first asked whether
they already lie on a grid, and keep it; only float masters under a scheme that quantizes are
rounded, here and for the last time.

Shape letters: N rows, K columns, G groups of a row that share a scale.
"""

import math
from typing import NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from onebit import pack, quant
from onebit.errors import InputError, NotTernaryError
from onebit.io import StoredTensor, rope_rows
from onebit.models import stored_weight
from onebit.pack import Unpacked
from onebit.scheme import LinearScheme

Floats: TypeAlias = NDArray[np.float32]

FLOATS = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype(ml_dtypes.bfloat16)}
TERNARY = ("t1_6", "t2", "tq1_0", "tq2_0", "i2_s", "hf_2bit")

_ANY_TERNARY = LinearScheme("ternary", weight_scale="row")


class Encoded(NamedTuple):
    """A tensor's bytes, and its scale where the format stores it apart."""

    data: NDArray[np.generic]
    scale: Floats | None = None

    @property
    def size_bytes(self) -> int:
        return self.data.nbytes + (0 if self.scale is None else self.scale.nbytes)


def weights_of(
    tensor: StoredTensor, part: str, claim: LinearScheme, format: str
) -> Unpacked | Floats:
    """Return what is to be written of a tensor: codes and scale, or floats.

    Args:
        tensor: as it lies in the source.
        part: as in `export_plan.Planned`.
        claim: what the model's scheme says of it.
        format: that it is to be written in; a tensor that has it already stays as it is.

    Raises:
        NotTernaryError: the scheme quantizes it, and the file holds another rounding.
    """
    if tensor.format == format == "q8_0" and claim.weight == "fp":
        kept = stored_weight.unpacked(tensor)
        assert kept is not None
        return kept
    if part == "body" or claim.weight != "fp":
        return linear(tensor, claim)
    return stored_weight.values(tensor)


def linear(tensor: StoredTensor, claim: LinearScheme) -> Unpacked | Floats:
    """Return what a linear layer computes with: codes and scale if it is quantized, else floats.

    Args:
        tensor: a matrix (N, K).
        claim: what the model's scheme says of it. Under "fp", weights that are ternary all the same
            are found too.

    Raises:
        NotTernaryError: the scheme quantizes it, and the file holds another rounding.
        InputError: it is on a grid that is not the scheme's.
    """
    if claim.weight != "fp":
        found = stored_weight.codes(tensor, claim)
        return _unpacked(_quantized(tensor, claim) if found is None else found)
    ternary = stored_weight.find_codes(tensor, _ANY_TERNARY)
    return stored_weight.values(tensor) if ternary is None else _unpacked(ternary)


def _quantized(tensor: StoredTensor, claim: LinearScheme) -> quant.Codes:
    """Round masters, once."""
    w = torch.from_numpy(stored_weight.values(tensor))
    if quant.grid.of_scheme(w, _ANY_TERNARY) is not None:
        raise InputError(
            f"{tensor.name}: already on a ternary grid, and not on the scheme's ({claim.weight}, "
            f"one scale per {claim.weight_scale}). Rounding again would shrink the scale: correct "
            "the scheme, or export from the masters."
        )
    return quant.quantize_weight(w, claim)


def is_ternary(weights: Unpacked) -> bool:
    """Whether all codes are -1, 0 or +1 and stand for themselves times a scale."""
    codes_NK = weights.codes_NK
    return weights.minimum_NG is None and bool(codes_NK.min() >= -1 and codes_NK.max() <= 1)


def _unpacked(codes: quant.Codes) -> Unpacked:
    assert codes.zero_NG is None  # the schemes that a model trains under are symmetric
    return Unpacked(codes.codes_NK.numpy(), codes.scale_NG.numpy().astype(np.float32, copy=False))


def encode(
    name: str, weights: Unpacked | Floats, format: str, scale_shape: tuple[int, ...] | None = None
) -> Encoded:
    """Return the bytes of a tensor in `format`.

    Args:
        name: the tensor's, for errors.
        weights: from `linear`, or floats of any shape.
        format: one of FLOATS, TERNARY or "q8_0".
        scale_shape: of the scale that is stored beside the bytes, where the format wants one.

    Raises:
        NotTernaryError: the format is ternary and the weights are not.
        InputError: a value or scale does not fit the format.
        ShapeError: the shape or the number of scales does not.
    """
    if format in FLOATS:
        return Encoded(_cast(name, weights, format))
    if isinstance(weights, np.ndarray) and format == "q8_0":
        weights = _q8_0(name, weights)
    if isinstance(weights, np.ndarray) or (format in TERNARY and not is_ternary(weights)):
        raise _not_ternary(name, weights, format)
    with stored_weight.named(name):
        data = pack.FORMATS[format].pack(weights)
    if scale_shape is None:
        return Encoded(data)
    return Encoded(data, _fitted_scale(name, weights.scale_NG, scale_shape))


def _cast(name: str, weights: Unpacked | Floats, format: str) -> NDArray[np.generic]:
    w = weights if isinstance(weights, np.ndarray) else weights.values()
    with np.errstate(over="ignore"):
        cast: NDArray[np.generic] = w.astype(FLOATS[format])
    if format == "f16" and np.isinf(cast).any() and np.isfinite(w).all():
        raise InputError(
            f"{name}: holds {np.abs(w).max():g}, and f16 ends at 65504. Choose f32 or bf16."
        )
    return cast


def _q8_0(name: str, w_NK: Floats) -> Unpacked:
    weights = _unpacked(quant.blockwise.q8_0(torch.from_numpy(w_NK)))
    if not np.isfinite(weights.scale_NG).all():
        raise InputError(
            f"{name}: holds {np.abs(w_NK).max():g}, and q8_0, whose scales are float16, ends at "
            f"{65504 * 127:g}. Choose f32 or bf16."
        )
    return weights


def scale_shape(tensor: StoredTensor, claim: LinearScheme) -> tuple[int, ...]:
    """Return the shape that the scale of a tensor takes on its own: (1,), (N,) or (N, G).

    Known from the scheme for masters; else from the scales that are there.
    """
    N, K = tensor.shape
    if tensor.format not in pack.FORMATS and claim.weight != "fp":
        if claim.weight_scale == "tensor":
            return (1,)
        return (N, K // claim.group) if claim.group else (N,)
    weights = linear(tensor, claim)
    if isinstance(weights, np.ndarray):
        return (1,)  # not ternary: `encode` refuses it
    scale_NG = weights.scale_NG
    if (scale_NG == scale_NG[0, 0]).all():
        return (1,)
    return (N,) if (scale_NG == scale_NG[:, :1]).all() else scale_NG.shape


def _fitted_scale(name: str, scale_NG: Floats, shape: tuple[int, ...]) -> Floats:
    """Return a scale in the shape that was planned for it.

    Raises:
        InputError: it changes more often than that.
    """
    N, G = scale_NG.shape
    groups = shape[1] if len(shape) == 2 else 1
    finest = np.repeat(scale_NG, math.lcm(G, groups) // G, axis=1).reshape(N, groups, -1)
    fitted = finest[..., 0] if len(shape) == 2 or shape[0] == N else finest[:1, :, 0]
    if not (finest == fitted[..., None]).all():
        raise InputError(
            f"{name}: already on a grid, with more scales than its scheme says. "
            "`onebit verify` shows them; correct the scheme, or export from the masters."
        )
    return fitted.reshape(shape)


def _not_ternary(name: str, weights: Unpacked | Floats, format: str) -> NotTernaryError:
    w = weights if isinstance(weights, np.ndarray) else weights.values()
    return NotTernaryError(
        f"{name}: {np.unique(w).size:,} distinct values, and {format} holds -1, 0 and +1 times a "
        "scale. Train under a ternary scheme (`onebit train`), or export as q8_0, f16 or f32."
    )


def permuted(weights: Unpacked | Floats, heads: int) -> Unpacked | Floats:
    """Return rows of q or k, and their scales, in the order of GGUF's architecture "llama".

    Raises:
        ShapeError: the rows do not make `heads` heads of an even width.
    """
    if isinstance(weights, np.ndarray):
        return rope_rows.permute(weights, heads)
    minimum_NG = weights.minimum_NG
    return Unpacked(
        rope_rows.permute(weights.codes_NK, heads),
        rope_rows.permute(weights.scale_NG, heads),
        None if minimum_NG is None else rope_rows.permute(minimum_NG, heads),
    )
