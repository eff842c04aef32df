"""i7: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

I7 = FORMATS["i7"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return I7.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[-64, 63, 0, 1, -1, 62, -63, 0]]).tobytes() == bytes(
        [0x80, 0x3F, 0x30, 0xF8, 0xF3, 0x07, 0x80]
    )


def test_a_row_ends_on_a_whole_byte_with_bits_0():
    assert pack([[-64, -64, 63], [0, 0, 0]]).tobytes() == bytes(
        [0x00, 0xC0, 0x1F, 0x40, 0x20, 0x10]
    )
    assert I7.size_bytes(2, 3) == 6


def test_every_byte_value_comes_back():
    data = np.random.default_rng(0).integers(0, 256, 64 * 8 * 7, np.uint8)
    back = I7.unpack(data, (64, 64), 1.0)
    assert sorted(np.unique(back.codes_NK)) == list(range(-64, 64))
    assert I7.pack(back).tobytes() == data.tobytes()


def test_what_is_left_of_a_row_is_checked():
    with pytest.raises(FormatError, match="row 1 goes on after its 3 columns"):
        I7.unpack(np.array([0x00, 0xC0, 0x1F, 0x40, 0x20, 0x90], np.uint8), (2, 3), 1.0)
