"""Scales and minima in fewer bytes: the same floats, and the same results to the bit."""

import numpy as np
import pytest

from onebit.kernels import ops, reference
from onebit.pack import FORMATS, Unpacked

BITS = {  # with K = 512: codes, and what is beside them
    **{"q4_0": 4.5, "q4_1": 5, "q5_0": 6.5, "q5_1": 7, "q8_0": 8.5},
    **{"q2_k": 4 + 1 + 0.25, "q3_k": 4.625, "q4_k": 4.75, "q5_k": 6.75, "q6_k": 6.625},
}


def stored(name, N, K, seed=0):
    """Blocks of random bits, whose factors are of a common size."""
    form, rng = FORMATS[name], np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (N * K // form.columns, form.block_bytes), dtype=np.uint8)
    for at in form.factors:
        half = rng.normal(size=len(blocks)).astype("<f2")
        blocks[:, at : at + 2] = half[:, None].view(np.uint8)
    return blocks.reshape(-1)


@pytest.mark.parametrize("name", BITS)
def test_formats_take_their_bits_and_no_more(name):
    shape = (64, 512)
    matrix = ops.repack_stored(name, stored(name, *shape), shape)
    assert 8 * matrix.size_bytes / (shape[0] * shape[1]) == BITS[name]


@pytest.mark.parametrize("name", BITS)
def test_weights_and_products_are_the_same_to_the_bit(isa, name):
    N, K = 37, 768
    data = stored(name, N, K, seed=1)
    weights = FORMATS[name].unpack(data, (N, K))
    matrix = ops.repack_stored(name, data, (N, K))
    index = np.arange(N, dtype=np.int32)
    assert matrix.rows(index).tobytes() == weights.values().tobytes()
    for T in (1, 5, 12):
        x = np.random.default_rng(T).standard_normal((T, K)).astype(np.float32)
        expected = reference.linear(weights, x, "fp")
        np.testing.assert_array_equal(ops.linear(matrix, x, "fp"), expected)


def weights(scale_NG, K=512):
    N = len(scale_NG)
    codes = np.random.default_rng(3).integers(-32, 32, (N, K), dtype=np.int8)
    return Unpacked(codes, scale_NG.astype(np.float32))


@pytest.mark.parametrize(
    ("scale", "bits"),
    [
        (np.float32(0.1) * np.arange(-16, 16), 6.625),  # of any float, and of both signs
        (np.arange(-16, 16) / 8, 7),  # float16 comes first
        (np.geomspace(1e-9, 1e9, 32), 8),  # neither
        (np.where(np.arange(32) == 20, np.float32(0.1), np.float32(-12.8)), 6.625),
        (np.where(np.arange(32) == 20, np.float32(0.1), np.float32(12.9)), 8),  # 129 times
        (np.zeros(32) + np.float32(0.1) * (np.arange(32) == 3), 6.625),  # a block of zeros
    ],
)
def test_what_does_not_fit_stays_float32(isa, scale, bits):
    given = weights(np.tile(scale, (48, 1)))
    matrix = ops.repack(given)
    assert matrix.layout == "i6"
    assert 8 * matrix.size_bytes / (48 * 512) == bits
    assert matrix.rows(np.arange(48, dtype=np.int32)).tobytes() == given.values().tobytes()
    x = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    np.testing.assert_array_equal(ops.linear(matrix, x, "fp"), reference.linear(given, x, "fp"))


def test_one_row_that_does_not_fit_keeps_the_matrix_wide():
    scale = np.tile(np.float32(0.1) * np.arange(1, 33), (48, 1))
    scale[40, 7] = np.pi
    matrix = ops.repack(weights(scale))
    assert 8 * matrix.size_bytes / (48 * 512) == 8
