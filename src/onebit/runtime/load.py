"""From a checkpoint to the native decoder, one tensor at a time.

Codes stay the codes that the file holds: they are unpacked and laid out anew for the kernels, never
rounded. Float weights of a layer that the scheme quantizes are masters from training; rounding them
is `onebit export`'s business, so they are refused here, unless they already lie on a ternary grid.

Shape letters: N rows (out features), K columns (in features), G groups of a row that share a scale.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from onebit import pack
from onebit.architecture import Architecture
from onebit.errors import FormatError, OnebitError, ShapeError, UnsupportedError
from onebit.io.stored import Checkpoint, StoredTensor
from onebit.kernels import ops
from onebit.kernels.cpu import Decoder, Matrix
from onebit.pack import Unpacked
from onebit.scheme import LinearScheme, Scheme, of_config
from onebit.tensors import Linear, check_spare, linears, norms, shapes

FLOATS = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Loaded:
    """A decoder that is ready, and what its weights weigh in memory."""

    decoder: Decoder
    architecture: Architecture
    scheme: Scheme
    size_bytes: int
    """Of all matrices, as the kernels hold them."""
    token_bytes: int
    """Read to compute one token: every matrix once, of an embedding that is no head one row."""


def load(checkpoint: Checkpoint) -> Loaded:
    """Build the decoder that a checkpoint describes. Peak memory is one tensor over the model.

    Raises:
        MissingError: a tensor is not in the file.
        ShapeError: a tensor does not have the shape that the config asks for.
        FormatError: its bytes are damaged.
        UnsupportedError: its format, or the model's type or scheme, is not one that runs; or the
            file holds more than its config describes.
    """
    architecture = Architecture.from_config(checkpoint.config)
    scheme = of_config(checkpoint.config)
    known = shapes(architecture, scheme)
    check_spare(checkpoint.path, architecture.model_type, checkpoint.names(), known)
    decoder = Decoder(_native(architecture))
    size_bytes = token_bytes = 0
    for linear in linears(architecture):
        how = scheme.linear(linear.name)
        matrix = _matrix(checkpoint, linear, how, scheme)
        norm = _vector(checkpoint, f"{linear.name}.rms_norm.weight", linear.K) if how.norm else None
        bias = _vector(checkpoint, f"{linear.name}.bias", linear.N) if linear.bias else None
        decoder.set_matrix(linear.name, matrix, how.activation, norm, bias)
        size_bytes += matrix.size_bytes
        lookup = linear.name == "model.embed_tokens" and not architecture.tie_word_embeddings
        token_bytes += matrix.size_bytes // linear.N if lookup else matrix.size_bytes
    for name, size in norms(architecture):
        decoder.set_norm(name, _vector(checkpoint, f"{name}.weight", size))
    decoder.finish()
    return Loaded(decoder, architecture, scheme, size_bytes, token_bytes)


def ternary_grid(w_NK: NDArray[np.float32], how: LinearScheme) -> Unpacked | None:
    """Return codes and scale of float weights that already are code * scale, or None.

    Exact: every weight is 0 or of the one magnitude of its tensor, row or group; none is rounded.
    """
    N, K = w_NK.shape
    if how.group and K % how.group:
        return None
    G = K // how.group if how.group else 1
    w_NGk = w_NK.reshape(N, G, -1)
    size = np.abs(w_NGk).max(axis=2)
    scale_NG = np.full((N, 1), size.max()) if how.weight_scale == "tensor" else size
    if not ((w_NGk == 0) | (np.abs(w_NGk) == scale_NG[..., None])).all():
        return None
    return Unpacked(np.sign(w_NK).astype(np.int8), scale_NG)


def _native(architecture: Architecture) -> dict[str, object]:
    """Return the fields as the native decoder takes them: RoPE is frequencies, ready to use."""
    fields = asdict(architecture)
    for name in ("rope_theta", "rope_scaling"):
        del fields[name]
    return fields | {"inv_freq": architecture.inv_freq()}


def _matrix(checkpoint: Checkpoint, linear: Linear, how: LinearScheme, scheme: Scheme) -> Matrix:
    stored = checkpoint.tensor(f"{linear.name}.weight")
    _check_shape(stored, (linear.N, linear.K))
    try:
        weights = _weights(stored, how)
        return ops.repack(weights) if isinstance(weights, Unpacked) else ops.repack_floats(weights)
    except _Masters:
        raise UnsupportedError(
            f"{checkpoint.path} holds float masters of scheme {scheme.name} "
            f"({stored.name}); run `onebit export {checkpoint.path} -o model.gguf` first."
        ) from None
    except OnebitError as error:
        raise type(error)(f"{stored.name}: {error}") from error


class _Masters(Exception):
    """Float weights where the scheme has codes."""


def _weights(stored: StoredTensor, how: LinearScheme) -> Unpacked | NDArray[np.generic]:
    """Return what is stored, codes as codes and floats as floats, ready to repack."""
    if stored.format in pack.FORMATS:
        return pack.FORMATS[stored.format].unpack(stored.data, stored.shape, stored.scale)
    if stored.format not in FLOATS:
        raise UnsupportedError(
            f"stored as {stored.format}; a weight matrix that runs is one of "
            f"{', '.join((*FLOATS, *pack.FORMATS))}."
        )
    if how.weight == "fp":
        return _floats(stored)
    on_grid = ternary_grid(pack.decode(stored.format, stored.data, stored.shape), how)
    if on_grid is None:
        raise _Masters
    return on_grid


def _floats(stored: StoredTensor) -> NDArray[np.generic]:
    """Return float32 or float16 as they are, bfloat16 as its bits."""
    dtype = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[stored.format]
    size = int(np.prod(stored.shape)) * np.dtype(dtype).itemsize
    if stored.data.size != size:
        raise FormatError(
            f"{stored.shape} {stored.format} takes {size} bytes, and there are "
            f"{stored.data.size}. The file is damaged."
        )
    return np.ascontiguousarray(stored.data).view(dtype).reshape(stored.shape)


def _vector(checkpoint: Checkpoint, name: str, size: int) -> NDArray[np.float32]:
    stored = checkpoint.tensor(name)
    _check_shape(stored, (size,))
    if stored.format not in FLOATS:
        raise UnsupportedError(
            f"{name} is stored as {stored.format}; accepted: {', '.join(FLOATS)}."
        )
    return pack.decode(stored.format, stored.data, stored.shape)


def _check_shape(stored: StoredTensor, shape: tuple[int, ...]) -> None:
    if tuple(stored.shape) != shape:
        raise ShapeError(
            f"{stored.name} has shape {tuple(stored.shape)}; its config asks for {shape}. "
            "The file and its config do not belong together."
        )
