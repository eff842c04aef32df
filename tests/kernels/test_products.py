"""Products of codes and floats against the reference, for every instruction set.

Integer sums have tolerance zero. So do the floats: the reference adds in the kernels' order.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onebit.kernels import cpu, ops, reference
from onebit.pack import Unpacked

RANGES = {
    "t2": (-1, 1),
    "t1_6": (-1, 1),
    "b1": (-1, 1),
    "i4": (-8, 7),
    "i6": (-32, 31),
    "i8": (-128, 127),
}
# around the 16 rows of a tile, the 4 to 32 columns of a vector, and nothing special
SHAPES = [(1, 1), (3, 3), (17, 63), (16, 64), (5, 1020), (33, 576), (48, 17), (2, 1024), (3, 1403)]
TOKENS = [1, 2, 3, 9]


def random_codes(layout, N, K, seed=0):
    low, high = RANGES[layout]
    codes = np.random.default_rng(seed).integers(low, high + 1, (N, K), dtype=np.int8)
    if layout == "b1":
        codes[codes == 0] = 1
    codes.flat[0], codes.flat[-1] = low, high
    return codes


def random_inputs(T, K, seed=1):
    return np.random.default_rng(seed).standard_normal((T, K)).astype(np.float32)


def matrix_of(layout, codes):
    return cpu.Matrix.from_codes(layout, codes, np.ones((len(codes), 1), np.float32))


@pytest.mark.parametrize("layout", RANGES)
@pytest.mark.parametrize(("N", "K"), SHAPES, ids=str)
def test_sums_are_equal(isa, layout, N, K):
    codes = random_codes(layout, N, K, N * 10_000 + K)
    matrix = matrix_of(layout, codes)
    for T in TOKENS:
        x = np.random.default_rng(T).integers(-128, 128, (T, K), dtype=np.int8)
        np.testing.assert_array_equal(ops.int_sums(matrix, x), reference.int_sums(codes, x))


@pytest.mark.parametrize("layout", RANGES)
@pytest.mark.parametrize("x", [-128, 127])
def test_largest_sums_do_not_overflow(isa, layout, x):
    K = 32_768
    for code in RANGES[layout]:
        matrix = matrix_of(layout, np.full((1, K), code, np.int8))
        for T in (1, 3, 12):
            sums = ops.int_sums(matrix, np.full((T, K), x, np.int8))
            np.testing.assert_array_equal(sums, np.full((T, 1), code * x * K))


@pytest.mark.parametrize("layout", RANGES)
def test_widest_row_does_not_overflow(isa, layout):
    K = ops.MAX_COLUMNS
    for code in RANGES[layout]:
        matrix = matrix_of(layout, np.full((1, K), code, np.int8))
        for x in (-128, 127):
            assert ops.int_sums(matrix, np.full((1, K), x, np.int8))[0, 0] == code * x * K


@pytest.mark.parametrize("layout", RANGES)
def test_every_number_of_tokens_has_equal_sums(isa, layout):
    """Every width of a panel, odd tiles, and more tokens than stay in a cache."""
    N, K = 49, 355
    codes = random_codes(layout, N, K)
    matrix = matrix_of(layout, codes)
    x = np.random.default_rng(4).integers(-128, 128, (145, K), dtype=np.int8)
    expected = reference.int_sums(codes, x)
    for T in [*range(1, 27), 132, 133, 145]:
        np.testing.assert_array_equal(ops.int_sums(matrix, x[:T]), expected[:T])


def test_wide_rows_are_taken_in_blocks_of_tokens(isa):
    codes = random_codes("t2", 3, 30_000)
    x = np.random.default_rng(4).integers(-128, 128, (31, 30_000), dtype=np.int8)
    sums = ops.int_sums(matrix_of("t2", codes), x)
    np.testing.assert_array_equal(sums, reference.int_sums(codes, x))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(RANGES)), st.integers(1, 40), st.integers(1, 90), st.integers(1, 10))
def test_any_shape_has_equal_sums(layout, N, K, T):
    codes = random_codes(layout, N, K, N)
    x = np.random.default_rng(K).integers(-128, 128, (T, K), dtype=np.int8)
    sums = ops.int_sums(matrix_of(layout, codes), x)
    np.testing.assert_array_equal(sums, reference.int_sums(codes, x))


# the ways that a product takes its input; other rules differ in their codes only
WAYS = ["fp", "fp_int8", "int8_absmax", "int8_absmax_tensor", "int4_absmean", "int8_b1_positive"]


@pytest.mark.parametrize("activation", WAYS)
@pytest.mark.parametrize(
    ("layout", "group"),
    [(layout, None) for layout in RANGES]
    + [(layout, group) for layout in RANGES if layout != "t1_6" for group in (16, 32, 48)],
)
def test_linear_is_the_reference_to_the_bit(isa, layout, activation, group):
    for N, K in [(19, 288)] if group else [(19, 288), (5, 1020), (3, 17), (16, 32)]:
        rng = np.random.default_rng(K)
        shape = (N, K // group if group else 1)
        scale = rng.uniform(0.1, 2, shape).astype(np.float32)
        for low in (None, rng.standard_normal(shape).astype(np.float32)):
            weights = Unpacked(random_codes(layout, N, K), scale, low)
            matrix = ops.repack(weights, "t1_6" if layout == "t1_6" else None)
            narrow_group = layout == "b1" and group in (16, 48)
            assert (matrix.layout, matrix.shape) == ("t2" if narrow_group else layout, (N, K))
            for T in TOKENS:
                x = random_inputs(T, K)
                expected = reference.linear(weights, x, activation)
                np.testing.assert_array_equal(ops.linear(matrix, x, activation), expected)


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("activation", [*ops.ACTIVATIONS, "fp_int8"])
def test_a_token_has_the_same_bits_in_any_company(isa, activation, group):
    """Floats do not depend on the tokens beside it, nor on the tile that computes it."""
    scale = np.random.default_rng(2).uniform(0.1, 2, (35, 320 // group if group else 1))
    x = random_inputs(1, 320)
    for layout in RANGES:
        if group and layout == "t1_6":
            continue
        codes = random_codes(layout, 35, 320)
        matrix = ops.repack(Unpacked(codes, scale.astype(np.float32)), layout)
        alone = ops.linear(matrix, x, activation)
        for T in (2, 3, 5, 6, 11, 20, 25):
            many = ops.linear(matrix, np.repeat(x, T, axis=0), activation)
            np.testing.assert_array_equal(many, np.repeat(alone, T, axis=0))


@pytest.mark.parametrize("activation", ["int8_absmax", "int4_absmean"])
def test_one_scale_is_what_training_computes(isa, activation):
    """y = (codes_x @ codes_w) * (x_scale * w_scale) in float32: the sums are exact there."""
    codes, w_scale = random_codes("t2", 40, 1024), np.float32(0.0173)
    x = random_inputs(6, 1024)
    x_codes, x_scale, _ = ops.quantize(x, activation)
    expected = (x_codes.astype(np.float32) @ codes.T.astype(np.float32)) * (x_scale * w_scale)
    matrix = ops.repack(Unpacked(codes, np.full((40, 1), w_scale)))
    np.testing.assert_array_equal(ops.linear(matrix, x, activation), expected)


@pytest.mark.parametrize("layout", RANGES)
@pytest.mark.parametrize(("activation", "bound"), [("fp_int8", 0.008), ("fp", 3e-5)])
def test_fine_blocks_are_close_to_float_activations(isa, layout, activation, bound):
    """RMS error over RMS; absmax int8 of a Gaussian block of 32 is off by about 0.5 %, and what is
    left by 1/254 of that."""
    weights = Unpacked(random_codes(layout, 64, 512), np.full((64, 1), 0.1, np.float32))
    x = random_inputs(8, 512)
    expected = x @ weights.values().T
    error = ops.linear(ops.repack(weights, layout), x, activation) - expected
    assert np.sqrt((error**2).mean() / (expected**2).mean()) < bound


def float_matrices(N, K):
    values = np.random.default_rng(N + K).standard_normal((N, K)).astype(np.float32)
    bf16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    yield "f32", values, values
    yield "f16", values.astype(np.float16), values.astype(np.float16).astype(np.float32)
    yield "bf16", bf16, (bf16.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize(("N", "K"), SHAPES, ids=str)
def test_float_products_are_the_reference_to_the_bit(isa, N, K):
    for layout, stored, values in float_matrices(N, K):
        matrix = ops.repack_floats(stored)
        assert matrix.layout == layout
        for T in TOKENS:
            x = random_inputs(T, K)
            expected = reference.linear_float(values, x)
            np.testing.assert_array_equal(ops.linear(matrix, x, "fp"), expected)


@pytest.mark.parametrize("activation", [a for a in ops.ACTIVATIONS if a != "fp"])
def test_float_weights_take_quantized_activations(isa, activation):
    for parts, K in ((1, 70), (3, 96)):
        if parts > 1 and activation == "int8_absmax_tensor":
            continue  # has one scale
        values, x = random_inputs(20, K), random_inputs(5, K, seed=2)
        codes, scale, minimum = reference.quantize(x, activation, parts)
        rounded = codes.astype(np.float32) * np.repeat(scale, K // parts, axis=1)
        if minimum is not None:
            rounded += np.repeat(minimum, K // parts, axis=1)
        expected = reference.linear_float(values, rounded)
        actual = ops.linear(ops.repack_floats(values), x, activation, parts)
        np.testing.assert_array_equal(actual, expected)


# symmetric codes, those with a minimum, and both kinds of 4 bits; the rest differ in codes only
PARTED = ["int8_absmax", "int8_b1_positive", "int8_top50", "int4_absmean", "dynamic:3.2"]


@pytest.mark.parametrize("layout", RANGES)
@pytest.mark.parametrize("activation", PARTED)
def test_parts_of_the_columns_are_rounded_by_themselves(isa, layout, activation):
    """Each has its own scale (and minimum); the weights one for a row, or one for each part."""
    N, K, parts = 19, 192, 3
    rng = np.random.default_rng(1)
    x = random_inputs(14, K) * np.repeat(np.array([1, 30, 0.1], "f4"), 64) + np.float32(0.3)
    for G in (1,) if layout == "t1_6" else (1, parts):
        scale = rng.uniform(0.1, 2, (N, G)).astype(np.float32)
        weights = Unpacked(random_codes(layout, N, K), scale)
        matrix = ops.repack(weights, "t1_6" if layout == "t1_6" else None)
        expected = reference.linear(weights, x, activation, parts)
        for T in (1, 14):
            actual = ops.linear(matrix, x[:T], activation, parts)
            np.testing.assert_array_equal(actual, expected[:T])
        whole = ops.linear(matrix, x, activation)  # the sums of rows are those of other parts now
        np.testing.assert_array_equal(whole, reference.linear(weights, x, activation))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_do_not_change_a_bit(threads):
    weights = Unpacked(random_codes("i4", 200, 96), random_inputs(200, 3))
    x = random_inputs(5, 96)
    before = ops.threads()
    try:
        ops.set_threads(threads)
        assert ops.threads() == threads
        actual = ops.linear(ops.repack(weights), x, "fp")
    finally:
        ops.set_threads(before)
    np.testing.assert_array_equal(actual, reference.linear(weights, x, "fp"))


def test_rows_are_the_weights():
    """Row lookup, as the embedding uses it, in every layout."""
    index = np.array([18, 0, 16, 3, 3], np.int32)
    for layout in RANGES:
        scale, low = random_inputs(19, 2), random_inputs(19, 2, seed=3)
        for weights in (
            Unpacked(random_codes(layout, 19, 64), scale, low),
            Unpacked(random_codes(layout, 19, 37), scale[:, :1].copy()),
        ):
            if layout == "t1_6" and weights.scale_NG.shape[1] > 1:
                continue
            rows = ops.repack(weights, layout).rows(index)
            np.testing.assert_array_equal(rows, weights.values()[index])
    for _, stored, values in float_matrices(19, 37):
        np.testing.assert_array_equal(ops.repack_floats(stored).rows(index), values[index])
    with pytest.raises(ValueError, match="row 19 is outside 0 to 18"):
        ops.repack_floats(stored).rows(np.array([19], np.int32))


def test_layout_bytes_are_these():
    """The memory a matrix takes: its bits a code, whole tiles of 16 rows, float32 scales."""
    for layout, bits in (("b1", 1), ("t1_6", 1.6), ("t2", 2), ("i4", 4), ("i8", 8)):
        matrix = matrix_of(layout, random_codes(layout, 17, 320))
        assert matrix.size_bytes == 32 * 320 * bits / 8 + 32 * 4
    assert ops.repack_floats(np.zeros((17, 5), np.float16)).size_bytes == 32 * 5 * 2


def test_products_are_timed():
    one, other = (
        ops.repack(Unpacked(random_codes("t2", N, 96), np.ones((N, 1), np.float32)))
        for N in (20, 33)
    )
    x = random_inputs(3, 96)
    assert 0 < cpu.time_products([one, other, one], x, "int8_absmax") < 10
    with pytest.raises(ValueError, match="no matrices"):
        cpu.time_products([], x, "int8_absmax")
    with pytest.raises(ValueError, match="differ in input"):
        cpu.time_products([one, ops.repack_floats(np.ones((5, 96), np.float32))], x, "fp")
    with pytest.raises(ValueError, match="the matrix has 96 columns"):
        cpu.time_products([one], random_inputs(3, 95), "int8_absmax")


def test_memory_of_large_matrices_comes_back():
    """They share pieces of huge pages; what is dropped is zero when it is used again, or gone."""
    scale = np.ones((2048, 1), np.float32)
    codes = {sign: np.full((2048, 4096), sign, np.int8) for sign in (-1, 1)}
    x = np.ones((1, 4096), np.int8)
    kept = []
    for i in range(60):  # of 1 MB each, b1
        sign = 1 if i % 3 else -1
        matrix = cpu.Matrix.from_codes("b1", codes[sign], scale)
        if i % 4 == 0:
            kept.append((sign, matrix))
        if len(kept) > 5:
            kept.pop(0)
    for sign, matrix in kept:
        assert (ops.int_sums(matrix, x) == sign * 4096).all()
    for pages in (1, 70, 3):  # more than a piece holds
        wide = np.ones((16 * pages, 65_536), np.int8)
        matrix = cpu.Matrix.from_codes("i8", wide, np.ones((16 * pages, 1), np.float32))
        assert (ops.int_sums(matrix, np.ones((1, 65_536), np.int8)) == 65_536).all()
