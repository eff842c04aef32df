"""The construction of Hadamard matrices: H H^T is n times the identity, in whole numbers."""

import math

import numpy as np
import pytest

from onebit import hadamard
from onebit.kernels import ops

WIDTHS = [576, 640, 896, 1536, 2560, 3200, 4864, 5888, 6656, 6912, 8640, 11008, 14336]
FIELDS = [52, 100, 244]  # Paley II over the fields of 5^2, 7^2 and 11^2 elements
NONE = [156, 188, 236]


@pytest.mark.parametrize("m", [m for m in range(12, 257, 8) if m not in NONE])
def test_every_order_is_a_hadamard_matrix(m):
    assert hadamard.orders(m) == [m, 1]
    H = hadamard.matrix(m)
    assert set(np.unique(H)) == {-1, 1}
    np.testing.assert_array_equal(H @ H.T, m * np.eye(m))


@pytest.mark.parametrize("n", WIDTHS)
def test_every_width_of_a_model_has_a_whole_matrix(n):
    """A Kronecker product of Hadamard matrices is one, and n is the product of the orders."""
    factors = hadamard.factors(n)
    assert math.prod(len(H) for H in factors) == n == hadamard.block(n)
    for H in factors:
        np.testing.assert_array_equal(H @ H.T, len(H) * np.eye(len(H)))
    assert hadamard.describe(n).startswith(f"Hadamard matrix of order {n} = ")


@pytest.mark.parametrize("n", [576, 640, 896, 1536])
def test_the_engine_is_orthonormal(n):
    """All rows of the engine's matrix against one another."""
    H = ops.hadamard(np.eye(n, dtype=np.float32)).astype(np.float64)
    np.testing.assert_allclose(H @ H.T, np.eye(n), atol=1e-6)


@pytest.mark.parametrize("n", [*WIDTHS, *FIELDS, *hadamard.CYCLOTOMIC])
def test_the_engine_has_the_same_matrix(n):
    """Some of its columns, which are the transforms of unit vectors, sign by sign."""
    columns = np.random.default_rng(n).choice(n, 4, replace=False)
    x = np.zeros((4, n), np.float32)
    x[np.arange(4), columns] = 1
    y = ops.hadamard(x)
    np.testing.assert_allclose(np.abs(y), n**-0.5, rtol=1e-6)
    expected = np.ones((4, 1), np.float32)
    places = np.unravel_index(columns, [len(H) for H in hadamard.factors(n)])
    for H, place in zip(hadamard.factors(n), places, strict=True):
        expected = np.einsum("ca,cb->cab", expected, H[:, place].T).reshape(4, -1)
    np.testing.assert_array_equal(np.sign(y), expected)


@pytest.mark.parametrize("n", [1, 3, 6, 10, *NONE, 47 * 64])
def test_blocks_where_there_is_no_whole_matrix(n):
    size = hadamard.block(n)
    assert size == n & -n
    said = hadamard.describe(n)
    assert "\n" not in said
    if size == n:
        assert said.startswith("Hadamard matrix")
    else:
        assert said.startswith(f"no Hadamard matrix of order {n} is known here: {n // size} blocks")


@pytest.mark.parametrize("n", [576, 640, 3200, 8640, 2400])
def test_the_smallest_sum_of_orders_is_taken(n):
    """Against all products of up to three orders."""
    known = [m for m in range(12, 257, 8) if m not in NONE]
    products = [(a, b, c) for a in [1, *known] for b in [1, *known] for c in [1, *known]]
    sums = [
        sum(m for m in orders if m > 1)
        for orders in products
        if n % math.prod(orders) == 0 and (n // math.prod(orders)).bit_count() == 1
    ]
    assert sum(hadamard.orders(n)[:-1]) == min(sums)


def test_how_many_widths_have_none():
    """Of the multiples of 64 up to 16,384: what docs/methods/hadamard.md says."""
    none = [n for n in range(64, 16385, 64) if hadamard.block(n) != n]
    assert len(none) == 63
    assert none[:4] == [3008, 3776, 4288, 4544]
