"""q1_0 and q2_0 of both widths: bytes written out, and q1_0 against the package `gguf`."""

import gguf
import numpy as np
import pytest

from onebit.errors import FormatError, ShapeError, UnsupportedError
from onebit.pack import FORMATS, Unpacked, decode

HALF = np.array([0.5], "<f2").view(np.uint8)


def test_the_bits_of_q1_0_are_signs_lowest_first():
    data = np.concatenate([HALF, np.array([0b0000_0101], np.uint8), np.zeros(15, np.uint8)])
    codes, scale, minimum = FORMATS["q1_0"].unpack(data, (1, 128))
    assert codes[0, :4].tolist() == [1, -1, 1, -1]
    assert (codes[0, 4:] == -1).all()
    assert scale.tolist() == [[0.5]]
    assert minimum is None


def test_q1_0_is_the_packages():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, 18), dtype=np.uint8)
    blocks[:, :2] = rng.normal(size=6).astype("<f2")[:, None].view(np.uint8)
    kind = gguf.GGMLQuantizationType.Q1_0
    assert gguf.GGML_QUANT_SIZES[kind] == (128, 18)
    if kind not in gguf.quants._type_traits:
        pytest.skip("this version of gguf has no arithmetic for q1_0")
    wanted = gguf.quants.dequantize(blocks.reshape(3, -1), kind)
    assert decode("q1_0", blocks.reshape(-1), (3, 256)).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("name", "columns", "size"), [("q2_0", 64, 18), ("q2_0_g128", 128, 34)])
def test_the_pairs_of_q2_0_are_codes_plus_1_lowest_first(name, columns, size):
    pairs = np.zeros(size - 2, np.uint8)
    pairs[:2] = 0b11_10_01_00, 0b00_00_00_10  # pair 3 is twice the scale
    codes, scale, _ = FORMATS[name].unpack(np.concatenate([HALF, pairs]), (1, columns))
    assert codes[0, :8].tolist() == [-1, 0, 1, 2, 1, -1, -1, -1]
    assert scale.tolist() == [[0.5]]
    assert decode(name, np.concatenate([HALF, pairs]), (1, columns))[0, 3] == 1.0


@pytest.mark.parametrize("name", ["q1_0", "q2_0", "q2_0_g128"])
def test_each_row_is_cut_into_blocks(name):
    form = FORMATS[name]
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (6, form.block_bytes), dtype=np.uint8)
    blocks[:, :2] = (np.arange(6) / 4).astype("<f2")[:, None].view(np.uint8)
    codes, scale, _ = form.unpack(blocks.reshape(-1), (2, 3 * form.columns))
    assert scale.tolist() == [[0, 0.25, 0.5], [0.75, 1, 1.25]]
    one = form.unpack(blocks[4], (1, form.columns)).codes_NK
    np.testing.assert_array_equal(codes[1, form.columns : 2 * form.columns], one[0])


@pytest.mark.parametrize("name", ["q1_0", "q2_0", "q2_0_g128"])
def test_what_is_refused(name):
    form = FORMATS[name]
    with pytest.raises(ShapeError, match=f"do not fill whole blocks of {form.columns}"):
        form.size_bytes(1, form.columns + 32)
    block = np.zeros(form.block_bytes, np.uint8)
    block[:2] = np.array([np.inf], "<f2").view(np.uint8)
    with pytest.raises(FormatError, match="block 0 of row 0 has a scale"):
        form.unpack(block, (1, form.columns))
    weights = Unpacked(np.ones((1, form.columns), np.int8), np.ones((1, 1), np.float32))
    with pytest.raises(UnsupportedError, match="reads this format and does not write it"):
        form.pack(weights)
