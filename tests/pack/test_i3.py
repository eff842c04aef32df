"""i3: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

I3 = FORMATS["i3"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return I3.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[-4, 3, 0, 1, -1, 2, -3, 0]]).tobytes() == bytes([0x38, 0x3B, 0x87])


def test_a_row_ends_on_a_whole_byte_with_bits_0():
    assert pack([[-4, -4, 3], [0, 0, 0]]).tobytes() == bytes([0xC0, 0x01, 0x24, 0x01])
    assert I3.size_bytes(2, 3) == 4


def test_every_byte_value_comes_back():
    data = np.random.default_rng(0).integers(0, 256, 64 * 8 * 3, np.uint8)
    back = I3.unpack(data, (64, 64), 1.0)
    assert sorted(np.unique(back.codes_NK)) == list(range(-4, 4))
    assert I3.pack(back).tobytes() == data.tobytes()


def test_what_is_left_of_a_row_is_checked():
    with pytest.raises(FormatError, match="row 1 goes on after its 3 columns"):
        I3.unpack(np.array([0xC0, 0x01, 0x24, 0x81], np.uint8), (2, 3), 1.0)
