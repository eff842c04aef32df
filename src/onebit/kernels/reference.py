"""The slow truth: what each kernel computes, in plain NumPy.

The tests hold every instruction set to these functions. Integer sums and codes are equal, and so is
what the scales make of them, since it is written here in the kernels' own order.

Shape letters: N rows of weights, K columns, T tokens, G scale groups of a row, B activation blocks.
"""

import numpy as np
from numpy.typing import NDArray

import onebit.hadamard
from onebit.pack.unpacked import Unpacked

BLOCK = 32
"""Columns that share an activation scale where the scheme asks for no activation quantization."""

_SQRT7 = float(np.sqrt(7.0))
_SMALLEST = np.float32(1e-5)


def quantize_i8(
    x_TK: NDArray[np.float32], block: int = 0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each block of a row to int8 by its largest magnitude.

    BitNet b1.58, https://arxiv.org/abs/2402.17764, in the form of the official training tips.

    Args:
        x_TK: activations.
        block: columns that share a scale; 0 for the whole row. The last block may be shorter.

    Returns:
        codes (T, K) in -128..127 and scale (T, B); code * scale approximates x.
    """
    K = x_TK.shape[1]
    span = block or K
    codes_TK = np.empty(x_TK.shape, np.int8)
    scales = []
    for k in range(0, K, span):
        part = x_TK[:, k : k + span]
        largest = np.maximum(np.abs(part).max(axis=1, keepdims=True), _SMALLEST)
        factor = np.float32(127) / largest
        codes_TK[:, k : k + span] = np.clip(np.round(part * factor), -128, 127)
        scales.append(largest / np.float32(127))
    return codes_TK, np.concatenate(scales, axis=1)


def remainder_i8(
    x_TK: NDArray[np.float32], codes_TK: NDArray[np.int8], scale_TB: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round what `quantize_i8` in blocks of 32 leaves over, with 1/254 of the scales.

    Returns:
        codes (T, K) in -127..127 and scale (T, B): x = codes_TK * scale_TB + code * scale, to about
        1/64,516 of the largest magnitude of a block.
    """
    scale_TK = np.repeat(scale_TB, BLOCK, axis=1)[:, : x_TK.shape[1]]
    left_TK = fma(codes_TK.astype(np.float32), -scale_TK, x_TK)
    rounded_TK = np.rint(left_TK * (np.float32(254) / scale_TK))
    return np.clip(rounded_TK, -128, 127).astype(np.int8), scale_TB / np.float32(254)


def quantize(
    x_TK: NDArray[np.float32],
    activation: str,
    parts: int = 1,
    static: tuple[float, int] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32] | None]:
    """Round each part of each row by a rule of `onebit.scheme.ACTIVATIONS`, or "dynamic:R".

    Returns:
        codes (T, K); scale and, for a rule that has one, minimum (T, parts). code * scale + minimum
        approximates x.
    """
    if static is not None:
        codes_TK, scale_T1, minimum_T1 = _static(x_TK, activation, *static)
        return codes_TK.astype(np.int8), scale_T1, minimum_T1
    each = [_quantize(part, activation) for part in np.split(x_TK, parts, axis=1)]
    codes, scale, minimum = (
        None if found[0] is None else np.concatenate(found, axis=1)
        for found in zip(*each, strict=True)
    )
    assert codes is not None
    assert scale is not None
    return codes.astype(np.int8), scale, minimum


_Rounded = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]


def _quantize(x_TK: NDArray[np.float32], activation: str) -> _Rounded:
    largest = np.maximum(np.abs(x_TK).max(axis=1, keepdims=True), _SMALLEST)
    mean = np.abs(x_TK).mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    mean = np.maximum(mean, _SMALLEST)
    if activation == "int8_absmax_tensor":
        return _steps_to(x_TK, np.full_like(largest, largest.max()), 127, -128, 127)
    if activation == "int4_absmean":  # BitNet a4.8, https://arxiv.org/abs/2411.04965, equation 7
        return _steps_to(x_TK, mean, _SQRT7, -8, 7)
    if activation == "int8_b1":  # BitNet, https://arxiv.org/abs/2310.11453, equation 4
        return _steps_to(x_TK, largest, 128, -127, 127)
    if activation == "int8_b1_positive":
        low = x_TK.min(axis=1, keepdims=True)
        largest = np.maximum((x_TK - low).max(axis=1, keepdims=True), _SMALLEST)
        codes, scale, _ = _steps_to(x_TK - low, largest, 128, 0, 127)
        return codes, scale, low
    if activation == "int8_top50":  # BitNet a4.8, equation 5
        codes, scale, _ = _steps_to(x_TK, largest, 127, -128, 127)
        kept = (x_TK.shape[1] + 1) // 2
        threshold = -np.sort(-np.abs(x_TK), axis=1)[:, kept - 1 : kept]
        return np.where(np.abs(x_TK) >= threshold, codes, np.float32(0)), scale, None
    if activation == "fp4_e2m1":
        return _fp4(x_TK, largest)
    if activation.startswith("dynamic:"):
        outlier = largest > np.float32(activation.partition(":")[2]) * mean
        wide_codes, wide_scale, _ = _quantize(x_TK, "int8_absmax")
        codes, scale, _ = _quantize(x_TK, "int4_absmean")
        return np.where(outlier, wide_codes, codes), np.where(outlier, wide_scale, scale), None
    bits = int(activation.removeprefix("int").removesuffix("_absmax"))
    steps = 2 ** (bits - 1) - 1
    return _steps_to(x_TK, largest, steps, -steps - 1, steps)


