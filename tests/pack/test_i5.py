"""i5: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

I5 = FORMATS["i5"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return I5.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[-16, 15, 0, 1, -1, 14, -15, 0]]).tobytes() == bytes(
        [0xE0, 0xC3, 0xF8, 0x7C, 0x80]
    )


def test_a_row_ends_on_a_whole_byte_with_bits_0():
    assert pack([[-16, -16, 15], [0, 0, 0]]).tobytes() == bytes([0x00, 0x7C, 0x10, 0x42])
    assert I5.size_bytes(2, 3) == 4


def test_every_byte_value_comes_back():
    data = np.random.default_rng(0).integers(0, 256, 64 * 8 * 5, np.uint8)
    back = I5.unpack(data, (64, 64), 1.0)
    assert sorted(np.unique(back.codes_NK)) == list(range(-16, 16))
    assert I5.pack(back).tobytes() == data.tobytes()


def test_what_is_left_of_a_row_is_checked():
    with pytest.raises(FormatError, match="row 1 goes on after its 3 columns"):
        I5.unpack(np.array([0x00, 0x7C, 0x10, 0xC2], np.uint8), (2, 3), 1.0)
