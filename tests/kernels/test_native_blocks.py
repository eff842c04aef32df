"""The native search for block formats: torch's codes, scales and minima, bit for bit."""

import functools

import numpy as np
import pytest
import torch

from onebit.kernels import cpu
from onebit.nn import native_blocks
from onebit.quant import blockwise

TORCH = {**blockwise.FORMATS, **blockwise.TERNARY}
NATIVE = {**native_blocks.FORMATS, **native_blocks.TERNARY}


def weights(columns):
    """Rows of every kind, in a number that leaves some groups over, whatever is done at once."""
    rng = np.random.default_rng(3)
    w = rng.normal(size=(19, columns))
    w[1:4] = rng.standard_t(3, (3, columns)) * 10.0 ** np.array([[-8], [-5], [3]])
    w[4] *= rng.lognormal(sigma=2, size=columns // 32).repeat(32)
    w[5, : columns // 2] = 0
    w[6] = 1
    w[7] = rng.integers(-3, 4, columns) / 8  # ties, of sizes and to even
    w[8] = np.abs(w[8]) + 2
    w[9] -= 3
    w[10, ::7] *= 40
    w[11] = 1e-42  # subnormal
    return torch.from_numpy(w.astype(np.float32))


H_K = torch.from_numpy(np.random.default_rng(1).lognormal(sigma=1.5, size=768).astype(np.float32))


@functools.cache
def expected(name, weighed):
    return TORCH[name](weights(768), H_K if weighed else None)


def assert_equal(found, right):
    for a, b in zip(found, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("weighed", [False, True], ids=["plain", "weighed"])
@pytest.mark.parametrize("name", TORCH)
def test_the_numbers_are_torchs(isa, name, weighed):
    w_NK, right = weights(768), expected(name, weighed)
    h_K = H_K if weighed else None
    assert_equal(NATIVE[name](w_NK, h_K), right)
    assert_equal(NATIVE[name](w_NK[:1], h_K), [x if x is None else x[:1] for x in right])


@pytest.mark.parametrize("name", ["q4_k", "q3_k", "q4_0", "tq2_0"])
def test_threads_change_nothing(name):
    w_NK = weights(768).repeat(9, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = NATIVE[name](w_NK)
    finally:
        torch.set_num_threads(before)
    assert_equal(found, [x if x is None else x.repeat(9, 1) for x in expected(name, False)])


def test_other_layouts_of_memory_and_dtypes_are_taken():
    w_NK = weights(768)
    assert_equal(NATIVE["q4_k"](w_NK.T.contiguous().T), expected("q4_k", False))
    assert_equal(NATIVE["q5_0"](w_NK.bfloat16()), TORCH["q5_0"](w_NK.bfloat16().float()))


def test_what_does_not_fit_together_is_refused():
    w, codes = np.zeros((2, 256), np.float32), np.zeros((2, 256), np.int8)
    scale = np.zeros((2, 8), np.float32)
    for arguments, message in (
        (("q9_k", w, None, codes, scale, None, 1), "no block format"),
        (("q4_k", w[:, :128].copy(), None, codes, scale, scale, 1), "a multiple of 256"),
        (("q4_k", w, None, codes, scale, None, 1), "has a minimum"),
        (("q4_0", w, None, codes, scale, scale, 1), "has no minimum"),
        (("q4_0", w, w[0, :9].copy(), codes, scale, None, 1), "a number for each column"),
        (("q4_0", w, None, codes[:1].copy(), scale, None, 1), "codes_NK must be"),
        (("q3_k", w, None, codes, scale, None, 1), "scale_NG must be"),
    ):
        with pytest.raises(ValueError, match=message):
            cpu.round_to_blocks(*arguments)
