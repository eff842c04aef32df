"""The one door to the native kernels: NumPy in, NumPy out, without torch.

Arguments are checked here, once; what a user can cause is an `OnebitError`. Weights are repacked at
load into the order in which a kernel reads them, and stay in memory only in that form:

    matrix = ops.repack(pack.FORMATS["tq2_0"].unpack(data, (N, K)))
    y_TN = ops.linear(matrix, x_TK, "int8_absmax")

The environment variable ONEBIT_ISA names an instruction set by hand ("scalar" is the reference);
it is read at every call, and results are the same bits under each.

Shape letters: N rows of weights (out features), K columns (in features), T tokens, G scale groups.
"""

import math
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onebit import pack
from onebit.errors import FormatError, InputError, OptionError, ShapeError, UnsupportedError
from onebit.kernels import cpu
from onebit.kernels.cpu import Matrix, TokenCodes
from onebit.pack.unpacked import Unpacked
from onebit.scheme import ACTIVATIONS, STATIC_ACTIVATIONS, LinearScheme

__all__ = [
    "ACTIVATIONS",
    "FLOAT_INPUTS",
    "LAYOUTS",
    "Matrix",
    "TokenCodes",
    "active_isa",
    "check_static",
    "default_threads",
    "dequantize_rows",
    "faster_ternary",
    "hadamard",
    "int_sums",
    "isas",
    "layer_norm",
    "layout_of",
    "linear",
    "quantize",
    "quantize_i8",
    "recurrence",
    "recurrence_backward",
    "repack",
    "repack_floats",
    "repack_stored",
    "rms_norm",
    "rms_norm_backward",
    "set_threads",
    "settle_weights",
    "ternarize",
    "threads",
]

LAYOUTS = ("b1", "t1_6", "t2", "i4", "i6", "i8")
"""Of codes, narrowest first: each holds what those before it hold."""

FLOAT_INPUTS = MappingProxyType({16: "fp", 8: "fp_int8"})
"""How codes meet inputs that a scheme leaves floats: bits of these, and the activation's name."""
MAX_COLUMNS = 131_071
"""Of codes: up to here, sums of products of two int8 numbers are exact in int32."""
MAX_THREADS = 1024


def isas() -> list[str]:
    """Return the instruction sets that run on this CPU and system, best first."""
    return cpu.isas()


def active_isa() -> str:
    """Return the instruction set in use: the one ONEBIT_ISA names, or the best.

    Raises:
        UnsupportedError: ONEBIT_ISA names one that does not run here.
    """
    try:
        return cpu.active_isa()
    except ValueError as error:
        raise UnsupportedError(str(error)) from None


def threads() -> int:
    """Return how many threads the kernels use."""
    return cpu.threads()


def default_threads() -> int:
    """Return how many they use where nobody says: the CPUs that this process may use."""
    return cpu.default_threads()


def set_threads(n: int) -> None:
    """Use `n` threads. Results do not depend on it.

    Raises:
        OptionError: `n` is not from 1 to 1024.
    """
    if not 1 <= n <= MAX_THREADS:
        raise OptionError(f"threads is {n}; it must be from 1 to {MAX_THREADS}.")
    cpu.set_threads(n)


