"""Rounding to ggml's small blocks: an error below that of ggml's own quantizers."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onebit import pack
from onebit.errors import InputError, ShapeError
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


IMPORTANCE = np.random.default_rng(1).lognormal(sigma=1.5, size=1536).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "heavy", "uneven", "shifted"])
@pytest.mark.parametrize("name", SEARCHED)
def test_closer_than_ggml_where_columns_count_differently(name, kind):
    """Of what both are asked for, the squared error with each column times its importance."""
    libgguf = pytest.importorskip("libgguf")
    w = draw(kind)
    q = blockwise.FORMATS[name](torch.from_numpy(w), torch.from_numpy(IMPORTANCE))
    type_ = gguf.GGMLQuantizationType[name.upper()]
    data = np.asarray(libgguf.quantize_rows(w, type_, IMPORTANCE)).view(np.uint8)
    theirs = gguf.quants.dequantize(data.reshape(len(w), -1), type_)

    def weighted(x):
        return float((IMPORTANCE * (x - w) ** 2).sum())

    assert weighted(dequantize(q).numpy()) < weighted(theirs)


@pytest.mark.parametrize("name", [*SEARCHED, *blockwise.TERNARY])
def test_equal_importance_is_none(name):
    rounded = {**blockwise.FORMATS, **blockwise.TERNARY}[name]
    w = torch.from_numpy(draw("heavy", 4, 512))
    for h in (torch.full((512,), 3e-9), torch.zeros(512)):
        even = dequantize(rounded(w, h)) - w
        assert float(even.norm()) == pytest.approx(
            float((dequantize(rounded(w)) - w).norm()), rel=1e-3
        )


@pytest.mark.parametrize("name", SEARCHED)
def test_what_counts_for_nothing_may_be_lost(name):
    """Columns of no importance leave the steps to the others."""
    w = torch.from_numpy(draw("normal", 4, 256))
    h = torch.arange(256).fmod(2)
    miss, plain = (
        float(((dequantize(q) - w) * h).norm())
        for q in (blockwise.FORMATS[name](w, h), blockwise.FORMATS[name](w))
    )
    assert miss < plain


@pytest.mark.parametrize("name", blockwise.TERNARY)
def test_ternary_blocks_are_the_best_there_are(name):
    w = torch.from_numpy(draw("heavy", 8, 512))
    q = blockwise.TERNARY[name](w)
    best = ((dequantize(q) - w) ** 2).view(8, 2, 256).sum(dim=2)
    for scale in (q.scale_NG * factor for factor in torch.linspace(0.2, 3, 200)):
        codes = (w.view(8, 2, 256) / scale[..., None]).round().clamp(-1, 1)
        other = (codes * scale[..., None] - w.view(8, 2, 256)).square().sum(dim=2)
        assert (best <= other * (1 + 1e-5)).all()  # the scale itself is rounded to float16
    read = pack.decode(name, packed(name, q), (8, 512))
    np.testing.assert_array_equal(read, dequantize(q).numpy())


def test_importance_that_is_none_is_refused():
    w = torch.ones(2, 256)
    with pytest.raises(ShapeError, match=r"importance of shape \(255,\) for 256 columns"):
        blockwise.FORMATS["q4_k"](w, torch.ones(255))
    for bad in (-1.0, float("nan")):
        with pytest.raises(InputError, match="finite numbers of 0 or more"):
            blockwise.FORMATS["q4_k"](w, torch.full((256,), bad))
