"""The order of q's and k's rows against the formula of llama.cpp's converter."""

import numpy as np
import pytest

from onebit.errors import ShapeError
from onebit.io import rope_rows


def by_reshaping(w_NK, heads):
    """convert_hf_to_gguf.py, LlamaModel.permute: halves of a head side by side become pairs."""
    N = w_NK.shape[0]
    return w_NK.reshape(heads, 2, N // heads // 2, -1).swapaxes(1, 2).reshape(w_NK.shape)


@pytest.mark.parametrize(("N", "heads"), [(2, 1), (12, 3), (24, 3), (64, 2)])
def test_permute_is_llama_cpps_and_unpermute_its_inverse(N, heads):
    w_NK = np.arange(N * 5, dtype=np.float32).reshape(N, 5)
    permuted = rope_rows.permute(w_NK, heads)
    np.testing.assert_array_equal(permuted, by_reshaping(w_NK, heads))
    np.testing.assert_array_equal(rope_rows.unpermute(permuted, heads), w_NK)


def test_rows_of_a_head_by_hand():
    assert rope_rows.permute(np.arange(6), 1).tolist() == [0, 3, 1, 4, 2, 5]
    assert rope_rows.unpermute(np.array([0, 3, 1, 4, 2, 5]), 1).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("N", "heads"), [(5, 1), (12, 4), (12, 0)])
def test_rows_that_make_no_heads_are_refused(N, heads):
    with pytest.raises(ShapeError, match=f"{N} rows of q or k do not make {heads} heads"):
        rope_rows.permute(np.zeros(N), heads)
