"""One tensor on its way to a file: which codes or floats it has, and their bytes in a format.

A weight is quantized once. What is packed keeps its codes and scale; floats are first asked whether
they already lie on a grid, and keep it; only float masters under a scheme that quantizes are
rounded, here and for the last time.

Shape letters: N rows, K columns, G groups of a row that share a scale.
"""

import math
from typing import NamedTuple, TypeAlias, TypeVar

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from onebit import pack, quant, tensors
from onebit.errors import InputError, MissingError, NotTernaryError
from onebit.io import Checkpoint, StoredTensor, rope_rows
from onebit.models import stored_weight
from onebit.nn import native_blocks
from onebit.pack import Unpacked
from onebit.scheme import LinearScheme

Floats: TypeAlias = NDArray[np.float32]
Factor = TypeVar("Factor", Floats, NDArray[np.int8])

FLOATS = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype(ml_dtypes.bfloat16)}
TERNARY = ("t1_6", "t2", "tq1_0", "tq2_0", "i2_s", "hf_2bit")
OURS = ("t1_6", "t2", "b1", *pack.INTEGERS)
"""Onebit's own, whose scale stands beside them; container.md says how."""
BLOCKS = tuple(quant.blockwise.FORMATS)
"""The formats of ggml that floats are rounded to."""
_OF_TERNARY = ("q8_0", "q5_0", "q4_0")
"""Those of them that hold ternary codes as they are."""
_PART = 1 << 22
"""Weights rounded at a time, so that temporaries stay small beside the tensor."""

_ANY_TERNARY = LinearScheme("ternary", weight_scale="row")


class Encoded(NamedTuple):
    """A tensor's bytes, and its scale and zero-points where the format stores them apart."""

    data: NDArray[np.generic]
    scale: NDArray[np.generic] | None = None
    zero: NDArray[np.uint8] | None = None
    """(R, B): rows of bytes of the tensor's own format."""

    @property
    def size_bytes(self) -> int:
        return sum(part.nbytes for part in self if part is not None)


def holding(claim: LinearScheme) -> tuple[str, ...]:
    """Return the formats that hold the codes of a quantized layer as they are, and give them back.

    Of ggml's blocks, those that hold ternary codes; floats are a grid that is found again where it
    has one magnitude.
    """
    if claim.planes > 1:
        return ("t1_6", "t2")
    if claim.weight not in ("ternary", "binary"):
        return pack.INTEGERS[pack.INTEGERS.index(pack.USUAL[claim.weight]) :]
    binary = ("b1",) if claim.weight == "binary" else ()
    floats = () if claim.learned else FLOATS  # a step that is not there would be asked for
    return (*binary, *TERNARY, *pack.INTEGERS, *_OF_TERNARY, *floats)


def step_of(
    checkpoint: Checkpoint, tensor: StoredTensor, claim: LinearScheme
) -> torch.Tensor | None:
    """Return the learned step that float masters are rounded with; None where nothing is learned.

    Codes that are packed have a scale, and a step beside them would say nothing.

    Raises:
        FormatError: its bytes are damaged.
    """
    name = f"{tensor.name.removesuffix('.weight')}.step"
    if not claim.learned or tensor.format in pack.FORMATS or name not in checkpoint.names():
        return None
    return torch.from_numpy(stored_weight.values(checkpoint.tensor(name)))


def kept(
    tensor: StoredTensor, claim: LinearScheme, format: str, heads: int | None
) -> Encoded | None:
    """Return the bytes of a tensor that has the format already, or None: it stays as it is.

    Args:
        tensor: as it lies in the source.
        claim: what the model's scheme says of it; what it quantizes has a way of its own.
        format: that it is to be written in.
        heads: of a matrix whose rows GGUF orders otherwise.

    Raises:
        FormatError: its bytes are damaged.
    """
    if tensor.format != format or format not in BLOCKS or claim.weight != "fp":
        return None
    stored_weight.unpacked(tensor)  # refuses what is damaged
    rows = np.asarray(tensor.data).reshape(tensor.shape[0], -1)
    return Encoded((rope_rows.permute(rows, heads) if heads else rows).reshape(-1))


def weights_of(
    tensor: StoredTensor, part: str, claim: LinearScheme, step: torch.Tensor | None = None
) -> Unpacked | Floats:
    """Return what is to be written of a tensor: codes and scale, or floats.

    Args:
        tensor: as it lies in the source.
        part: as in `export_plan.Planned`.
        claim: what the model's scheme says of it.
        step: from `step_of`.

    Raises:
        NotTernaryError: the scheme quantizes it, and the file holds another rounding.
    """
    if part == "body" or claim.weight != "fp":
        return linear(tensor, claim, step)
    return stored_weight.values(tensor)


