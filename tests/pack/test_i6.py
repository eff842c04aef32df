"""i6: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

I6 = FORMATS["i6"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return I6.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[-32, 31, 0, 1, -1, 30, -31, 0]]).tobytes() == bytes(
        [0xC0, 0x0F, 0x86, 0x9F, 0x1F, 0x80]
    )


def test_a_row_ends_on_a_whole_byte_with_bits_0():
    assert pack([[-32, -32, 31], [0, 0, 0]]).tobytes() == bytes(
        [0x00, 0xF0, 0x03, 0x20, 0x08, 0x02]
    )
    assert I6.size_bytes(2, 3) == 6


def test_every_byte_value_comes_back():
    data = np.random.default_rng(0).integers(0, 256, 64 * 8 * 6, np.uint8)
    back = I6.unpack(data, (64, 64), 1.0)
    assert sorted(np.unique(back.codes_NK)) == list(range(-32, 32))
    assert I6.pack(back).tobytes() == data.tobytes()


def test_what_is_left_of_a_row_is_checked():
    with pytest.raises(FormatError, match="row 1 goes on after its 3 columns"):
        I6.unpack(np.array([0x00, 0xF0, 0x03, 0x20, 0x08, 0x82], np.uint8), (2, 3), 1.0)
