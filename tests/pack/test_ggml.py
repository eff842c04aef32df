"""The formats of ggml against ggml itself: `libgguf` (its C code) and `gguf` (its Python).

Floats are compared as bytes: equal to the last bit, the sign of zero included.
"""

import gguf
import libgguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from onebit.errors import FormatError, InputError, ShapeError
from onebit.pack import FORMATS, INTEGERS, Unpacked, decode
from onebit.pack.ggml.block import BlockFormat

FEW_BITS = ("q1_0", "q2_0", "q2_0_g128")
"""Newer than the packages: test_few_bits.py."""
GGML = {
    name: GGMLQuantizationType[name.upper()]
    for name, form in FORMATS.items()
    if isinstance(form, BlockFormat) and name not in FEW_BITS
}
TERNARY = ("tq1_0", "tq2_0")


def theirs(w_NK, name):
    """Quantize with ggml's C code: bytes, 1-D."""
    return np.asarray(libgguf.quantize_rows(w_NK, GGML[name])).view(np.uint8).reshape(-1)


def dequantized(data, name, shape):
    return gguf.quants.dequantize(data.reshape(shape[0], -1), GGML[name])


def floats(N, K, seed=0):
    """Weights whose blocks differ in size, sign and offset, with a block of zeros."""
    rng = np.random.default_rng(seed)
    w_NK = rng.normal(size=(N, K)) * np.exp(rng.normal(size=(N, K // 32)).repeat(32, axis=1))
    w_NK += rng.normal(size=(N, 1))
    w_NK[0, :32] = 0
    return w_NK.astype(np.float32)


def ternary(N, K, seed=0, scale=0.0371):
    """Ternary weights with a code other than 0 in each block, as floats and as codes."""
    codes_NK = np.random.default_rng(seed).integers(-1, 2, (N, K)).astype(np.int8)
    codes_NK[:, ::256] = 1
    scale = np.float32(scale)
    return codes_NK * scale, Unpacked(codes_NK, np.full((N, 1), scale))


def test_these_are_ggmls_formats():
    ours = {"t2", "t1_6", "b1", *INTEGERS}
    assert set(FORMATS) - set(GGML) == {*ours, "i2_s", "hf_2bit", *FEW_BITS}


@pytest.mark.parametrize("name", GGML)
def test_blocks_are_as_large_as_ggmls(name):
    columns, size = gguf.GGML_QUANT_SIZES[GGML[name]]
    assert (FORMATS[name].columns, FORMATS[name].block_bytes) == (columns, size)
    assert FORMATS[name].size_bytes(3, 2 * columns) == 6 * size


@pytest.mark.parametrize("shape", [(1, 256), (3, 256), (5, 768), (2, 6912)])
@pytest.mark.parametrize("name", GGML)
def test_values_are_ggmls_to_the_last_bit(name, shape):
    data = theirs(floats(*shape, seed=shape[1]), name)
    wanted = dequantized(data, name, shape)
    assert decode(name, data, shape).tobytes() == wanted.tobytes()
    unpacked = FORMATS[name].unpack(data, shape)
    assert unpacked.values().tobytes() == wanted.tobytes()
    assert shape[1] % unpacked.scale_NG.shape[1] == 0
    assert len(np.unique(unpacked.codes_NK)) > 2


def random_blocks(name, seed):
    """Eight blocks of random bytes, whose factors are of a common size."""
    form, rng = FORMATS[name], np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (8, form.block_bytes), dtype=np.uint8)
    for at in form.factors:
        half = rng.normal(size=8).astype("<f2")
        blocks[:, at : at + 2] = half[:, None].view(np.uint8)
    return blocks


@pytest.mark.parametrize("name", GGML)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_bytes_mean_what_they_mean_to_ggml(name, seed):
    """Bytes that no quantizer would write too: every scale, minimum and code value occurs."""
    form, blocks = FORMATS[name], random_blocks(name, seed)
    if name == "tq2_0":  # pair 3 is refused
        blocks[:, :64] &= ~((blocks[:, :64] & 0x55) << 1)
    data, shape = blocks.reshape(-1), (4, 2 * form.columns)
    assert decode(name, data, shape).tobytes() == dequantized(data, name, shape).tobytes()


@pytest.mark.parametrize("name", GGML)
def test_a_factor_that_is_not_finite_is_named(name):
    form = FORMATS[name]
    K = 3 * form.columns
    for at in form.factors:
        for bad in (0x7C00, 0xFC00, 0x7E00):  # inf, -inf, nan
            blocks = np.zeros((6, form.block_bytes), np.uint8)
            blocks[5, at : at + 2] = np.array([bad], "<u2").view(np.uint8)
            with pytest.raises(FormatError, match=rf"{name}: block 2 of row 1 has a scale"):
                form.unpack(blocks.reshape(-1), (2, K))


@pytest.mark.parametrize("name", GGML)
def test_the_largest_factors_stay_finite(name):
    """No sum of the format's numbers leaves float32, whatever the bytes."""
    form = FORMATS[name]
    blocks = np.full((1, form.block_bytes), 0xAA, np.uint8)
    for at in form.factors:
        blocks[:, at : at + 2] = np.array([65504], "<f2").view(np.uint8)
    assert np.isfinite(decode(name, blocks.reshape(-1), (1, form.columns))).all()


# what onebit writes


@pytest.mark.parametrize("shape", [(1, 256), (3, 512), (5, 2560), (2, 6912)])
@pytest.mark.parametrize("name", TERNARY)
def test_ternary_bytes_are_ggmls(name, shape):
    w_NK, codes = ternary(*shape, seed=shape[1])
    packed = FORMATS[name].pack(codes)
    assert packed.tobytes() == theirs(w_NK, name).tobytes()
    assert packed.tobytes() == gguf.quants.quantize(w_NK, GGML[name]).tobytes()


@pytest.mark.parametrize("name", TERNARY)
def test_a_scale_per_row_or_group_goes_to_its_blocks(name):
    codes_NK = ternary(3, 1024)[1].codes_NK
    for G in (1, 2, 4):
        scale_NG = np.arange(1, 3 * G + 1, dtype=np.float32).reshape(3, G)
        back = FORMATS[name].unpack(FORMATS[name].pack(Unpacked(codes_NK, scale_NG)), (3, 1024))
        np.testing.assert_array_equal(back.scale_NG, np.repeat(scale_NG, 4 // G, axis=1))


@pytest.mark.parametrize("name", TERNARY)
def test_a_block_of_zeros_keeps_its_scale(name):
    """Where ggml, which sees only floats, writes 0: the weights are equal, ours say more."""
    codes = Unpacked(np.zeros((1, 256), np.int8), np.full((1, 1), 0.5, np.float32))
    data = FORMATS[name].pack(codes)
    back = FORMATS[name].unpack(data, (1, 256))
    assert back.scale_NG[0, 0] == 0.5
    of_ggml = dequantized(theirs(np.zeros((1, 256), np.float32), name), name, (1, 256))
    assert back.values().tobytes() == of_ggml.tobytes()


@pytest.mark.parametrize("shape", [(1, 32), (3, 96), (2, 576), (4, 3200)])
def test_q8_0_bytes_are_ggmls(shape):
    """Given the codes that ggml rounds to, and its scale."""
    w_NK = floats(*shape)
    data = theirs(w_NK, "q8_0")
    back = FORMATS["q8_0"].unpack(data, shape)
    assert FORMATS["q8_0"].pack(back).tobytes() == data.tobytes()
    w_NGk = w_NK.reshape(shape[0], -1, 32)
    scale_NG = np.abs(w_NGk).max(axis=2) / np.float32(127)
    inverse_NG = np.divide(1, scale_NG, where=scale_NG > 0, out=np.zeros_like(scale_NG))
    turned = w_NGk * inverse_NG[..., None]
    codes_NGk = np.copysign(np.floor(np.abs(turned) + np.float32(0.5)), turned)
    packed = FORMATS["q8_0"].pack(Unpacked(codes_NGk.astype(np.int8).reshape(shape), scale_NG))
    assert packed.tobytes() == data.tobytes()


def test_q8_0_holds_minus_128():
    codes = Unpacked(np.full((1, 32), -128, np.int8), np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(decode("q8_0", FORMATS["q8_0"].pack(codes), (1, 32)), -128)


@pytest.mark.parametrize("name", [*TERNARY, "q8_0"])
def test_a_group_smaller_than_a_block_is_refused(name):
    columns = FORMATS[name].columns
    codes = Unpacked(np.zeros((1, columns), np.int8), np.ones((1, 2), np.float32))
    with pytest.raises(ShapeError, match=f"a scale for {columns // 2} columns does not go into"):
        FORMATS[name].pack(codes)


@pytest.mark.parametrize("name", [*TERNARY, "q8_0"])
@pytest.mark.parametrize("scale", [65520, 1e30, 2e-8, -1e-12])
def test_a_scale_that_float16_would_lose_is_refused(name, scale):
    codes = Unpacked(np.ones((2, 256), np.int8), np.array([[1], [scale]], np.float32))
    with pytest.raises(InputError, match="does not fit the format's float16"):
        FORMATS[name].pack(codes)


@pytest.mark.parametrize("scale", [0.0, 6e-8, 65504, -1])
def test_a_scale_that_float16_holds_is_kept(scale):
    codes = Unpacked(np.ones((1, 256), np.int8), np.full((1, 1), scale, np.float32))
    back = FORMATS["tq2_0"].unpack(FORMATS["tq2_0"].pack(codes), (1, 256))
    assert back.scale_NG[0, 0] == np.float32(np.float16(scale))


# the two ternary formats, pinned


def test_tq2_0_bytes_are_these():
    codes_NK = np.zeros((1, 256), np.int8)
    codes_NK[0, [0, 32, 64, 96]] = [-1, 0, 1, 1]  # byte 0 of the first half
    codes_NK[0, 128 + 96 + 31] = -1  # byte 31 of the second half
    data = FORMATS["tq2_0"].pack(Unpacked(codes_NK, np.ones((1, 1), np.float32)))
    assert data[0] == 0b10_10_01_00
    assert data[63] == 0b00_01_01_01
    assert set(data[1:63].tolist()) == {0b01_01_01_01}
    assert data[64:].tobytes() == bytes([0x00, 0x3C])


def test_tq1_0_bytes_are_these():
    codes_NK = np.zeros((1, 256), np.int8)
    codes_NK[0, [0, 32, 64, 96, 128]] = [1, 0, -1, 0, 1]  # byte 0: 205, as in t1_6
    codes_NK[0, [160 + 15 + 16 * n for n in range(5)]] = 1  # byte 47: all ones
    codes_NK[0, [240 + 3 + 4 * n for n in range(4)]] = 1  # byte 51: q = 80 * 3
    data = FORMATS["tq1_0"].pack(Unpacked(codes_NK, np.ones((1, 1), np.float32)))
    assert data[0] == 205
    assert data[47] == 255
    assert data[51] == -(-240 * 256 // 243)
    assert set(data[1:47].tolist()) == {128}
    assert set(data[48:51].tolist()) == {-(-120 * 256 // 243)}
    assert data[52:].tobytes() == bytes([0x00, 0x3C])


def test_tq1_0_gives_every_byte_its_trits():
    """The 13 bytes that are never written too: they decode like the byte below them, as in ggml."""
    blocks = np.zeros((256, 54), np.uint8)
    blocks[:, :52] = np.arange(256)[:, None]
    blocks[:, 52:] = [0x00, 0x3C]
    shape = (256, 256)
    got = FORMATS["tq1_0"].unpack(blocks.reshape(-1), shape)
    assert got.values().tobytes() == dequantized(blocks.reshape(-1), "tq1_0", shape).tobytes()
    written = {-(-q * 256 // 243) for q in range(243)}
    for value in set(range(256)) - written:
        np.testing.assert_array_equal(got.codes_NK[value], got.codes_NK[value - 1])


def test_tq2_0_names_an_invalid_pair():
    blocks = np.zeros((6, 66), np.uint8)
    blocks[4, 7] = 0xC0
    with pytest.raises(FormatError, match="tq2_0: byte 7 of block 1 of row 1 is 0xc0, which holds"):
        FORMATS["tq2_0"].unpack(blocks.reshape(-1), (2, 768))


WITH_FACTORS = ("q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")


@pytest.mark.parametrize("shape", [(1, 256), (5, 768)])
@pytest.mark.parametrize("name", WITH_FACTORS)
def test_what_ggml_wrote_packs_to_the_same_weights(name, shape):
    data = theirs(floats(*shape, seed=shape[1]), name)
    unpacked = FORMATS[name].unpack(data, shape)
    again = FORMATS[name].pack(unpacked)
    assert decode(name, again, shape).tobytes() == dequantized(data, name, shape).tobytes()
    if name in ("q4_0", "q4_1", "q5_0", "q5_1"):  # one way to say it
        assert again.tobytes() == data.tobytes()


@pytest.mark.parametrize("name", WITH_FACTORS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_blocks_pack_to_the_same_weights(name, seed):
    form, blocks = FORMATS[name], random_blocks(name, seed)
    shape = (4, 2 * form.columns)
    before = form.unpack(blocks.reshape(-1), shape)
    after = form.unpack(form.pack(before), shape)
    np.testing.assert_array_equal(after.codes_NK, before.codes_NK)
    np.testing.assert_array_equal(after.values(), before.values())


@pytest.mark.parametrize("name", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_scales_that_are_no_multiples_are_named(name):
    scale_NG = np.full((2, 512 // 16), 0.5, np.float32)
    if name in ("q4_k", "q5_k"):
        scale_NG = scale_NG[:, ::2].copy()
    scale_NG[1, -1] = 0.1
    codes = Unpacked(np.ones((2, 512), np.int8), scale_NG)
    with pytest.raises(InputError, match=f"{name}: the scales or minima of block 1 of row 1"):
        FORMATS[name].pack(codes)
