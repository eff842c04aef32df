"""The Hadamard transform in torch: the matrix of its width, turned back by its transpose."""

import numpy as np
import pytest
import torch

from onebit import hadamard, quant
from onebit.quant.hadamard import transform, turned
from onebit.scheme import LinearScheme

SIZES = [1, 2, 3, 6, 12, 16, 28, 60, 76, 80, 128, 144, 576, 640, 896, 1024]
WIDE = [1536, 2560, 3200, 4096, 4864, 6912, 8640]


def rows(n, T=3):
    return torch.randn(T, n, generator=torch.Generator().manual_seed(n))


def matrix(n):
    """The whole orthonormal matrix of a width, from the factors of a block."""
    H = np.ones((1, 1))
    for factor in hadamard.factors(n):
        H = np.kron(H, factor)
    return torch.from_numpy(np.kron(np.eye(n // len(H)), H) / np.sqrt(len(H)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", [0, 7])
def test_equals_the_matrix(n, seed):
    H, x = matrix(n), rows(n).double()
    signs = torch.from_numpy(hadamard.signs(seed, n))
    y = transform(x, signs)
    torch.testing.assert_close(y.double(), (x * signs) @ H.T, rtol=0, atol=3e-6)
    back = transform(x, signs, transpose=True)
    torch.testing.assert_close(back.double(), x @ H * signs, rtol=0, atol=3e-6)


@pytest.mark.parametrize("n", [*SIZES, *WIDE])
def test_lengths_are_kept_and_the_transpose_goes_back(n):
    x, signs = rows(n), torch.from_numpy(hadamard.signs(3, n))
    y = transform(x, signs)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1), rtol=1e-5, atol=0)
    back = transform(y, signs, transpose=True)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [24, 64, 576])
def test_the_gradient_is_the_transpose(n):
    x, signs = rows(n).requires_grad_(), torch.from_numpy(hadamard.signs(3, n))
    dy = rows(n + 1)[:, :n]
    transform(x, signs).backward(dy)
    torch.testing.assert_close(x.grad, transform(dy, signs, transpose=True))


def test_leading_dimensions_and_bf16():
    x = rows(80, 6).bfloat16()
    y = transform(x.view(2, 3, 80))
    assert y.dtype == torch.float32
    assert torch.equal(y.view(6, 80), transform(x.float()))


def test_both_turns_leave_the_product():
    scheme = LinearScheme("ternary", hadamard="both", signs=5)
    x, w = rows(640), rows(640, 8)
    signs = torch.from_numpy(hadamard.signs(5, 640))
    y = transform(x, signs) @ turned(w, scheme).T
    torch.testing.assert_close(y, x @ w.T, rtol=0, atol=2e-4)
    q = quant.quantize_weight(w, scheme)
    alone = quant.ternary.quantize_absmean(turned(w, scheme))
    assert torch.equal(q.codes_NK, alone.codes_NK)
    assert torch.equal(q.scale_NG, alone.scale_NG)


def test_only_both_turns_the_weights():
    w = rows(64)
    for how in ("none", "input"):
        assert turned(w, LinearScheme("ternary", hadamard=how)) is w


def test_signs():
    """Pinned: a change would change what every model with random signs computes."""
    assert hadamard.signs(0, 5).tolist() == [1] * 5
    # splitmix64 from state 1234567: 0x599ed017fb08fc85, 0x2c73f08458540fa5, 0x883ebce5a3f27c77,
    # 0x3fbef740e9177b3f, 0xe3b8346708cb5ecd
    assert hadamard.signs(1234567, 5).tolist() == [1, 1, -1, 1, -1]
    assert abs(hadamard.signs(2**32 - 1, 10_000).mean()) < 0.03
    assert hadamard.signs(9, 64).tolist() == hadamard.signs(9, 100)[:64].tolist()
    assert hadamard.signs(9, 64).tolist() != hadamard.signs(10, 64).tolist()
