"""The kernels of a training step: the integers of quant, exact sums, values rounded once."""

import numpy as np
import pytest
import torch

from onebit import quant
from onebit.kernels import cpu, ops
from onebit.nn import native_codes
from onebit.quant import activation

SHAPES = [(1, 1), (1, 64), (3, 17), (11, 48), (13, 63), (97, 260), (200, 1020)]
DTYPES = [torch.float32, torch.bfloat16]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(T, K):
    """Tokens of every size, with ties, zeros and one that is all zero."""
    x = draw(T, K) * 10.0 ** (torch.arange(T) % 9 - 6)[:, None]
    x[T // 2] = 0
    x[T // 3] = (torch.linspace(-127, 127, K) * 2).round() / 2
    x[T // 3, 0] = 127
    return x


def laid_out(codes_NK, scale):
    scale_N1 = torch.as_tensor(scale, dtype=torch.float32).reshape(-1, 1).expand(len(codes_NK), 1)
    return native_codes.weights_of(quant.Codes(codes_NK, scale_N1.contiguous()), False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "K"), SHAPES, ids=str)
def test_tokens_are_those_of_quant(isa, T, K, dtype):
    x_TK = inputs(T, K).to(dtype)
    found, expected = native_codes.absmax_tokens(x_TK), activation.quantize(x_TK, "int8_absmax")
    assert torch.equal(found.codes_TK, expected.codes)
    assert torch.equal(found.scale_T, expected.scale[:, 0])


@pytest.mark.parametrize("group", [None, "row"])
@pytest.mark.parametrize(("N", "K"), SHAPES, ids=str)
def test_weights_are_those_of_quant(isa, N, K, group):
    w_NK = inputs(N, K)
    expected = quant.ternary.quantize_absmean(w_NK, K if group else None)
    scale = quant.ternary.absmean(w_NK if group else w_NK.reshape(1, -1))
    found = native_codes.ternary_weights(w_NK, scale)
    assert torch.equal(found.codes_NK, expected.codes_NK)
    assert torch.equal(found.scale.expand(N), expected.scale_NG[:, 0])
    np.testing.assert_array_equal(
        found.laid_out.rows(np.arange(N, dtype=np.int32)), quant.dequantize(expected).numpy()
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "K"), SHAPES, ids=str)
def test_products_are_those_of_the_integers(isa, T, K, dtype):
    random = torch.Generator().manual_seed(T * K)
    codes_TK = torch.randint(-127, 128, (T, K), generator=random).to(torch.int8)
    scale_T = draw(T).abs()
    tokens = native_codes.tokens_of(activation.Activations(codes_TK, scale_T))
    for N in (1, 16, 35):
        codes_NK = torch.randint(-128, 128, (N, K), generator=random).to(torch.int8)
        scale_N = draw(N).abs()
        y_TN = native_codes.multiply(tokens, laid_out(codes_NK, scale_N), dtype)
        sums = codes_TK.long() @ codes_NK.long().T
        assert torch.equal(y_TN, (sums.float() * (scale_T[:, None] * scale_N)).to(dtype))


@pytest.mark.parametrize("layout", ["b1", "t2", "i4", "i6", "i8"])
def test_every_layout_gives_the_same(isa, layout):
    codes_NK = torch.randint(0, 2, (20, 96), generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokens = native_codes.absmax_tokens(draw(30, 96))
    found = laid_out(codes_NK.to(torch.int8), 0.5)
    one = np.full((20, 1), 0.5, np.float32)
    matrix = ops.Matrix.from_codes(layout, codes_NK.to(torch.int8).numpy(), one)
    expected = native_codes.multiply(tokens, found, torch.float32)
    other = found._replace(laid_out=matrix)
    assert torch.equal(native_codes.multiply(tokens, other, torch.float32), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("T", "K"), SHAPES, ids=str)
def test_values_are_rounded_once(isa, T, K, dtype):
    codes = torch.arange(T * K).remainder(255).sub(127).view(T, K).to(torch.int8)
    for scale in (draw(T).abs(), draw(1).abs()):
        found = native_codes.values(codes, scale, dtype)
        assert torch.equal(found, (codes * scale[:, None]).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_none(isa, wrong, dtype):
    x_TK = draw(3, 40)
    x_TK[1, 39] = wrong
    tokens = native_codes.absmax_tokens(x_TK.to(dtype))
    y_TN = native_codes.multiply(tokens, laid_out(torch.ones(5, 40, dtype=torch.int8), 1.0), dtype)
    assert torch.isfinite(y_TN[[0, 2]]).all()
    assert y_TN[1].isnan().all()


def test_threads_do_not_matter():
    x_TK, w_NK = draw(500, 96), draw(40, 96, seed=1)
    before, torch_before = ops.threads(), torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            ops.set_threads(count)
            torch.set_num_threads(count)
            tokens = native_codes.absmax_tokens(x_TK.clone())
            weights = native_codes.ternary_weights(w_NK, torch.tensor(0.8))
            found.append(native_codes.multiply(tokens, weights, torch.bfloat16))
    finally:
        ops.set_threads(before)
        torch.set_num_threads(torch_before)
    assert torch.equal(*found)


def other(x, how):
    """The array as its results would be lost in it: strided, of another dtype, or read-only."""
    if how == "strided":
        return np.zeros((*x.shape, 2), x.dtype)[..., 0]
    if how == "dtype":
        return np.zeros(x.shape, "f8" if x.dtype == "f4" else "i4")
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("how", ["strided", "dtype", "read-only"])
def test_results_are_never_written_to_a_copy(how):
    f, i = (np.ones((2, 8), dtype) for dtype in ("f4", "i1"))
    r, w, y = (np.ones(n, "f4") for n in (2, 8, 6))
    y = y.reshape(2, 3)
    tokens = cpu.TokenCodes.of_codes(i, r, 1)
    matrix = cpu.Matrix.from_codes("i8", np.ones((3, 8), "i1"), np.ones((3, 1), "f4"))
    calls = [  # and which arguments are written to
        (cpu.TokenCodes.quantize, [f, i, r, 1], [1, 2]),
        (tokens.product, [matrix, y, 1], [1]),
        (cpu.ternarize, [f, r, i, 1], [2]),
        (cpu.dequantize_rows, [i, r, f, 1], [2]),
        (cpu.rms_norm, [f, w, 1e-5, f.copy(), r, 1], [3, 4]),
        (cpu.rms_norm_backward, [f, w, r, f, f.copy(), w.copy(), 1], [4, 5]),
    ]
    for call, arguments, written in calls:
        call(*arguments)
        for at in written:
            wrong = [*arguments]
            wrong[at] = other(arguments[at], how)
            with pytest.raises((TypeError, ValueError)):
                call(*wrong)


def test_arrays_that_do_not_fit_are_refused():
    x, codes, one = np.ones((2, 8), "f4"), np.ones((2, 8), "i1"), np.ones(2, "f4")
    tokens = cpu.TokenCodes.of_codes(codes, one, 1)
    matrix = cpu.Matrix.from_codes("i8", np.ones((3, 12), "i1"), np.ones((3, 1), "f4"))
    with pytest.raises(ValueError, match="scale_T must have a number for each token"):
        cpu.TokenCodes.of_codes(codes, np.ones(3, "f4"), 1)
    with pytest.raises(ValueError, match=r"codes_TK must be \(2, 8\)"):
        cpu.TokenCodes.quantize(x, np.ones((2, 9), "i1"), one, 1)
    with pytest.raises(ValueError, match="x_TK must be float32, or the bits of bfloat16"):
        cpu.TokenCodes.quantize(x.astype("f8"), codes, one, 1)
    with pytest.raises(ValueError, match="the matrix has 12 columns, the input 8"):
        tokens.product(matrix, np.ones((2, 3), "f4"), 1)
    with pytest.raises(ValueError, match="scale has 3 numbers; expected 1 or 2"):
        cpu.dequantize_rows(codes, np.ones(3, "f4"), x, 1)
    floats = cpu.Matrix.from_floats(np.ones((3, 8), "f4"))
    with pytest.raises(ValueError, match="the matrix must have codes"):
        tokens.product(floats, np.ones((2, 3), "f4"), 1)
