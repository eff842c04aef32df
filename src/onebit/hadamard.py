"""Hadamard matrices: which one a size has, and the random signs of its columns.

H = H_m1 (x) H_m2 (x) ... (x) H_power, a Kronecker product: matrices of orders that are 4 times an
odd number, the largest outermost, and Sylvester's for the power of two that is left. Of the
products that make a size, that of the smallest sum of orders. Where there is none, H is
block-diagonal with blocks of the largest power of two in the size. csrc/hadamard.cpp makes the same
choice and the same matrices.

    Paley I       q + 1     q prime, 3 mod 4                       12, 20, 44, 60, 68, 84, ...
    Paley II      2 q + 2   q prime or its square, 1 mod 4         28, 36, 52, 76, 100, ...
    Goethals and Seidel     4 p, of four circulant matrices        92, 116, 172

Sources: Sylvester 1867; Paley, On orthogonal matrices, 1933; Goethals and Seidel, A skew Hadamard
matrix of order 36, 1970.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Signs = NDArray[np.float32]

LARGEST_ORDER = 256
"""Of a factor but the power of two: a transform costs as many additions for each number."""
MOST_FACTORS = 3
"""Of one matrix, beside the power of two."""

CYCLOTOMIC = {
    92: (23, 5, 11, (0x3C, 0x5F, 0x2ED, 0x571)),
    116: (29, 2, 14, (0x1FB8, 0x215F, 0x2C34, 0x2D2C)),
    172: (43, 3, 6, (0xB, 0xC, 0xD, 0xD)),
}
"""Order 4 p -> p, a primitive root of it, c, and four unions of the classes root^(i + c k), as bits
i. A union is where the first row of a circulant matrix is 1. Found by a search for four whose
autocorrelations add up to 0; the first of them in order."""


def describe(n: int) -> str:
    """Return in one line which matrix rows of n numbers are turned by."""
    names = " x ".join(str(order) for order in orders(n) if order > 1) or "1"
    if block(n) == n:
        return f"Hadamard matrix of order {n} = {names}"
    return (
        f"no Hadamard matrix of order {n} is known here: {n // block(n)} blocks of {block(n)} "
        "are turned each by itself, so that a large value is spread over its block only"
    )


def orders(n: int) -> list[int]:
    """Return the orders of the factors, outermost first; the last is a power of two.

    Their product is n, or the block where n has only a block-diagonal matrix.
    """
    found = _odd_orders(n, 12, MOST_FACTORS)
    if found is None:
        return [n & -n]
    return [*reversed(found), n // int(np.prod(found, dtype=int))]


def block(n: int) -> int:
    """Return the size of the diagonal blocks: n itself where a whole matrix is known."""
    return int(np.prod(orders(n), dtype=int))


def factors(n: int) -> list[Signs]:
    """Return the matrices of +-1 whose Kronecker product is the matrix of one block.

    H H^T of the product is `block(n)` times the identity.
    """
    *odd, power = orders(n)
    return [*(matrix(m) for m in odd), sylvester(power)]


def signs(seed: int, n: int) -> Signs:
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


def sylvester(power: int) -> Signs:
    """Return the symmetric matrix of +-1 of order `power`, a power of two."""
    H = np.ones((1, 1), np.float32)
    while len(H) < power:
        H = np.block([[H, H], [H, -H]])
    return H


@lru_cache
def matrix(m: int) -> Signs:
    """Return the matrix of +-1 of order m, 4 times an odd number; it must be one that is known."""
    if _is_prime(m - 1):
        H = _paley_1(m)
    elif _is_paley_2(m):
        H = _paley_2(m)
    else:
        H = _goethals_seidel(*CYCLOTOMIC[m])
    H.setflags(write=False)  # one array serves all callers
    return H


def _paley_1(m: int) -> Signs:
    """Identity + S, S skew: zero corner, a row of 1, a column of -1, Jacobsthal."""
    H = np.eye(m, dtype=np.float32)
    H[0, 1:], H[1:, 0] = 1, -1
    H[1:, 1:] += _jacobsthal(m - 1)
    return H


def _paley_2(m: int) -> Signs:
    """C symmetric: zero corner, row and column of 1, Jacobsthal; each entry becomes 2 x 2."""
    C = np.ones((m // 2, m // 2), np.float32)
    C[0, 0] = 0
    C[1:, 1:] = _jacobsthal(m // 2 - 1)
    plus, minus = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
    H: Signs = (np.kron(C, plus) + np.kron(np.eye(m // 2), minus)).astype(np.float32)
    return H


def _goethals_seidel(p: int, root: int, classes: int, unions: tuple[int, ...]) -> Signs:
    """Goethals and Seidel's array of four circulant matrices; R turns their columns round."""
    power = [root**k % p for k in range(p - 1)]
    back = np.subtract.outer(np.arange(p), np.arange(p)).T % p  # [i][j] = j - i
    A, *others = (_row(power, classes, union)[back] for union in unions)
    BR, CR, DR = (X[:, ::-1] for X in others)
    BT, CT, DT = (X.T[:, ::-1] for X in others)
    rows = [[A, BR, CR, DR], [-BR, A, DT, -CT], [-CR, -DT, A, BT], [-DR, CT, -BT, A]]
    return np.block(rows).astype(np.float32)


def _row(power: list[int], classes: int, union: int) -> NDArray[np.int8]:
    row = np.ones(len(power) + 1, np.int8)
    for k, at in enumerate(power):
        row[at] = 1 if union >> k % classes & 1 else -1
    return row


def _jacobsthal(q: int) -> Signs:
    """Return chi(i - j) of the field of q elements: 1 for squares but 0, 0 for 0, else -1.

    With q = p^2, number a + p b is a + b w, and w^2 the least number that is no square modulo p.
    """
    p = _prime_of(q)
    squares = {i * i % p for i in range(p)}
    r = min(set(range(p)) - squares) if p < q else 0
    a, b = np.arange(q) % p, np.arange(q) // p
    chi = np.full(q, -1, np.float32)
    chi[(a * a + r * b * b) % p + p * (2 * a * b % p)] = 1
    chi[0] = 0
    minus_a, minus_b = np.subtract.outer(a, a) % p, np.subtract.outer(b, b) % p
    C: Signs = chi[minus_a + p * minus_b]
    return C


def _odd_orders(n: int, start: int, most: int) -> list[int] | None:
    """Return the orders of the factors, ascending, without the power of two; None for none."""
    if n & (n - 1) == 0:
        return []
    found = None
    for m in range(start, min(n, LARGEST_ORDER if most else 0) + 1, 8):
        if n % m or not (_is_prime(m - 1) or _is_paley_2(m) or m in CYCLOTOMIC):
            continue
        rest = _odd_orders(n // m, m, most - 1)
        if rest is not None and (found is None or m + sum(rest) < sum(found)):
            found = [m, *rest]
    return found


def _is_paley_2(m: int) -> bool:
    return m // 2 % 4 == 2 and _prime_of(m // 2 - 1) > 0


def _prime_of(q: int) -> int:
    """Return the prime whose field, or field of pairs, has q elements; 0 if there is none."""
    root = round(q**0.5)
    return q if _is_prime(q) else root if root * root == q and _is_prime(root) else 0


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))
