"""Rounding to ggml's small blocks: an error below that of ggml's own quantizers."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit import pack
from onebit.errors import ShapeError
from onebit.pack import Unpacked
from onebit.quant import Codes, blockwise, dequantize

SEARCHED = [name for name in blockwise.FORMATS if name != "q8_0"]


def draw(kind, N=64, K=1536):
    rng = np.random.default_rng(7)
    w = {
        "normal": lambda: rng.normal(size=(N, K)),
        "heavy": lambda: rng.standard_t(4, (N, K)),
        "uneven": lambda: (
            rng.normal(size=(N, K)) * rng.lognormal(sigma=1, size=(N, K // 32)).repeat(32, 1)
        ),
        "shifted": lambda: rng.normal(size=(N, K)) + 2 * rng.normal(size=(N, 1)),
    }[kind]()
    return (0.02 * w).astype(np.float32)


def packed(name, q):
    minimum = None if q.minimum_NG is None else q.minimum_NG.numpy()
    return pack.FORMATS[name].pack(Unpacked(q.codes_NK.numpy(), q.scale_NG.numpy(), minimum))


def by_ggml(w, name):
    libgguf = pytest.importorskip("libgguf")
    kind = gguf.GGMLQuantizationType[name.upper()]
    data = np.asarray(libgguf.quantize_rows(w, kind)).view(np.uint8).reshape(len(w), -1)
    return gguf.quants.dequantize(data, kind)


def error(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("kind", ["normal", "heavy", "uneven", "shifted"])
@pytest.mark.parametrize("name", SEARCHED)
def test_closer_than_ggml(name, kind):
    w = draw(kind)
    q = blockwise.FORMATS[name](torch.from_numpy(w))
    assert error(dequantize(q).numpy(), w) < error(by_ggml(w, name), w)


@pytest.mark.parametrize("name", SEARCHED)
def test_the_file_holds_what_was_rounded(name):
    """Scales come out as the format's factors say them, so that packing loses nothing."""
    q = blockwise.FORMATS[name](torch.from_numpy(draw("uneven", 5, 512)))
    read = pack.decode(name, packed(name, q), (5, 512))
    np.testing.assert_array_equal(read, dequantize(q).numpy())


def assert_within_a_step(name, w):
    """A plain grid over the span of a row, which the search may not do worse than in the square."""
    q = blockwise.FORMATS[name](torch.from_numpy(w))
    least, most = pack.FORMATS[name].codes
    assert least <= int(q.codes_NK.min()) <= int(q.codes_NK.max()) <= most
    read = pack.decode(name, packed(name, q), w.shape)
    span_N = np.abs(w).max(axis=1) + np.maximum(0.0, w.max(axis=1) - w.min(axis=1))
    # float16's smallest step is 2^-24, so that a scale, which a code multiplies, can miss by half
    bound_N = np.sqrt(w.shape[1]) * (span_N / (most - least) + (most - least + 1) * 2.0**-25)
    assert (np.linalg.norm(read - w, axis=1) <= bound_N).all()


@pytest.mark.parametrize("name", SEARCHED)
@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float32, (1, 256), elements=st.floats(-(2.0**14), 2.0**14, width=32)),
    st.integers(-40, 0),
)
def test_any_weights_come_back_within_a_step(name, w, exponent):
    assert_within_a_step(name, np.ldexp(w, exponent))


@pytest.mark.parametrize("name", SEARCHED)
def test_tiny_weights_come_back_within_a_step(name):
    """A block's float16 below 6e-5 has few digits, and a k-quant's scales are small multiples."""
    rng = np.random.default_rng(3)
    size_N1 = 10.0 ** np.linspace(-8, -1, 64)[:, None]
    for w in (np.ones((64, 256)), rng.normal(size=(64, 256)), rng.uniform(0.5, 1, (64, 256))):
        assert_within_a_step(name, (size_N1 * w).astype(np.float32))


@pytest.mark.parametrize("name", SEARCHED)
def test_zeros_stay_zeros(name):
    w = torch.zeros(2, 512)
    w[1, 256:] = torch.linspace(-1, 1, 256)
    q = blockwise.FORMATS[name](w)
    assert bool((dequantize(q)[0] == 0).all())
    assert bool((dequantize(q)[1, :256] == 0).all())


@pytest.mark.parametrize("name", SEARCHED)
def test_rounding_again_hardly_changes_anything(name):
    """Not exact, as the search may find another scale; weights on a grid are kept elsewhere."""
    once = dequantize(blockwise.FORMATS[name](torch.from_numpy(draw("normal"))))
    twice = dequantize(blockwise.FORMATS[name](once))
    assert error(twice.numpy(), once.numpy()) < 0.02


@pytest.mark.parametrize("name", SEARCHED)
def test_bf16_is_taken(name):
    w = torch.from_numpy(draw("normal", 2, 256))
    q = blockwise.FORMATS[name](w.bfloat16())
    assert torch.equal(q.codes_NK, blockwise.FORMATS[name](w.bfloat16().float()).codes_NK)
    assert isinstance(q, Codes)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_width_that_does_not_fit_is_refused(name):
    columns = pack.FORMATS[name].columns
    with pytest.raises(ShapeError, match=f"columns do not split into groups of {columns}"):
        blockwise.FORMATS[name](torch.ones(1, columns + 16))