def _static(x_TK: NDArray[np.float32], activation: str, scale: float, zero: int) -> _Rounded:
    """Round with one scale for all inputs; with a zero-point, codes have no sign of their own."""
    most = 2 ** (int(activation[3]) - 1) - 1
    scale_T1 = np.full((len(x_TK), 1), scale, np.float32)
    factor_T1 = np.float32(1) / scale_T1
    if not activation.endswith("_zero"):
        return np.round(x_TK * factor_T1).clip(-most, most), scale_T1, None
    minimum_T1 = -np.float32(zero) * scale_T1
    return np.round((x_TK - minimum_T1) * factor_T1).clip(-most - 1, most), scale_T1, minimum_T1


def _steps_to(
    x_TK: NDArray[np.float32], size_T1: NDArray[np.float32], steps: float, low: int, high: int
) -> _Rounded:
    """Round so that `size` is `steps` codes."""
    codes = np.round(x_TK * (np.float32(steps) / size_T1)).clip(low, high)
    return codes, size_T1 / np.float32(steps), None


def _fp4(x_TK: NDArray[np.float32], largest_T1: NDArray[np.float32]) -> _Rounded:
    """Round to the nearest number of E2M1, doubled; ties go to the one of even index."""
    levels = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float32)
    v = x_TK * (np.float32(12) / largest_T1)
    distance = np.abs(np.abs(v)[..., None] - levels)
    even_first = [0, 2, 4, 6, 1, 3, 5, 7]
    nearest = levels[even_first][distance[..., even_first].argmin(axis=-1)]
    return np.copysign(nearest, v), largest_T1 / np.float32(12), None


def layer_norm(x_TK: NDArray[np.float32], eps: float, parts: int = 1) -> NDArray[np.float64]:
    """Return each part of a row less its mean, over its standard deviation, in float64."""
    x_TGk = x_TK.astype(np.float64).reshape(len(x_TK), parts, -1)
    y_TGk = x_TGk - x_TGk.mean(axis=2, keepdims=True)
    y_TGk /= np.sqrt((y_TGk**2).mean(axis=2, keepdims=True) + eps)
    y_TK: NDArray[np.float64] = y_TGk.reshape(x_TK.shape)
    return y_TK