def repack(weights: Unpacked, layout: str | None = None) -> Matrix:
    """Bring codes into the order of the kernels, in the narrowest layout that holds them.

    That is "b1" for codes -1 and 1, "t2" for -1..1, "i4" and "i6" for ranges of 16 and 64
    values, else "i8".

    Args:
        weights: codes (N, K) with a scale for each group of columns. A group is a whole row, or a
            multiple of 16 columns; groups that all have their row's scale count as one.
        layout: one of `LAYOUTS` by name. "t1_6" holds ternary codes with one scale a row in fewer
            bytes than "t2", and takes more instructions to read.

    Raises:
        ShapeError: a dimension is empty or too wide, or the groups do not fit the kernels.
        OptionError: the layout is unknown, or does not hold the codes.
    """
    codes_NK = weights.codes_NK
    if layout is not None and layout not in LAYOUTS:
        raise OptionError(f"repack: layout is {layout!r}; accepted: {', '.join(LAYOUTS)}.")
    if codes_NK.ndim != 2 or 0 in codes_NK.shape or codes_NK.dtype != np.int8:
        raise ShapeError(
            f"repack: codes are {codes_NK.dtype} {codes_NK.shape}; expected int8 (N, K)."
        )
    _check_width(codes_NK.shape[1])
    scale_NG, minimum_NG = _groups(codes_NK.shape, weights.scale_NG, weights.minimum_NG)
    G = scale_NG.shape[1]
    if layout == "t1_6" and G > 1:
        raise ShapeError(f"repack: {G} scales a row in layout t1_6, which holds one. Take t2.")
    narrowest = layout_of(codes_NK, codes_NK.shape[1] // G if G > 1 else None)
    holds = LAYOUTS[LAYOUTS.index("t1_6" if narrowest == "t2" else narrowest) :]
    if layout is not None and layout not in holds:
        raise OptionError(
            f"repack: layout {layout} does not hold these codes; accepted: {', '.join(holds)}."
        )
    return Matrix.from_codes(
        layout or narrowest,
        np.ascontiguousarray(codes_NK),
        _plain(scale_NG, np.float32),
        None if minimum_NG is None else _plain(minimum_NG, np.float32),
    )


def repack_floats(values_NK: NDArray[Any]) -> Matrix:
    """Bring float weights into the order of the kernels, as precise as they are.

    Args:
        values_NK: float32, float16, or bfloat16 (the `ml_dtypes` type, or its bits as uint16).

    Raises:
        ShapeError: the array is not (N, K), or is empty.
        OptionError: its type is not one of those above.
    """
    if values_NK.ndim != 2 or 0 in values_NK.shape:
        raise ShapeError(f"repack: the weights have shape {values_NK.shape}; expected (N, K).")
    if values_NK.dtype.name == "bfloat16":
        values_NK = values_NK.view(np.uint16)
    if values_NK.dtype not in (np.float32, np.float16, np.uint16):
        raise OptionError(
            f"repack: weights are {values_NK.dtype}; accepted: float32, float16, bfloat16. "
            "Cast them."
        )
    return Matrix.from_floats(_plain(values_NK))


def layout_of(codes_NK: NDArray[np.int8], group: int | None = None) -> str:
    """Return the narrowest layout that holds the codes: "b1", "t2", "i4", "i6" or "i8".

    Args:
        codes_NK: the codes of a matrix.
        group: columns that share a scale, None for a whole row. b1 needs a multiple of 32.
    """
    low, high = int(codes_NK.min()), int(codes_NK.max())
    if low >= -1 and high <= 1:
        binary = (group or 32) % 32 == 0 and bool(codes_NK.all())
        return "b1" if binary else "t2"
    return "i4" if high - low < 16 else "i6" if high - low < 64 else "i8"


def repack_stored(
    format: str,
    data: NDArray[np.uint8],
    shape: tuple[int, ...],
    scale: ArrayLike | None = None,
    ternary: str = "t2",
    minimum: ArrayLike | None = None,
    zero: NDArray[np.uint8] | None = None,
) -> Matrix:
    """Bring weights from the bytes of a file into the order of the kernels.

    The same as `repack(pack.FORMATS[format].unpack(data, shape, scale))`, in parallel and without
    the codes ever standing in memory. Floats are taken too: "f32", "f16" and "bf16". Zero-points
    are taken off the codes where that takes no more bytes than to add a minimum.

    Args:
        format, data, shape, scale, minimum, zero: as for `pack.decode`.
        ternary: the layout of codes -1, 0 and 1: "t2", or "t1_6" for those matrices that have one
            scale a row.

    Raises:
        OptionError: the format or the layout is unknown.
        ShapeError, FormatError, InputError: as `Format.unpack` and `repack`.
    """
    if ternary not in ("t2", "t1_6"):
        raise OptionError(f"repack_stored: ternary is {ternary!r}; accepted: t2, t1_6.")
    if format in _FLOATS:
        if scale is not None:
            raise InputError(f"{format}: floats take no scale, and one was given. Pass None.")
        return repack_floats(_floats(format, data, shape))
    form = pack.find(format)
    N, K, scale_NG = form.check(data, shape, scale)
    _check_width(K)
    minimum_NG = form.minimum_beside(scale_NG, K, minimum, zero)
    data = np.ascontiguousarray(data)
    if form.scale_inside:
        matrix = Matrix.from_stored(format, data, N, K, ternary=ternary)
    else:
        scale_NG, minimum_NG = _groups((N, K), scale_NG, minimum_NG)
        beside: tuple[NDArray[Any] | None, ...] = ()
        if minimum_NG is not None:
            beside = (_plain(minimum_NG, np.float32), _zero_of(scale_NG, minimum_NG))
        scale_NG = _plain(scale_NG, np.float32)
        matrix = Matrix.from_stored(format, data, N, K, scale_NG, ternary, *beside)
    if matrix is None:
        form.unpack(data, shape, scale)  # says what is damaged, and where
        raise FormatError(f"{format}: the bytes mean nothing. The file is damaged.")
    return matrix


def _zero_of(
    scale_NG: NDArray[np.float32], minimum_NG: NDArray[np.float32]
) -> NDArray[np.int8] | None:
    """Return the zero-points for which the minimum is -zero * scale to the bit, or None."""
    with np.errstate(all="ignore"):
        zero_NG = np.rint(-minimum_NG / np.where(scale_NG == 0, np.float32(1), scale_NG))
        whole = (np.abs(zero_NG) <= 127).all() and (-zero_NG * scale_NG == minimum_NG).all()
    return np.ascontiguousarray(zero_NG.astype(np.int8)) if whole else None


def faster_ternary(data: NDArray[np.uint8]) -> str:
    """Return the layout in which ternary weights are multiplied faster here, "t2" or "t1_6".

    Measured in some milliseconds, with the threads in use. Results do not depend on the layout.

    Args:
        data: any bytes that are in memory but not in a cache, for instance of a file that is being
            loaded; 64 MB are enough, and with fewer the answer is "t2".
    """
    active_isa()
    return cpu.faster_ternary(np.ascontiguousarray(data))


def settle_weights() -> None:
    """Have the system move the matrices so far to large pages, which are read faster.

    It takes about a second of one CPU, in the background, and begins when the first token that
    follows is likely to be out. Small models are left where they are.
    """
    cpu.settle_weights(_SETTLE_DELAY_S)


_SETTLE_DELAY_S = 0.25

_FLOATS = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}


