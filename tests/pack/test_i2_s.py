"""i2_s: the bytes, pinned, and each way to break them."""

import struct

import numpy as np
import pytest

from onebit.errors import FormatError, InputError
from onebit.pack import FORMATS, Unpacked

I2_S = FORMATS["i2_s"]


def row(**codes):
    """One row of 128 zeros, but for the columns named c<n>."""
    codes_NK = np.zeros((1, 128), np.int8)
    for column, code in codes.items():
        codes_NK[0, int(column[1:])] = code
    return codes_NK


def test_packed_bytes_are_these():
    """The format, pinned: byte g holds columns g, 32 + g, 64 + g, 96 + g from its highest bits."""
    codes_NK = row(c0=-1, c32=1, c64=-1, c96=1, c31=1, c127=-1)
    data = I2_S.pack(Unpacked(codes_NK, np.array([[0.1]], np.float32)))
    body = bytes([0b00_10_00_10]) + bytes([0b01_01_01_01]) * 30 + bytes([0b10_01_01_00])
    assert data.tobytes() == body + struct.pack("<f", 0.1) + bytes(28)


def test_matches_the_rule_written_as_loops():
    rng = np.random.default_rng(0)
    codes_NK = rng.integers(-1, 2, (3, 384)).astype(np.int8)
    flat = codes_NK.reshape(-1)
    wanted = bytearray(flat.size // 4)
    for i, code in enumerate(flat.tolist()):
        block, at = divmod(i, 128)
        wanted[block * 32 + at % 32] |= (code + 1) << (6 - 2 * (at // 32))
    data = I2_S.pack(Unpacked(codes_NK, np.ones((3, 1), np.float32)))
    assert data[:-32].tobytes() == bytes(wanted)


def test_the_scale_keeps_all_of_float32():
    scale = np.float32(1.2345678)
    given = Unpacked(row(c3=1), np.array([[scale]]))
    back = I2_S.unpack(I2_S.pack(given), (1, 128))
    assert back.scale_NG.tobytes() == given.scale_NG.tobytes()


def test_one_scale_for_the_tensor_comes_back_for_each_row():
    given = Unpacked(np.zeros((4, 256), np.int8), np.full((4, 2), 3, np.float32))
    back = I2_S.unpack(I2_S.pack(given), (4, 256))
    np.testing.assert_array_equal(back.scale_NG, np.full((4, 1), 3))


def test_what_follows_the_scale_does_not_matter():
    """bitnet.cpp leaves the rest of the tail as it was in memory."""
    data = I2_S.pack(Unpacked(row(c5=-1), np.ones((1, 1), np.float32)))
    data[-28:] = 0xAB
    np.testing.assert_array_equal(I2_S.unpack(data, (1, 128)).codes_NK, row(c5=-1))


def test_more_than_one_scale_is_refused():
    with pytest.raises(InputError, match="one scale for the whole tensor and these weights have 2"):
        I2_S.pack(Unpacked(np.zeros((2, 128), np.int8), np.array([[1], [2]], np.float32)))


def test_an_invalid_pair_is_named():
    data = I2_S.pack(Unpacked(np.zeros((2, 256), np.int8), np.ones((2, 1), np.float32)))
    data[64 + 9] = 0b01_11_01_01
    with pytest.raises(FormatError, match="i2_s: byte 9 of row 1 is 0x75, which holds bit pair 3"):
        I2_S.unpack(data, (2, 256))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_refused(bad):
    data = I2_S.pack(Unpacked(row(), np.ones((1, 1), np.float32)))
    data[32:36] = np.frombuffer(struct.pack("<f", bad), np.uint8)
    with pytest.raises(FormatError, match="the scale after the last row is"):
        I2_S.unpack(data, (1, 128))
