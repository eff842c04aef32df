"""The Hadamard transform: orthonormal for every size, and the matrix that `reference` says."""

import numpy as np
import pytest

from onebit.errors import InputError, ShapeError
from onebit.kernels import cpu, ops, reference

# size -> of the block: a size that models have, a power of two, a block-diagonal one
SIZES = {
    **{n: n for n in (1, 2, 4, 8, 16, 32, 128, 1024)},
    **{n: n for n in (12, 20, 24, 28, 36, 44, 52, 60, 76, 92, 100, 108, 116, 144, 172, 244)},
    **{n: n for n in (576, 640, 896, 1536, 2560, 3200, 4864, 6656, 6912, 8640, 11008)},
    **{1: 1, 3: 1, 6: 2, 10: 2, 156: 4, 80: 80, 96: 96, 47 * 128: 128},
}


@pytest.mark.parametrize("n", SIZES)
def test_equals_the_reference(isa, n):
    x = np.random.default_rng(n).standard_normal((2, n)).astype("f4")
    y = reference.hadamard(x)
    # sums of at most 11008 in order: a few roundings for each of the orders in turn
    np.testing.assert_allclose(ops.hadamard(x), y, rtol=0, atol=3e-6 * np.abs(y).max())


@pytest.mark.parametrize("n", [n for n in SIZES if n <= 1600])
def test_the_matrix_is_a_hadamard_matrix(n):
    H = reference.hadamard_matrix(n)
    assert len(H) == SIZES[n]
    x = np.random.default_rng(n).standard_normal((2, n // len(H), len(H)))
    y = (x @ H.T).reshape(2, n) / np.sqrt(len(H))
    np.testing.assert_allclose(reference.hadamard(x.reshape(2, n)), y, atol=1e-12)
    assert (np.abs(H) == 1).all()
    np.testing.assert_array_equal(H @ H.T, len(H) * np.eye(len(H)))


@pytest.mark.parametrize("n", [1, 16, 156, 576, 896, 2560])
def test_lengths_are_kept(isa, n):
    x = np.random.default_rng(n).standard_normal((3, n)).astype("f4")
    before, after = np.linalg.norm(x, axis=1), np.linalg.norm(ops.hadamard(x), axis=1)
    np.testing.assert_allclose(after, before, rtol=1e-6)


def signs_of(n):
    return np.random.default_rng(n + 1).choice(np.array([-1, 1], np.float32), n)


@pytest.mark.parametrize("n", [1, 6, 16, 52, 92, 144, 156, 576, 640, 2560])
def test_with_signs_and_transposed(isa, n):
    x = np.random.default_rng(n).standard_normal((2, n)).astype("f4")
    signs = signs_of(n)
    for given in (None, signs):
        for transpose in (False, True):
            y = reference.hadamard(x, given, transpose)
            mine = ops.hadamard(x, given, transpose)
            np.testing.assert_allclose(mine, y, rtol=0, atol=3e-6 * np.abs(y).max())
    np.testing.assert_array_equal(ops.hadamard(x, signs), ops.hadamard(x * signs))
    back = ops.hadamard(ops.hadamard(x, signs), signs, transpose=True)
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-5)


def test_rows_do_not_depend_on_threads(isa):
    x = np.random.default_rng(0).standard_normal((37, 144)).astype("f4")
    before = ops.threads()
    try:
        ops.set_threads(1)
        one = ops.hadamard(x)
        ops.set_threads(3)
        np.testing.assert_array_equal(ops.hadamard(x), one)
    finally:
        ops.set_threads(before)
    np.testing.assert_array_equal(ops.hadamard(x[5:6]), one[5:6])


def test_twice_is_once_for_powers_of_two(isa):
    x = np.random.default_rng(0).standard_normal((4, 256)).astype("f4")
    np.testing.assert_allclose(ops.hadamard(ops.hadamard(x)), x, atol=1e-6)


def test_an_outlier_is_spread_evenly(isa):
    for n in (64, 576, 2560):
        x = np.zeros((1, n), np.float32)
        x[0, n // 3] = 1
        np.testing.assert_allclose(np.abs(ops.hadamard(x)), n**-0.5, rtol=1e-6)


def test_same_bits_on_every_instruction_set(monkeypatch):
    for n in (8, 64, 80, 576, 640, 8640):
        x = np.random.default_rng(n).standard_normal((2, n)).astype("f4")
        results = []
        for isa in cpu.isas():
            monkeypatch.setenv("ONEBIT_ISA", isa)
            results.append(ops.hadamard(x))
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


def test_wrong_shapes_are_refused():
    for shape in ((4,), (2, 0)):
        with pytest.raises(ShapeError, match=r"expected \(T, K\)"):
            ops.hadamard(np.zeros(shape, np.float32))
    x = np.ones((2, 4), np.float32)
    with pytest.raises(ShapeError, match="give one for each"):
        ops.hadamard(x, np.ones(3, np.float32))
    with pytest.raises(InputError, match="neither 1 nor -1"):
        ops.hadamard(x, np.array([1, -1, 0, 1], np.float32))
