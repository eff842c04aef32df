"""i2: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

I2 = FORMATS["i2"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return I2.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[-2, 1, 0, 1, -1, 0, -1, 0]]).tobytes() == bytes([0xEC, 0x99])


def test_a_row_ends_on_a_whole_byte_with_bits_0():
    assert pack([[-2, -2, 1], [0, 0, 0]]).tobytes() == bytes([0x30, 0x2A])
    assert I2.size_bytes(2, 3) == 2


def test_every_byte_value_comes_back():
    data = np.random.default_rng(0).integers(0, 256, 64 * 8 * 2, np.uint8)
    back = I2.unpack(data, (64, 64), 1.0)
    assert sorted(np.unique(back.codes_NK)) == list(range(-2, 2))
    assert I2.pack(back).tobytes() == data.tobytes()


def test_what_is_left_of_a_row_is_checked():
    with pytest.raises(FormatError, match="row 1 goes on after its 3 columns"):
        I2.unpack(np.array([0x30, 0xAA], np.uint8), (2, 3), 1.0)
