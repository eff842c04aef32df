"""i4: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

I4 = FORMATS["i4"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return I4.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[-8, 7, 0, 1]]).tobytes() == bytes([0xF0, 0x98])


def test_a_row_ends_on_a_whole_byte():
    assert pack([[-8, -8, 7], [0, 0, 0]]).tobytes() == bytes([0x00, 0x8F, 0x88, 0x88])
    assert I4.size_bytes(2, 3) == 4


def test_every_byte_value_comes_back():
    data = np.arange(256, dtype=np.uint8)
    back = I4.unpack(data, (16, 32), 1.0)
    assert sorted(np.unique(back.codes_NK)) == list(range(-8, 8))
    assert I4.pack(back).tobytes() == data.tobytes()


def test_padding_is_checked():
    with pytest.raises(FormatError, match="row 0 goes on after its 1 columns"):
        I4.unpack(np.array([0x08], np.uint8), (1, 1), 1.0)