def linear(
    tensor: StoredTensor, claim: LinearScheme, step: torch.Tensor | None = None
) -> Unpacked | Floats:
    """Return what a linear layer computes with: codes and scale if it is quantized, else floats.

    Args:
        tensor: a matrix (N, K).
        claim: what the model's scheme says of it. Under "fp", weights that are ternary all the same
            are found too.
        step: from `step_of`. Float weights with a step are masters, wherever they lie.

    Raises:
        NotTernaryError: the scheme quantizes it, and the file holds another rounding.
        InputError: it is on a grid that is not the scheme's, or masters are not finite.
        MissingError: they are masters whose step is learned, and it is not there.
    """
    if step is not None:
        return _unpacked(quant.quantize_weight(_masters(tensor), claim, step))
    if claim.weight != "fp":
        found = stored_weight.codes(tensor, claim)
        weights = _unpacked(_quantized(tensor, claim) if found is None else found)
        if stored_weight.has_zero_point(claim) and weights.minimum_NG is None:  # zeros, say
            weights = weights._replace(minimum_NG=np.zeros_like(weights.scale_NG))
        return weights
    ternary = stored_weight.find_codes(tensor, _ANY_TERNARY)
    return stored_weight.values(tensor) if ternary is None else _unpacked(ternary)


def _quantized(tensor: StoredTensor, claim: LinearScheme) -> quant.Codes:
    """Round masters, once."""
    w = _masters(tensor)
    if quant.grid.of_scheme(w, _ANY_TERNARY) is not None:
        raise InputError(
            f"{tensor.name}: already on a ternary grid, and not on the scheme's ({claim.weight}, "
            f"one scale per {claim.weight_scale}). Rounding again would shrink the scale: correct "
            "the scheme, or export from the masters."
        )
    if claim.learned:
        raise MissingError(
            f"{tensor.name}: float masters, and the step that weight_rule {claim.weight_rule!r} "
            "learns is not in the file. Export the folder that training wrote."
        )
    return quant.quantize_weight(w, claim)


def _masters(tensor: StoredTensor) -> torch.Tensor:
    """Return floats to be rounded. Not all rules' scales would show one that is not finite."""
    w = torch.from_numpy(stored_weight.values(tensor))
    if not bool(torch.isfinite(w).all()):
        raise InputError(
            f"{tensor.name}: holds weights that are not finite. The run that made them failed, or "
            "the file is damaged; export from an earlier checkpoint."
        )
    return w


def is_ternary(weights: Unpacked) -> bool:
    """Whether all codes are -1, 0 or +1 and stand for themselves times a scale."""
    codes_NK = weights.codes_NK
    return weights.minimum_NG is None and bool(codes_NK.min() >= -1 and codes_NK.max() <= 1)


def _unpacked(codes: quant.Codes) -> Unpacked:
    return Unpacked(
        codes.codes_NK.numpy(),
        codes.scale_NG.numpy().astype(np.float32, copy=False),
        stored_weight.minimum(codes),
    )


def encode(
    name: str,
    weights: Unpacked | Floats,
    format: str,
    scale_shape: tuple[int, ...] | None = None,
    scale_type: str = "f32",
) -> Encoded:
    """Return the bytes of a tensor in `format`.

    Args:
        name: the tensor's, for errors.
        weights: from `linear`, or floats of any shape.
        format: one of FLOATS, TERNARY, OURS or BLOCKS.
        scale_shape: of the scale that is stored beside the bytes, where the format wants one, and
            of the zero-points where the weights have them.
        scale_type: of that scale, from `scale_type`.

    Raises:
        NotTernaryError: the format is ternary and the weights are not.
        InputError: a value or scale does not fit the format.
        ShapeError: the shape or the number of scales does not.
    """
    if format in FLOATS:
        return Encoded(_cast(name, weights, format))
    if isinstance(weights, np.ndarray) and format in BLOCKS:
        weights = _rounded(name, weights, format)
    elif format in BLOCKS and format not in _OF_TERNARY:
        raise InputError(
            f"{name}: ternary, and {format} would only make it larger. Formats for it: "
            f"{', '.join((*TERNARY, *_OF_TERNARY, *FLOATS))}."
        )
    if isinstance(weights, np.ndarray) or (format in TERNARY and not is_ternary(weights)):
        raise _not_ternary(name, weights, format)
    with stored_weight.named(name):
        data = pack.FORMATS[format].pack(weights)
    if scale_shape is None:
        return Encoded(data)
    scale = _cast(name, _fitted(name, weights.scale_NG, scale_shape), scale_type)
    return Encoded(data, scale, _zero(name, weights, format, scale_shape))


