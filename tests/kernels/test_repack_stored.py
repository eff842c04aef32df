"""From the bytes of a file to a matrix: natively the same as through pack's NumPy and `repack`."""

import re

import numpy as np
import pytest

from onebit.errors import FormatError, InputError, OnebitError, OptionError, ShapeError
from onebit.kernels import ops
from onebit.pack import FORMATS, INTEGERS, Unpacked, decode

TERNARY = ("t2", "t1_6", "tq1_0", "tq2_0", "i2_s", "hf_2bit", "q2_0", "q2_0_g128")
WIDTHS = (1, 3, 17, 64, 128, 256, 320, 768, 1280, 1283)
HEIGHTS = (1, 15, 16, 33, 66)


def stored(name, N, K, seed=0, ternary=False):
    """Random bytes that mean something, with the scale where it is stored apart."""
    form, rng = FORMATS[name], np.random.default_rng([seed, N, K])
    if form.packs:
        least, greatest = form.codes
        codes_NK = rng.integers(least, greatest + 1, (N, K)).astype(np.int8)
        if name == "b1":
            codes_NK[codes_NK == 0] = 1
        scale = rng.uniform(0.01, 2, (1 if name == "i2_s" else N, 1)).astype("<f2")
        weights = Unpacked(codes_NK, np.broadcast_to(scale.astype(np.float32), (N, 1)))
        return form.pack(weights), None if form.scale_inside else weights.scale_NG
    blocks = rng.integers(0, 256, (N * K // form.columns, form.block_bytes), dtype=np.uint8)
    if ternary:  # no pair 3
        blocks[:, 2:] &= ~((blocks[:, 2:] & 0x55) << 1)
    for at in form.factors:
        half = rng.normal(size=len(blocks)).astype("<f2")
        blocks[:, at : at + 2] = half[:, None].view(np.uint8)
    return blocks.reshape(-1), None


def shapes(name):
    return [(N, K) for K in WIDTHS if K % FORMATS[name].columns == 0 for N in HEIGHTS]


def assert_same(matrix, data, name, shape, scale, ternary="t2"):
    """As from NumPy: the values, the layout and the size."""
    expected = ops.repack(FORMATS[name].unpack(data, shape, scale))
    index = np.arange(shape[0], dtype=np.int32)
    assert matrix.rows(index).tobytes() == decode(name, data, shape, scale).tobytes()
    assert matrix.shape == expected.shape
    if expected.layout != "t2" or ternary == "t2":
        assert (matrix.layout, matrix.size_bytes) == (expected.layout, expected.size_bytes)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_as_through_numpy(name):
    for seed, shape in enumerate(shapes(name)):
        data, scale = stored(name, *shape, seed)
        assert_same(ops.repack_stored(name, data, shape, scale), data, name, shape, scale)


@pytest.mark.parametrize("ternary", ["t2", "t1_6"])
@pytest.mark.parametrize("name", TERNARY)
def test_ternary_layouts(name, ternary, isa):
    for seed, shape in enumerate(shapes(name)):
        data, scale = stored(name, *shape, seed, ternary=True)
        matrix = ops.repack_stored(name, data, shape, scale, ternary)
        assert_same(matrix, data, name, shape, scale, ternary)
        one = ops.repack(FORMATS[name].unpack(data, shape, scale)).layout == "t2"
        even = name in ("t2", "t1_6", "tq1_0", "tq2_0", "i2_s", "hf_2bit")
        groups = shape[1] // FORMATS[name].columns
        if one and shape[0] * shape[1] > 16:
            assert matrix.layout == (ternary if even or groups == 1 else "t2")
        x = np.random.default_rng(seed).integers(-128, 128, (3, shape[1])).astype(np.int8)
        codes_NK = FORMATS[name].unpack(data, shape, scale).codes_NK
        wanted = x.astype(np.int32) @ codes_NK.T.astype(np.int32)
        np.testing.assert_array_equal(ops.int_sums(matrix, x), wanted)


@pytest.mark.parametrize("group", [32, 64, 96, 192])
@pytest.mark.parametrize("name", INTEGERS)
def test_zero_points_go_off_the_codes_or_into_a_minimum(name, group, isa):
    """The values and products are equal; of few bits there is no minimum in memory."""
    rng, form, (N, K) = np.random.default_rng(group), FORMATS[name], (35, 192)
    least, greatest = form.codes
    codes_NK = rng.integers(least, greatest + 1, (N, K)).astype(np.int8)
    zero_NG = rng.integers(least, greatest + 1, (N, K // group)).astype(np.int8)
    scale_NG = rng.uniform(0.1, 1, zero_NG.shape).astype(np.float16).astype(np.float32)
    ones = np.ones((N, 1), np.float32)
    data = form.pack(Unpacked(codes_NK, ones))
    zero = form.pack(Unpacked(zero_NG, ones)).reshape(N, -1)
    matrix = ops.repack_stored(name, data, (N, K), scale_NG, zero=zero)
    wide_NK = codes_NK.astype(np.float32) - zero_NG.repeat(group, axis=1)
    w_NK = wide_NK * scale_NG.repeat(group, axis=1)
    np.testing.assert_array_equal(matrix.rows(np.arange(N, dtype=np.int32)), w_NK)
    x_TK = rng.normal(size=(3, K)).astype(np.float32)
    codes, scale, _ = ops.quantize(x_TK, "int8_absmax")
    y_TN = ops.linear(matrix, x_TK, "int8_absmax")
    np.testing.assert_allclose(y_TN, codes * scale @ w_NK.T, rtol=0, atol=3e-4 * greatest)
    tiles, factor = 3 * 16, 4 if group == K else 2  # whole rows have float32
    bits = {"i2": 4, "i3": 4, "i5": 6, "i7": 8}.get(name)
    if bits:
        assert matrix.size_bytes == tiles * (K * bits // 8 + K // group * factor)
    minimum = -zero_NG.astype(np.float32) * scale_NG
    of_before = ops.repack_stored(name, data, (N, K), scale_NG, minimum=minimum)
    assert (of_before.layout, of_before.size_bytes) == (matrix.layout, matrix.size_bytes)
    uneven = minimum + np.float32(0.3)  # is a minimum, and no zero-point
    back = ops.repack_stored(name, data, (N, K), scale_NG, minimum=uneven)
    np.testing.assert_array_equal(
        back.rows(np.arange(N, dtype=np.int32)),
        decode(name, data, (N, K), scale_NG, uneven),
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    shape = (555, 512)
    before = ops.threads()
    try:
        ops.set_threads(threads)
        for name in ("t1_6", "tq2_0", "q6_k"):
            data, scale = stored(name, *shape)
            assert_same(ops.repack_stored(name, data, shape, scale), data, name, shape, scale)
    finally:
        ops.set_threads(before)


@pytest.mark.parametrize("name", ["tq1_0", "tq2_0", "q4_0", "q8_0", "q2_0"])
def test_equal_scales_of_a_row_are_one(name):
    form, shape = FORMATS[name], (40, 768)
    data, _ = stored(name, *shape, ternary=True)
    blocks = data.reshape(40, -1, form.block_bytes).copy()
    at = slice(form.factors[0], form.factors[0] + 2)
    blocks[:, :, at] = blocks[:, :1, at]
    data = blocks.reshape(-1).copy()
    one = ops.repack_stored(name, data, shape)
    assert_same(one, data, name, shape, None)
    blocks[39, 2, at] = np.array([0.125], "<f2").view(np.uint8)
    more = ops.repack_stored(name, blocks.reshape(-1), shape)
    assert_same(more, blocks.reshape(-1), name, shape, None)
    assert more.size_bytes > one.size_bytes
    if name != "q4_0" and name != "q8_0":
        assert ops.repack_stored(name, data, shape, ternary="t1_6").layout == "t1_6"
        uneven = ops.repack_stored(name, blocks.reshape(-1), shape, ternary="t1_6")
        assert uneven.layout == "t2"


@pytest.mark.parametrize("ternary", ["t2", "t1_6"])
@pytest.mark.parametrize("name", ["q2_0", "q2_0_g128"])
def test_a_rare_fourth_code_widens_the_whole_matrix(name, ternary):
    """Found only after rows in which it, and perhaps -1, do not occur."""
    form, rng = FORMATS[name], np.random.default_rng(3)
    for N, first in ((1, (0, 1)), (16, (0,)), (33, (-1, 0, 1)), (40, (0, 1))):
        codes_NK = rng.integers(-1, 2, (N, 256)).astype(np.int8)
        codes_NK[0] = rng.choice(np.array(first, np.int8), 256)
        codes_NK[N - 1, 77] = 2
        pairs = (codes_NK + 1).astype(np.uint8).reshape(-1, form.columns // 4, 4)
        data = np.empty((len(pairs), form.block_bytes), np.uint8)
        data[:, :2] = np.array([0.25], "<f2").view(np.uint8)
        data[:, 2:] = (pairs << np.array([0, 2, 4, 6], np.uint8)).sum(2)
        data = data.reshape(-1)
        matrix = ops.repack_stored(name, data, (N, 256), ternary=ternary)
        index = np.arange(N, dtype=np.int32)
        np.testing.assert_array_equal(matrix.rows(index), codes_NK * np.float32(0.25))
        assert matrix.layout == "i4"


def test_a_scale_for_each_group():
    rng = np.random.default_rng(0)
    codes_NK = rng.integers(-1, 2, (35, 128)).astype(np.int8)
    scale_NG = rng.uniform(0.1, 1, (35, 4)).astype(np.float32)
    data = FORMATS["t1_6"].pack(Unpacked(codes_NK, scale_NG))
    for ternary in ("t2", "t1_6"):
        matrix = ops.repack_stored("t1_6", data, (35, 128), scale_NG, ternary)
        assert_same(matrix, data, "t1_6", (35, 128), scale_NG)
    with pytest.raises(ShapeError, match="groups of 8 columns"):
        ops.repack_stored("t1_6", data, (35, 128), np.repeat(scale_NG, 4, axis=1))


@pytest.mark.parametrize("name", ["t2", "t1_6", "tq1_0", "tq2_0", "hf_2bit", "q4_0", "q8_0"])
@pytest.mark.parametrize("codes", [(-1, 1), (0, 1), (0, 0), (1, 1), (-1, 0), (-5, 7), (-7, 8)])
def test_codes_that_need_less_take_less(name, codes):
    """Wherever in the matrix the codes are that need more."""
    form, rng = FORMATS[name], np.random.default_rng(1)
    if codes[0] < form.codes[0] or codes[1] > form.codes[1]:
        return
    for at in (None, 0, 20 * 256 + 7, -1):
        codes_NK = rng.choice(np.array(codes, np.int8), (40, 256))
        if at is not None:
            codes_NK.flat[at] = form.codes[1]
        weights = Unpacked(codes_NK, np.full((40, 1), 0.25, np.float32))
        if form.packs:
            data = form.pack(weights)
        else:  # q4_0
            halves = (codes_NK + 8).view(np.uint8).reshape(-1, 2, 16)
            data = np.empty((len(halves), 18), np.uint8)
            data[:, :2] = np.array([0.25], "<f2").view(np.uint8)
            data[:, 2:] = halves[:, 0] | halves[:, 1] << 4
            data = data.reshape(-1)
        scale = None if form.scale_inside else 0.25
        matrix = ops.repack_stored(name, data, (40, 256), scale)
        assert_same(matrix, data, name, (40, 256), scale)


@pytest.mark.parametrize("form", ["f32", "f16", "bf16"])
def test_floats(form):
    values = np.random.default_rng(0).normal(size=(35, 17)).astype(np.float32)
    bits = {"f32": values, "f16": values.astype("<f2"), "bf16": values.view(np.uint32) >> 16}[form]
    raw = (bits.astype(np.uint16) if form == "bf16" else bits).tobytes()
    data = np.frombuffer(b"?" + raw, np.uint8)[1:]  # nowhere in particular
    matrix = ops.repack_stored(form, data, (35, 17))
    assert matrix.layout == form
    rows = matrix.rows(np.arange(35, dtype=np.int32))
    assert rows.tobytes() == decode(form, data, (35, 17)).tobytes()
    with pytest.raises(FormatError, match=r"take \d+ bytes, and there are"):
        ops.repack_stored(form, data[:-1], (35, 17))
    with pytest.raises(InputError, match="take no scale"):
        ops.repack_stored(form, data, (35, 17), 1.0)


def unpacked_or_message(form, data, shape, scale):
    try:
        return form.unpack(data, shape, scale), ""
    except FormatError as error:
        return None, str(error)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_bytes_are_refused_as_by_numpy(name):
    """The same bytes, with the same message; and no others."""
    form, rng = FORMATS[name], np.random.default_rng(7)
    refused = 0
    for trial in range(60):
        K = max(form.columns, int(rng.choice([17, 60, 128, 256]) // form.columns * form.columns))
        shape = (int(rng.choice([3, 16, 37])), K)
        data, scale = stored(name, *shape, seed=trial)
        data = data.copy()
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(0, data.size))] = rng.integers(0, 256)
        if form.scale_inside and name != "i2_s" and trial % 2:
            at = int(rng.integers(0, data.size // form.block_bytes)) * form.block_bytes
            data[at + form.factors[-1] + 1] |= 0x7C  # no longer finite
        expected, message = unpacked_or_message(form, data, shape, scale)
        if expected is None:
            refused += 1
            with pytest.raises(FormatError, match=f"^{re.escape(message)}$"):
                ops.repack_stored(name, data, shape, scale)
        else:
            matrix = ops.repack_stored(name, data, shape, scale)
            index = np.arange(shape[0], dtype=np.int32)
            assert matrix.rows(index).tobytes() == expected.values().tobytes()
    assert refused or name in ("b1", *INTEGERS)  # whose bytes all mean something


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_of_t1_6_is_taken_or_refused_as_by_numpy(byte):
    data = np.zeros(33 * 12, np.uint8)
    data[5 * 12 + 11], data[32 * 12 + 2] = byte, byte
    try:
        FORMATS["t1_6"].unpack(data, (33, 60), 1.0)
    except FormatError:
        for ternary in ("t2", "t1_6"):
            with pytest.raises(FormatError, match="which no five trits make"):
                ops.repack_stored("t1_6", data, (33, 60), 1.0, ternary)
    else:
        ops.repack_stored("t1_6", data, (33, 60), 1.0, "t1_6")


def test_what_else_is_refused():
    data, one = np.zeros(64, np.uint8), np.ones((4, 1), np.float32)
    with pytest.raises(OptionError, match="ternary is 'i4'"):
        ops.repack_stored("t2", data, (4, 64), one, "i4")
    with pytest.raises(OptionError, match="'t3' is not a format of codes"):
        ops.repack_stored("t3", data, (4, 64), one)
    with pytest.raises(FormatError, match="take 64 bytes, and there are 63"):
        ops.repack_stored("t2", data[1:], (4, 64), one)
    with pytest.raises(InputError, match="Pass it"):
        ops.repack_stored("t2", data, (4, 64))
    with pytest.raises(FormatError, match="not finite"):
        ops.repack_stored("t2", data, (4, 64), one * np.inf)
    with pytest.raises(ShapeError, match="at most 131071"):
        ops.repack_stored("b1", np.zeros(131_072 // 8, np.uint8), (1, 131_072), 1.0)
    with pytest.raises(OnebitError):
        ops.repack_stored("t2", data, (2**40, 2**40), 1.0)


def test_the_native_door_checks_too():
    from onebit.kernels.cpu import Matrix

    data, one = np.zeros(64, np.uint8), np.ones((4, 1), np.float32)
    for wrong in [
        ("t3", data, 4, 64, one),
        ("t2", data, 4, 65, one),
        ("t2", data, 0, 64, one),
        ("t2", data, 2**62, 64, one),
        ("t2", data, 4, 64, None),
        ("t2", data, 4, 64, one[:3]),
        ("t2", data, 4, 64, np.ones((4, 3), np.float32)),
        ("tq2_0", np.zeros(66, np.uint8), 1, 256, one[:1]),
        ("tq2_0", np.zeros(66, np.uint8), 2, 128, None),
        ("t2", data, 4, 64, one, "i8"),
    ]:
        with pytest.raises(ValueError, match=r"."):
            Matrix.from_stored(*wrong)
