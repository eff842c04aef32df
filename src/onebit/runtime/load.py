"""From a checkpoint to the native decoder, one tensor at a time.

Codes stay the codes that the file holds: they are unpacked and laid out anew for the kernels, never
rounded. Float weights of a layer that the scheme quantizes are masters from training; rounding them
is `onebit export`'s business, so they are refused here, unless they already lie on a ternary grid
and no learned step says that they are still to be rounded.

Shape letters: N rows (out features), K columns (in features), G groups of a row that share a scale.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onebit import hadamard, pack
from onebit.architecture import Architecture
from onebit.errors import (
    FormatError,
    NotTernaryError,
    OnebitError,
    OptionError,
    ShapeError,
    UnsupportedError,
)
from onebit.io import mapped
from onebit.io.stored import Checkpoint, StoredTensor
from onebit.kernels import ops
from onebit.kernels.cpu import Decoder, Matrix
from onebit.pack import Unpacked
from onebit.scheme import KV_BITS, LinearScheme, Scheme, of_config
from onebit.tensors import LOWER_BOUNDS, Linear, check_spare, codes_shape, linears, norms, shapes

FLOATS = ("f32", "f16", "bf16")
BODIES = ("auto", "t2", "t1_6")
"""Ternary matrices in memory: 2 bits a weight, 1.6, or what is faster here. Results are equal."""
TRIT_LAYOUTS = ("t2", "t1_6", "b1")
"""Of codes -1, 0 and 1 in memory; what a scheme of `_TRITS` promises is in one of them."""
_TRITS = ("ternary", "ternary2", "binary")
PART_COLUMNS = 32
"""Of columns that share a scale of the input, in a layer in parts: a multiple of this."""
SMALL_BODY_BYTES = 64 << 20
"""Of t2, up to which a body is not measured: about the last cache of a CPU."""


@dataclass(frozen=True)
class Loaded:
    """A decoder that is ready, and what its weights weigh in memory."""

    decoder: Decoder
    architecture: Architecture
    scheme: Scheme
    body: str
    """Layout of ternary matrices, "t2" or "t1_6", should there be any."""
    size_bytes: int
    """Of all matrices, as the kernels hold them."""
    token_bytes: int
    """Read to compute one token: every matrix once, of an embedding that is no head one row."""


def load(checkpoint: Checkpoint, body: str = "auto", input_bits: int = 16) -> Loaded:
    """Build the decoder that a checkpoint describes. Peak memory is one tensor over the model.

    Args:
        checkpoint: what to load.
        body: layout of ternary matrices in memory, one of `BODIES`.
        input_bits: of inputs that the scheme leaves floats, a key of `ops.FLOAT_INPUTS`.

    Raises:
        OptionError: `body` is none of them.
        MissingError: a tensor is not in the file.
        ShapeError: a tensor does not have the shape that the config asks for.
        FormatError: its bytes are damaged.
        NotTernaryError: its scheme says ternary or binary, and its codes are not.
        UnsupportedError: its format, or the model's type or scheme, is not one that runs; or the
            file holds more than its config describes.
    """
    architecture = Architecture.from_config(checkpoint.config)
    scheme = of_config(checkpoint.config)
    known = shapes(architecture, scheme)
    check_spare(checkpoint.path, architecture.model_type, checkpoint.names(), known)
    if scheme.kv_bits not in KV_BITS:
        raise UnsupportedError(
            f"scheme {scheme.name}: kv_bits is {scheme.kv_bits}, which trains and does not run; "
            f"the engine's cache has {', '.join(map(str, KV_BITS))}. Train with one of these."
        )
    decoder = Decoder(architecture.native() | {"q_bits": scheme.q_bits})
    size_bytes = token_bytes = 0
    all_linears = list(linears(architecture))
    layouts = _Body(body, sum(linear.N * linear.K for linear in all_linears))
    for linear in all_linears:
        how = scheme.linear(linear.name)
        matrix = _matrix(checkpoint, linear, how, scheme, layouts)
        inner = f"{linear.name}.rms_norm.weight"
        norm = _vector(checkpoint, inner, linear.K) if how.norm == "rms" else None
        bias = _vector(checkpoint, f"{linear.name}.bias", linear.N) if linear.bias else None
        inside = _inside(how, linear) | _static(checkpoint, linear, how)
        rule = ops.FLOAT_INPUTS[input_bits] if how.activation == "fp" else how.activation
        decoder.set_matrix(linear.name, matrix, rule, norm, bias, **inside)
        size_bytes += matrix.size_bytes
        lookup = linear.name == "model.embed_tokens" and not architecture.tie_word_embeddings
        token_bytes += matrix.size_bytes // linear.N if lookup else matrix.size_bytes
    for name, size in norms(architecture):
        decoder.set_norm(name, _vector(checkpoint, f"{name}.weight", size))
    for name, shape in known.items():
        if name.endswith(".temperature"):
            decoder.set_norm(name, _vector(checkpoint, name, shape[0]))
    if LOWER_BOUNDS in known:
        for layer, bound_d in enumerate(_lower_bounds(checkpoint, known[LOWER_BOUNDS])):
            decoder.set_norm(f"model.layers.{layer}.attn.lower_bound", bound_d)
    layouts.drop()
    decoder.finish()
    ops.settle_weights()
    return Loaded(decoder, architecture, scheme, layouts.layout, size_bytes, token_bytes)


def ternary_grid(w_NK: NDArray[np.float32], how: LinearScheme) -> Unpacked | None:
    """Return codes and scale of float weights that already are code * scale, or None.

    Exact: every weight is 0 or of the one magnitude of its share; none is rounded. What shares a
    scale is the tensor, a row, a group, or a part of a split layer. Binary weights have no 0: one
    that is 0 is a master.
    """
    N, K = w_NK.shape
    kind, _, _ = how.split.partition(":")
    R = {"none": 1, "in": 1, "out": how.parts}[kind] if how.weight_scale == "tensor" else N
    G = K // how.group if how.group else how.parts if kind == "in" else 1
    if N % R or G < 1 or K % G or (how.group and K % how.group):
        return None
    size_RnGk = np.abs(w_NK).reshape(R, N // R, G, K // G)
    scale_RG = size_RnGk.max(axis=(1, 3))
    if not ((size_RnGk == 0) | (size_RnGk == scale_RG[:, None, :, None])).all():
        return None
    if how.weight == "binary" and not w_NK.all():
        return None
    return Unpacked(np.sign(w_NK).astype(np.int8), np.repeat(scale_RG, N // R, axis=0))


def _inside(how: LinearScheme, linear: Linear) -> dict[str, Any]:
    """Return what a layer does to its input, besides what its norm's weights and its rule do.

    Raises:
        ShapeError: its columns make no such parts as the kernels take.
    """
    inside: dict[str, Any] = {}
    if how.planes > 1:
        if linear.K % PART_COLUMNS:
            raise ShapeError(
                f"{linear.name}: {linear.K} columns in two planes of trits; the kernels take a "
                f"multiple of {PART_COLUMNS} columns."
            )
        inside["planes"] = how.planes
    if how.hadamard != "none":
        inside["hadamard"] = hadamard.signs(how.signs, linear.K)
    if how.norm == "layer":
        inside["layer_norm"] = True
    if how.split.startswith("in:"):
        if linear.K % (how.parts * PART_COLUMNS):
            raise ShapeError(
                f"{linear.name}: {linear.K} columns in {how.parts} parts (split {how.split!r}); "
                f"the kernels take equal parts of a multiple of {PART_COLUMNS} columns. Train so."
            )
        inside["parts"] = how.parts
    return inside


def _static(checkpoint: Checkpoint, linear: Linear, how: LinearScheme) -> dict[str, Any]:
    """Return the factors of a static activation, which calibration has found.

    Raises:
        MissingError: they are not in the file.
        OptionError: nothing can be computed with them.
    """
    if not how.static:
        return {}
    scale = float(_vector(checkpoint, f"{linear.name}.input_scale", 1)[0])
    zero = _vector(checkpoint, f"{linear.name}.input_zero", 1)[0] if how.static_zero else 0.0
    ops.check_static(linear.name, how.activation, scale, zero)
    return {"input_scale": scale, "input_zero": int(zero)}


def _matrix(
    checkpoint: Checkpoint, linear: Linear, how: LinearScheme, scheme: Scheme, layouts: "_Body"
) -> Matrix:
    stored = checkpoint.tensor(f"{linear.name}.weight")
    floats = stored.format not in pack.FORMATS
    _check_shape(stored, (linear.N, linear.K) if floats else codes_shape(how, *linear[1:3]))
    try:
        learned = how.learned and f"{linear.name}.step" in checkpoint.names()
        matrix = _repack(stored, how, layouts.layout_of(stored), learned)
        if how.weight in _TRITS and matrix.layout not in TRIT_LAYOUTS:
            raise NotTernaryError(
                f"stored as {stored.format}, and its codes are not {how.weight}, as scheme "
                f"{scheme.name} says. `onebit verify` shows them."
            )
    except _Masters:
        raise UnsupportedError(
            f"{checkpoint.path} holds float masters of scheme {scheme.name} "
            f"({stored.name}); run `onebit export {checkpoint.path} -o model.gguf` first."
        ) from None
    except OnebitError as error:
        raise type(error)(f"{stored.name}: {error}") from error
    mapped.drop(stored.data)
    layouts.drop()
    return matrix


class _Masters(Exception):
    """Float weights where the scheme has codes."""


def _repack(stored: StoredTensor, how: LinearScheme, ternary: str, learned: bool) -> Matrix:
    """Bring what is stored into the kernels' order, codes as codes and floats as floats.

    `learned`: whether the file holds a step to round it with, which only masters need.
    """
    if stored.format not in (*FLOATS, *pack.FORMATS):
        raise UnsupportedError(
            f"stored as {stored.format}; a weight matrix that runs is one of "
            f"{', '.join((*FLOATS, *pack.FORMATS))}."
        )
    if stored.format in pack.FORMATS or how.weight == "fp":
        return ops.repack_stored(
            stored.format,
            stored.data,
            stored.shape,
            stored.scale,
            ternary,
            stored.minimum,
            stored.zero,
        )
    w_NK = pack.decode(stored.format, stored.data, stored.shape)
    on_grid = None if learned or how.planes > 1 else ternary_grid(w_NK, how)
    if on_grid is None:
        raise _Masters
    whole_rows = ternary == "t1_6" and on_grid.scale_NG.shape[1] == 1
    return ops.repack(on_grid, ternary if whole_rows and not on_grid.codes_NK.all() else None)


class _Body:
    """Chooses the layout of ternary matrices, once the first of them is met."""

    def __init__(self, body: str, weights: int) -> None:
        if body not in BODIES:
            raise OptionError(f"body is {body!r:.80}; accepted: {', '.join(BODIES)}.")
        self._measure = body == "auto" and weights // 4 > SMALL_BODY_BYTES
        self.layout = "t2" if body == "auto" else body
        self._file = np.zeros(0, np.uint8)

    def layout_of(self, stored: StoredTensor) -> str:
        """Return "t2" or "t1_6", by a measurement on the bytes of the file where one is due."""
        file = mapped.whole(stored.data)
        if file.size > self._file.size:  # a tensor that had to be copied is no file
            self._file = file
            mapped.read_ahead(file)
        form = pack.FORMATS.get(stored.format)
        if self._measure and form is not None and form.codes[0] == -1:
            self.layout = ops.faster_ternary(self._file)
            self._measure = False
        return self.layout

    def drop(self) -> None:
        """Give back what has been paged in of the file, with what the system added around it."""
        mapped.drop(self._file)


def _lower_bounds(checkpoint: Checkpoint, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return what the forget gates of each layer stay above, (L, d); 0 in the first.

    Source: HGRN, on lower bounds of forget gates, https://arxiv.org/abs/2311.04823; the published
        MatMul-free code has no row of zeros before the softmax and takes the first layer's share
        off.
    """
    learned_Ld = _floats(checkpoint, LOWER_BOUNDS, shape)
    with np.errstate(over="ignore"):  # of large ones, of opposite signs: -inf, whose share is 0
        share_Ld = np.exp(learned_Ld - learned_Ld.max(axis=0))
    bound_Ld: NDArray[np.float32] = np.cumsum(share_Ld / share_Ld.sum(axis=0), axis=0)
    bound_Ld -= bound_Ld[0].copy()
    return bound_Ld


def _vector(checkpoint: Checkpoint, name: str, size: int) -> NDArray[np.float32]:
    return _floats(checkpoint, name, (size,))


def _floats(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    stored = checkpoint.tensor(name)
    _check_shape(stored, shape)
    if stored.format not in FLOATS:
        raise UnsupportedError(
            f"{name} is stored as {stored.format}; accepted: {', '.join(FLOATS)}."
        )
    values = pack.decode(stored.format, stored.data, stored.shape)
    if not np.isfinite(values).all() or (name.endswith(".temperature") and not values.all()):
        raise FormatError(
            f"{checkpoint.path}: {name} holds a value that nothing can be computed with. "
            "The run that made it failed, or the file is damaged."
        )
    return values


def _check_shape(stored: StoredTensor, shape: tuple[int, ...]) -> None:
    if tuple(stored.shape) != shape:
        raise ShapeError(
            f"{stored.name} has shape {tuple(stored.shape)}; its config asks for {shape}. "
            "The file and its config do not belong together."
        )
