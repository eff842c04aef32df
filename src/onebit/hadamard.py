"""Hadamard matrices: which one a size has, and the random signs of its columns.

H = H_m1 (x) H_m2 (x) ... (x) H_power, a Kronecker product: Paley matrices, the largest order
outermost, and Sylvester's for the power of two that is left. Of the products that make a size, that
of the smallest sum of orders. Where there is none, H is block-diagonal with blocks of the largest
power of two in the size. csrc/hadamard.cpp makes the same choice.

Sources: Sylvester 1867; Paley, On orthogonal matrices, 1933.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LARGEST_ORDER = 256
"""Of a Paley factor: a transform costs as many additions for each number."""
MOST_PALEY = 3
"""Paley factors of one matrix."""


def orders(n: int) -> list[int]:
    """Return the orders of the factors, outermost first; the last is a power of two.

    Their product is n, or the block where n has only a block-diagonal matrix.
    """
    found = _paley_orders(n, 12, MOST_PALEY)
    if found is None:
        return [n & -n]
    return [*reversed(found), n // int(np.prod(found, dtype=int))]


def block(n: int) -> int:
    """Return the size of the diagonal blocks: n itself where a whole matrix is known."""
    return int(np.prod(orders(n), dtype=int))


def factors(n: int) -> list[NDArray[np.float32]]:
    """Return the matrices of +-1 whose Kronecker product is the matrix of one block.

    H H^T of the product is `block(n)` times the identity.
    """
    *odd, power = orders(n)
    return [*(paley(m) for m in odd), sylvester(power)]


def signs(seed: int, n: int) -> NDArray[np.float32]:
    """Return n random signs, the same everywhere for a seed; ones for seed 0.

    Sign i is -1 where the top bit of the splitmix64 generator's number i is set, begun at `seed`.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
    """
    if seed == 0:
        return np.ones(n, np.float32)
    z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.where(z >> np.uint64(63), np.float32(-1), np.float32(1))


def sylvester(power: int) -> NDArray[np.float32]:
    """Return the symmetric matrix of +-1 of order `power`, a power of two."""
    H = np.ones((1, 1), np.float32)
    while len(H) < power:
        H = np.block([[H, H], [H, -H]])
    return H


@lru_cache
def paley(m: int) -> NDArray[np.float32]:
    """Return Paley's matrix of order m: I for m = q + 1, q = 3 mod 4; else II, m = 2 q + 2."""
    first = _is_prime(m - 1)
    q = m - 1 if first else m // 2 - 1
    C = np.ones((q + 1, q + 1))
    C[0, 0] = 0.0
    C[1:, 0] = -1.0 if first else 1.0
    C[1:, 1:] = _jacobsthal(q)
    if first:
        H = C + np.eye(q + 1)
    else:
        plus, minus = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
        H = np.kron(C, plus) + np.kron(np.eye(q + 1), minus)
    signs_mm: NDArray[np.float32] = H.astype(np.float32)
    signs_mm.setflags(write=False)  # one array serves all callers
    return signs_mm


def _jacobsthal(q: int) -> NDArray[np.float64]:
    """Return chi(i - j) modulo q: 1 for squares other than 0, -1 for what is none, 0 for 0."""
    character = np.full(q, -1.0)
    character[np.arange(q) ** 2 % q] = 1.0
    character[0] = 0.0
    matrix: NDArray[np.float64] = character[np.subtract.outer(np.arange(q), np.arange(q)) % q]
    return matrix


def _paley_orders(n: int, start: int, most: int) -> list[int] | None:
    """Return the orders of the Paley factors, ascending; None if n is no such product."""
    if n & (n - 1) == 0:
        return []
    found = None
    for m in range(start, min(n, LARGEST_ORDER if most else 0) + 1, 8):
        if n % m or not _has_paley(m):
            continue
        rest = _paley_orders(n // m, m, most - 1)
        if rest is not None and (found is None or m + sum(rest) < sum(found)):
            found = [m, *rest]
    return found


def _has_paley(m: int) -> bool:
    return _is_prime(m - 1) or (m // 2 % 4 == 2 and _is_prime(m // 2 - 1))


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))