def _zero(
    name: str, weights: Unpacked, format: str, shape: tuple[int, ...]
) -> NDArray[np.uint8] | None:
    """Return the zero-points as rows of bytes of the format, (R, B); None where there are none."""
    if weights.minimum_NG is None:
        return None
    arrays = (torch.from_numpy(array) for array in weights)
    codes_NK, scale_NG, minimum_NG = arrays
    q = quant.integer.zero_of_minimum(quant.Codes(codes_NK, scale_NG, minimum_NG=minimum_NG))
    assert q is not None  # as `linear` has found them
    assert q.zero_NG is not None
    zero_NG: NDArray[np.int8] = q.zero_NG.numpy()
    zero_RG = _fitted(name, zero_NG, shape).reshape(zero_rows(shape), -1)
    with stored_weight.named(f"{name}, zero-points"):
        data = pack.FORMATS[format].pack(Unpacked(zero_RG, np.ones((len(zero_RG), 1), np.float32)))
    return data.reshape(len(zero_RG), -1)


def zero_rows(scale_shape: tuple[int, ...]) -> int:
    """Return R, the rows of the zero-points beside a scale of this shape; 1 or N."""
    return scale_shape[0] if scale_shape else 1


def scale_type(tensor: StoredTensor, scale_shape: tuple[int, ...]) -> str:
    """Return the type of the scale beside a tensor: "f16" where packed ones are exactly that."""
    if tensor.scale is None or math.prod(scale_shape) == 1:
        return "f32"
    with np.errstate(over="ignore"):
        exact = (tensor.scale.astype(np.float16).astype(np.float32) == tensor.scale).all()
    return "f16" if exact else "f32"


def _cast(name: str, weights: Unpacked | Floats, format: str) -> NDArray[np.generic]:
    w = weights if isinstance(weights, np.ndarray) else weights.values()
    _check_finite(name, w)
    with np.errstate(over="ignore"):
        cast: NDArray[np.generic] = w.astype(FLOATS[format])
    if format == "f16" and np.isinf(cast).any():
        raise InputError(
            f"{name}: holds {np.abs(w).max():g}, and f16 ends at 65504. Choose f32 or bf16."
        )
    return cast


def _check_finite(name: str, w: Floats) -> None:
    if not np.isfinite(w).all():
        raise InputError(
            f"{name}: holds a number that is not finite, and no engine runs such a model. The run "
            "that made it failed, or the file is damaged; take an earlier checkpoint."
        )


def _rounded(name: str, w_NK: Floats, format: str) -> Unpacked:
    _check_finite(name, w_NK)
    quantize, part = native_blocks.FORMATS[format], max(1, _PART // w_NK.shape[1])
    parts = [
        _unpacked(quantize(torch.from_numpy(w_NK[first : first + part])))
        for first in range(0, len(w_NK), part)
    ]
    codes, scales, minima = zip(*parts, strict=True)
    minimum_NG = None if minima[0] is None else np.concatenate(minima)
    weights = Unpacked(np.concatenate(codes), np.concatenate(scales), minimum_NG)
    factors = [f for f in weights[1:] if f is not None]
    if not all(np.isfinite(f).all() for f in factors):
        raise InputError(
            f"{name}: holds {np.abs(w_NK).max():g}, and {format}, whose scales are float16, does "
            "not reach that far. Choose f32 or bf16."
        )
    return weights


def scale_shape(tensor: StoredTensor, claim: LinearScheme) -> tuple[int, ...]:
    """Return the shape that the scale of a tensor takes on its own: (1,), (N,), (1, G) or (N, G).

    Known from the scheme for masters; else from the scales that are there.
    """
    N, K = tensor.shape
    if tensor.format not in pack.FORMATS and claim.weight != "fp":
        return tensors.scale_shape(claim, N, K)
    weights = linear(tensor, claim)
    if isinstance(weights, np.ndarray):
        return (1,)  # not ternary: `encode` refuses it
    factors = [factor_NG for factor_NG in weights[1:] if factor_NG is not None]
    if all((factor_NG == factor_NG[0, 0]).all() for factor_NG in factors):
        return (1,)
    if all((factor_NG == factor_NG[:, :1]).all() for factor_NG in factors):
        return (N,)
    rows = 1 if all((factor_NG == factor_NG[:1]).all() for factor_NG in factors) else N
    return (rows, factors[0].shape[1])


def _fitted(name: str, factor_NG: Factor, shape: tuple[int, ...]) -> Factor:
    """Return scales or zero-points in the shape that was planned for them.

    Raises:
        InputError: it changes more often than that.
    """
    N, G = factor_NG.shape
    groups = shape[1] if len(shape) == 2 else 1
    finest = np.repeat(factor_NG, math.lcm(G, groups) // G, axis=1).reshape(N, groups, -1)
    fitted: Factor = finest[: shape[0], :, 0]
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