def _floats(format: str, data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return float32 or float16 as they are, bfloat16 as its bits."""
    size = math.prod(shape) * np.dtype(_FLOATS[format]).itemsize
    if data.size != size:
        raise FormatError(
            f"{format}: weights of shape {tuple(shape)} take {size} bytes, and there are "
            f"{data.size}. The file is damaged."
        )
    return np.ascontiguousarray(data).view(_FLOATS[format]).reshape(shape)


def _check_width(K: int) -> None:
    if K > MAX_COLUMNS:
        raise ShapeError(
            f"repack: {K} columns of codes; at most {MAX_COLUMNS} keep sums exact. "
            "Split the matrix."
        )


def _groups(
    shape: tuple[int, int], scale_NG: NDArray[np.float32], minimum_NG: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return the scale and minimum, checked, and of one group where a row's groups are the same."""
    N, K = shape
    factors = [scale_NG] if minimum_NG is None else [scale_NG, minimum_NG]
    G = scale_NG.shape[-1] if scale_NG.ndim == 2 else 0
    if not G or K % G or any(f.shape != (N, G) for f in factors):
        raise ShapeError(
            f"repack: scales of shape {[f.shape for f in factors]} for codes ({N}, {K}); "
            "expected (N, G) with G dividing K."
        )
    if G > 1 and all((f == f[:, :1]).all() for f in factors):
        factors = [f[:, :1] for f in factors]
    elif G > 1 and K // G % 16:
        raise ShapeError(
            f"repack: groups of {K // G} columns; the kernels need a multiple of 16, or one scale "
            "a row. Quantize with such a group."
        )
    return factors[0], factors[1] if len(factors) > 1 else None


def quantize_i8(
    x_TK: NDArray[np.float32], block: int = 0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round activations to int8 by their largest magnitude.

    Args:
        x_TK: activations, float32.
        block: columns that share a scale; 0 for the whole row. The last block may be shorter.

    Returns:
        codes (T, K) and scale (T, B), for which code * scale approximates x. The scale of a block
        with a NaN or an infinity is NaN.

    Raises:
        ShapeError: `x_TK` is not (T, K), or K is 0.
        OptionError: `block` is negative.
    """
    if block < 0:
        raise OptionError(f"quantize_i8: block is {block}; give columns, or 0 for the whole row.")
    active_isa()
    return cpu.quantize_i8(_matrix("quantize_i8", x_TK), block)


def quantize(
    x_TK: NDArray[np.float32],
    activation: str,
    parts: int = 1,
    static: tuple[float, int] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32] | None]:
    """Round activations by a rule, per token; the same integers as `quant.activation.quantize`.

    Args:
        x_TK: activations, float32.
        activation: one of `ACTIVATIONS` but "fp", or "dynamic:R".
        parts: columns of a row are rounded in that many equal parts, each by itself.
        static: scale and zero-point of a rule in `STATIC_ACTIVATIONS`.

    Returns:
        codes (T, K), scale (T, parts), and the minimum (T, parts) of a rule that has one, else
        None: code * scale + minimum approximates x. The scale of a part with a NaN or an infinity
        is NaN.

    Raises:
        ShapeError: `x_TK` is not (T, K), K is 0, or the parts are not equal.
        OptionError: the activation is unknown, or rounds nothing.
    """
    _check_activation("quantize", activation, parts, static)
    if activation in FLOAT_INPUTS.values():
        raise OptionError(f"quantize: activation {activation} rounds nothing; take another.")
    x_TK = _matrix("quantize", x_TK)
    _check_parts("quantize", x_TK.shape[1], parts)
    active_isa()
    return cpu.quantize(x_TK, activation, parts, *(static or ()))


def layer_norm(x_TK: NDArray[np.float32], eps: float, parts: int = 1) -> NDArray[np.float32]:
    """Return (x - mean) / sqrt(variance + eps) of each row, or of each of its equal parts.

    Raises:
        ShapeError: `x_TK` is not (T, K), K is 0, or the parts are not equal.
    """
    x_TK = _matrix("layer_norm", x_TK)
    _check_parts("layer_norm", x_TK.shape[1], parts)
    active_isa()
    return cpu.layer_norm(x_TK, eps, parts)


def int_sums(matrix: Matrix, x_TK: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return the sums over k of code * x, (T, N), exact; scales are not applied.

    Raises:
        ShapeError: the input's columns are not the matrix's.
        OptionError: the matrix holds floats, or the input is not int8.
    """
    if matrix.layout not in LAYOUTS:
        raise OptionError(f"int_sums: the matrix is {matrix.layout}; it must hold codes.")
    if x_TK.dtype != np.int8:
        raise OptionError(f"int_sums: the input is {x_TK.dtype}; it must be int8.")
    active_isa()
    _check_columns("int_sums", matrix, x_TK)
    return cpu.int_sums(matrix, np.ascontiguousarray(x_TK))


def linear(
    matrix: Matrix,
    x_TK: NDArray[np.float32],
    activation: str = "fp",
    parts: int = 1,
    static: tuple[float, int] | None = None,
    planes: int = 1,
) -> NDArray[np.float32]:
    """Return x * W^T, (T, N) float32.

    Args:
        matrix: from `repack` or `repack_floats`.
        x_TK: activations, float32.
        activation: one of `ACTIVATIONS`, or "dynamic:R"; each token is rounded for itself, but by
            "int8_absmax_tensor". With "fp" floats meet floats, and codes meet the sum of two int8
            terms in blocks of 32, which is off by 1/64,516 of a block's largest magnitude; with
            "fp_int8" the first term alone.
        parts: the columns' parts that are rounded each by itself (a scheme's `split` "in:G").
        static: scale and zero-point of a rule in `STATIC_ACTIVATIONS`.
        planes: of trits, side by side in the matrix, which has as many times the input's columns.

    Raises:
        ShapeError: the input's columns are not the matrix's, or make no such parts.
        OptionError: the activation is unknown.
    """
    _check_activation("linear", activation, parts, static)
    active_isa()
    x_TK = _matrix("linear", x_TK)
    _check_columns("linear", matrix, x_TK, planes)
    _check_parts("linear", x_TK.shape[1], parts)
    if parts > 1 and x_TK.shape[1] // parts % 32:
        raise ShapeError(
            f"linear: parts of {x_TK.shape[1] // parts} columns; the kernels need a multiple of 32."
        )
    scale, zero = static or (0.0, 0)
    return cpu.linear(matrix, x_TK, activation, parts, scale, zero, planes)


def hadamard(
    x_TK: NDArray[np.float32],
    signs: NDArray[np.float32] | None = None,
    transpose: bool = False,
) -> NDArray[np.float32]:
    """Return each row turned by the orthonormal Hadamard matrix of its size: H diag(signs) x.

    The matrix is a Kronecker product of matrices of orders 12, 20, 28, 36, ... and a power of two.
    Where K is no such product (odd, 2 * odd, ...), it is block-diagonal, with blocks of
    the largest power of two that divides K. `onebit.hadamard` says which, and
    `reference.hadamard_matrix` returns it.

    Args:
        x_TK: float32.
        signs: (K,) of 1 and -1; None for ones.
        transpose: return diag(signs) H^T x instead: the inverse, and the way of gradients.

    Raises:
        ShapeError: `x_TK` is not (T, K), K is 0, or there are not K signs.
        InputError: a sign is neither 1 nor -1.
    """
    active_isa()
    x_TK = _matrix("hadamard", x_TK)
    if signs is not None:
        if signs.shape != x_TK.shape[1:]:
            raise ShapeError(
                f"hadamard: {signs.shape} signs for {x_TK.shape[1]} columns; give one for each."
            )
        if not (np.abs(signs) == 1).all():
            raise InputError("hadamard: a sign is neither 1 nor -1.")
        signs = _plain(signs, np.float32)
    return cpu.hadamard(x_TK, signs, transpose)


# --- training: of `nn`, which gives arrays that fit; what they hold is written into them


def ternarize(
    w_NK: NDArray[np.float32],
    scale: NDArray[np.float32],
    codes_NK: NDArray[np.int8],
    threads: int,
) -> Matrix:
    """Round weights to ternary codes and lay them out for `TokenCodes.product`.

    Args:
        w_NK: float weights.
        scale: one number, or one for each row; codes are round(w * (1 / scale)) within -1 ... 1.
        codes_NK: takes the codes.
        threads: to use at most.
    """
    return cpu.ternarize(w_NK, scale, codes_NK, threads)


def dequantize_rows(
    codes: NDArray[np.int8], scale: NDArray[np.float32], y: NDArray[Any], threads: int
) -> None:
    """Write codes * scale, one number or one for each row, to `y`: float32, or bfloat16 bits."""
    cpu.dequantize_rows(codes, scale, y, threads)


def round_to_blocks(
    format: str,
    w_NK: NDArray[np.float32],
    h_K: NDArray[np.float32] | None,
    codes_NK: NDArray[np.int8],
    scale_NG: NDArray[np.float32],
    minimum_NG: NDArray[np.float32] | None,
    threads: int,
) -> None:
    """Round weights to a block format of ggml, to the numbers of `quant.blockwise`.

    Args:
        format: a name there.
        w_NK: float weights, finite; K is a multiple of the format's block.
        h_K: the importance of the columns, above 0; None is all alike.
        codes_NK: takes the codes.
        scale_NG: takes the scales, one for each group.
        minimum_NG: takes the minima; None for a format that has none.
        threads: to use at most.
    """
    cpu.round_to_blocks(format, w_NK, h_K, codes_NK, scale_NG, minimum_NG, threads)


def round_columns(
    w_bN: NDArray[np.float32],
    U_bb: NDArray[np.float32],
    scale_GN: NDArray[np.float32],
    zero_GN: NDArray[np.float32],
    group_b: NDArray[np.int32],
    codes: tuple[int, int],
    codes_bN: NDArray[np.float32],
    error_bN: NDArray[np.float32],
    threads: int,
) -> None:
    """Round columns in turn, GPTQ's way: what each misses, over U's diagonal, goes on by its row.

    Args:
        w_bN: a block of at most 256 columns, each a row in memory.
        U_bb: the block of the factor.
        scale_GN, zero_GN: of the groups; value = (code - zero) * scale.
        group_b: the group of each column.
        codes: the least and the greatest.
        codes_bN: takes the codes.
        error_bN: takes what each missed, over the diagonal.
        threads: to use at most.
    """
    low, high = codes
    cpu.round_columns(
        w_bN, U_bb, scale_GN, zero_GN, group_b, low, high, codes_bN, error_bN, threads
    )


def sweep_columns(
    value_bN: NDArray[np.float32],
    pull_bN: NDArray[np.float32],
    A_bb: NDArray[np.float32],
    inverse_diagonal_b: NDArray[np.float32],
    scale_GN: NDArray[np.float32],
    inverse_GN: NDArray[np.float32],
    zero_GN: NDArray[np.float32],
    group_b: NDArray[np.int32],
    codes: tuple[int, int],
    change_bN: NDArray[np.float32],
    threads: int,
) -> None:
    """Choose columns anew in turn: the value nearest to value + pull * inverse_diagonal.

    Args:
        value_bN: a block of at most 256 columns, each a row in memory; takes the new values.
        pull_bN: minus half the gradient, to begin with.
        A_bb: the block of the Gram matrix.
        inverse_diagonal_b: one over A's diagonal.
        scale_GN, inverse_GN, zero_GN: of the groups; inverse is one over scale, or 0.
        group_b: the group of each column.
        codes: the least and the greatest.
        change_bN: takes new value less old.
        threads: to use at most.
    """
    low, high = codes
    cpu.sweep_columns(
        value_bN,
        pull_bN,
        A_bb,
        inverse_diagonal_b,
        scale_GN,
        inverse_GN,
        zero_GN,
        group_b,
        low,
        high,
        change_bN,
        threads,
    )


def rms_norm(
    x_TK: NDArray[Any],
    w_K: NDArray[np.float32],
    eps: float,
    y_TK: NDArray[Any],
    r_T: NDArray[np.float32],
    threads: int,
) -> None:
    """Write x * r * w to `y_TK`, with r = 1 / sqrt(mean(x^2) + eps) in `r_T`.

    `x_TK` and `y_TK` are both float32, or both bfloat16 bits; the maths is float32.
    """
    cpu.rms_norm(x_TK, w_K, eps, y_TK, r_T, threads)


def rms_norm_backward(
    x_TK: NDArray[Any],
    w_K: NDArray[np.float32],
    r_T: NDArray[np.float32],
    dy_TK: NDArray[Any],
    dx_TK: NDArray[Any],
    dw_K: NDArray[np.float32],
    threads: int,
) -> None:
    """Write the gradients of `rms_norm` to `dx_TK`, of x's dtype as `dy_TK` is, and `dw_K`."""
    cpu.rms_norm_backward(x_TK, w_K, r_T, dy_TK, dx_TK, dw_K, threads)


def recurrence(
    f_BTD: NDArray[np.float32],
    i_BTD: NDArray[np.float32],
    h0_BD: NDArray[np.float32] | None,
    h_BTD: NDArray[np.float32],
    last_BD: NDArray[np.float32],
    threads: int,
) -> None:
    """Write h[t] = f[t] * h[t-1] + i[t] of B sequences, T tokens and D channels to `h_BTD`.

    The state before the first token is `h0_BD`, or zeros; the last one is written to `last_BD`.
    """
    cpu.recurrence(f_BTD, i_BTD, h0_BD, h_BTD, last_BD, threads)


def recurrence_backward(
    f_BTD: NDArray[np.float32],
    h_BTD: NDArray[np.float32],
    h0_BD: NDArray[np.float32] | None,
    dh_BTD: NDArray[np.float32] | None,
    dlast_BD: NDArray[np.float32] | None,
    df_BTD: NDArray[np.float32],
    di_BTD: NDArray[np.float32],
    dh0_BD: NDArray[np.float32] | None,
    threads: int,
) -> None:
    """Write the gradients of `recurrence` to the last three; of those given, None is zeros."""
    cpu.recurrence_backward(f_BTD, h_BTD, h0_BD, dh_BTD, dlast_BD, df_BTD, di_BTD, dh0_BD, threads)


def _check_activation(
    op: str, activation: str, parts: int, static: tuple[float, int] | None
) -> None:
    if (static is not None) != (activation in STATIC_ACTIVATIONS):
        raise OptionError(
            f"{op}: activation {activation!r} {'takes' if static is None else 'has'} "
            f"{'a scale that calibration found' if static is None else 'no scale to be given'}. "
            "Pass static for the rules whose name has static, and for no others."
        )
    if static is not None:
        check_static(op, activation, *static)
        if parts > 1:
            raise OptionError(f"{op}: {activation} has one scale, and {parts} parts have as many.")
    elif activation.startswith("dynamic:"):
        LinearScheme(activation=activation)  # refuses what has no number
    elif activation not in (*ACTIVATIONS, FLOAT_INPUTS[8]):
        raise OptionError(
            f"{op}: activation is {activation!r}; accepted: {', '.join(ACTIVATIONS)}, dynamic:R."
        )
    if parts > 1 and activation == "int8_absmax_tensor":
        raise OptionError(
            f"{op}: int8_absmax_tensor has one scale, and {parts} parts have as many. "
            "Take int8_absmax."
        )


def check_static(op: str, activation: str, scale: float, zero: float) -> None:
    """Refuse factors of a static activation that nothing can be computed with.

    Raises:
        OptionError: the scale is not above 0 and finite, or the zero-point is no code.
    """
    bits = int(activation[3])
    least = -(1 << (bits - 1)) if activation.endswith("_zero") else 0
    most = (1 << (bits - 1)) - 1 if activation.endswith("_zero") else 0
    if not (math.isfinite(scale) and scale > 0) or not (
        least <= zero <= most and zero == int(zero)
    ):
        raise OptionError(
            f"{op}: {activation} with scale {scale:g} and zero-point {zero:g}; accepted: a finite "
            f"scale above 0, a zero-point from {least} to {most}. Quantize with calibration text."
        )


def _check_parts(op: str, K: int, parts: int) -> None:
    if parts < 1 or K % parts:
        raise ShapeError(f"{op}: {K} columns do not make {parts} equal parts.")


def _matrix(op: str, x_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    if x_TK.ndim != 2 or not x_TK.shape[1]:
        raise ShapeError(f"{op}: the input has shape {x_TK.shape}; expected (T, K).")
    return _plain(x_TK, np.float32)


def _plain(x: NDArray[Any], dtype: type | None = None) -> NDArray[Any]:
    """Return `x` as C++ reads it: row after row, and aligned, which a view of a file may not be."""
    return np.require(x, dtype, ["C", "A"])


def _check_columns(op: str, matrix: Matrix, x_TK: NDArray[Any], planes: int = 1) -> None:
    K = matrix.shape[1] // planes
    if x_TK.ndim != 2 or x_TK.shape[1] != K:
        raise ShapeError(f"{op}: the matrix has {K} columns, the input has shape {x_TK.shape}.")