def quantize_range(x_NK: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return what the codes of a key/value cache stand for, (N, K): each row within its range.

    minimum and scale are half floats, codes are 0 to 2**bits - 1; value = code * scale + minimum.
    """
    levels = np.float32(2**bits - 1)
    low, high = (
        np.clip(edge, -65504, 65504).astype(np.float32)
        for edge in (x_NK.min(axis=1, keepdims=True), x_NK.max(axis=1, keepdims=True))
    )
    scale = ((high - low) / levels).astype(np.float16).astype(np.float32)
    minimum = low.astype(np.float16).astype(np.float32)
    factor = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    codes = np.clip(np.round((x_NK - minimum) * factor), 0, levels)
    values: NDArray[np.float32] = codes * scale + minimum
    return values


def int_sums(codes_NK: NDArray[np.int8], x_TK: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return the sums over k of code * x, (T, N)."""
    sums: NDArray[np.int64] = x_TK.astype(np.int64) @ codes_NK.astype(np.int64).T
    return sums.astype(np.int32)


def linear(
    w: Unpacked,
    x_TK: NDArray[np.float32],
    activation: str,
    parts: int = 1,
    static: tuple[float, int] | None = None,
) -> NDArray[np.float32]:
    """Multiply quantized activations with codes, (T, N) float32.

    With one scale a row and one a token this is float(sum) * (x_scale * w_scale). Otherwise the
    steps, inside which no scale changes, are added in order of k; parts of the columns are seen as
    blocks of 32, which share a scale. A minimum of the activations then adds its part's sum of the
    weights. Under "fp" the product of what rounding leaves is added to that of the codes.
    """
    K = x_TK.shape[1]
    if activation in ("fp", "fp_int8"):
        codes_TK, scale_TB = quantize_i8(x_TK, BLOCK)
        y = _product(w, codes_TK, scale_TB, BLOCK)
        if activation == "fp":
            y += _product(w, *remainder_i8(x_TK, codes_TK, scale_TB), BLOCK)
        return y
    codes_TK, scale_TG, minimum_TG = quantize(x_TK, activation, parts, static)
    block = BLOCK if parts > 1 else K
    y = _product(w, codes_TK, np.repeat(scale_TG, K // parts // block, axis=1), block)
    if minimum_TG is None:
        return y
    inside_GK = np.repeat(np.eye(parts, dtype=np.int8), K // parts, axis=1)
    sums_GN = _product(w, inside_GK, np.ones((parts, 1), np.float32), K)
    for part, sums_N in enumerate(sums_GN):
        y += minimum_TG[:, part, None] * sums_N
    return y


def _product(
    w: Unpacked, codes_TK: NDArray[np.int8], scale_TB: NDArray[np.float32], block: int
) -> NDArray[np.float32]:
    T, K = codes_TK.shape
    N, G = w.scale_NG.shape
    y = np.zeros((T, N), np.float32)
    for k in _steps(K, G, block):
        x = codes_TK[:, k]
        w_scale = w.scale_NG[:, k.start // (K // G)]
        x_scale = scale_TB[:, k.start // block, None]
        y += int_sums(w.codes_NK[:, k], x).astype(np.float32) * (x_scale * w_scale)
        if w.minimum_NG is not None:
            x_sum = x.sum(axis=1, keepdims=True, dtype=np.int32).astype(np.float32)
            y += w.minimum_NG[:, k.start // (K // G)] * (x_scale * x_sum)
    return y


def _steps(K: int, G: int, block: int) -> list[slice]:
    """Return the runs of columns, inside which no scale changes, that the kernels add up."""
    size = K // G
    if block < K:
        size = block if G == 1 else int(np.gcd(size, block))
    return [slice(k, min(k + size, K)) for k in range(0, K, size)]


def linear_float(values_NK: NDArray[np.float32], x_TK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply floats as the kernels do, (T, N): four chains of fma by k % 4, joined in pairs."""
    partial = np.zeros((4, x_TK.shape[0], values_NK.shape[0]), np.float32)
    for k in range(x_TK.shape[1]):
        partial[k % 4] = fma(x_TK[:, k, None], values_NK[:, k], partial[k % 4])
    total: NDArray[np.float32] = (partial[0] + partial[1]) + (partial[2] + partial[3])
    return total


def fma(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a * b + c, rounded once.

    The product of two float32 is exact in float64. The sum is rounded there to odd: where it is not
    exact, its last bit is made 1, towards the error, so that rounding it again cannot meet a tie.
    """
    product = a.astype(np.float64) * b
    total = np.asarray(product + c)
    back = total - product
    error = (product - (total - back)) + (c - back)  # exact: Knuth's two-sum
    even = (total.view(np.int64) & 1) == 0
    towards = np.copysign(np.inf, error)
    odd = np.where((error != 0) & even, np.nextafter(total, towards), total)
    return odd.astype(np.float32)


def hadamard(
    x_TK: NDArray[np.float32], signs: NDArray[np.float32] | None = None, transpose: bool = False
) -> NDArray[np.float64]:
    """Return H diag(signs) x of each row, (T, K), in float64; transposed, diag(signs) H^T x."""
    factors = onebit.hadamard.factors(x_TK.shape[1])
    orders = [len(factor) for factor in factors]
    signs_K = np.ones(x_TK.shape[1]) if signs is None else signs.astype(np.float64)
    y = x_TK.astype(np.float64) * (1 if transpose else signs_K)
    y = y.reshape(-1, *orders)
    for axis, factor in enumerate(factors, 1):
        matrix = factor if transpose else factor.T
        y = np.moveaxis(np.moveaxis(y, axis, -1) @ matrix, -1, axis)
    scale = np.float64(np.prod(orders)) ** -0.5
    y_TK: NDArray[np.float64] = y.reshape(x_TK.shape) * scale * (signs_K if transpose else 1)
    return y_TK


def hadamard_matrix(n: int) -> NDArray[np.float64]:
    """Return the matrix of 1 and -1 for rows of n; of a block, where n has only such."""
    H: NDArray[np.float64] = np.ones((1, 1))
    for factor in onebit.hadamard.factors(n):
        H = np.kron(H, factor).astype(np.float64)
    return H
