"""Q8_0 against ggml itself: the same bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit import pack
from onebit.errors import ShapeError
from onebit.pack import Unpacked
from onebit.quant import blockwise, dequantize


def packed(w):
    q = blockwise.q8_0(torch.from_numpy(w))
    return pack.FORMATS["q8_0"].pack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy()))


def by_ggml(w):
    libgguf = pytest.importorskip("libgguf")
    data = libgguf.quantize_rows(w, libgguf.GGMLQuantizationType.Q8_0)
    return np.asarray(data).view(np.uint8).reshape(-1)


@pytest.mark.parametrize("seed", range(4))
def test_bytes_are_ggmls(seed):
    rng = np.random.default_rng(seed)
    w = (rng.normal(size=(17, 96)) * rng.lognormal(sigma=3, size=(17, 1))).astype(np.float32)
    w[3] = 0
    w[4] = rng.integers(-254, 255, 96) / 2  # halves, where roundf and round-to-even part
    np.testing.assert_array_equal(packed(w), by_ggml(w))


def test_halves_round_away_from_zero():
    w = torch.zeros(1, 32)
    w[0, :6] = torch.tensor([127.0, 0.5, -0.5, 1.5, -2.5, 0.49999997])
    assert blockwise.q8_0(w).codes_NK[0, :6].tolist() == [127, 1, -1, 2, -3, 0]


def test_the_scale_is_what_the_file_holds():
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    q = blockwise.q8_0(w)
    assert torch.equal(q.scale_NG, q.scale_NG.half().float())
    data = pack.FORMATS["q8_0"].pack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy()))
    read = pack.decode("q8_0", data, (4, 64))
    np.testing.assert_array_equal(read, dequantize(q).numpy())


@given(arrays(np.float32, (2, 32), elements=st.floats(-8, 8, width=32)))
def test_within_half_a_step(array):
    w = torch.from_numpy(array)
    q = blockwise.q8_0(w)
    step = w.abs().amax(dim=1, keepdim=True) / 127
    # half a step, and what float16 takes from the scale of up to 127 steps
    bound = step * (0.5001 + 127 * 2**-11) + 2**-25 * 127
    assert ((w - dequantize(q)).abs() <= bound).all()


def test_a_width_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="33 columns do not split into groups of 32"):
        blockwise.q8_0(torch.ones(1, 33))
