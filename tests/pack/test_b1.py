"""b1: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError, NotTernaryError
from onebit.pack import FORMATS, Unpacked

B1 = FORMATS["b1"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return B1.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[1, -1, -1, -1, 1, 1, -1, 1]]).tobytes() == bytes([0b1011_0001])


def test_a_row_ends_on_a_whole_byte():
    assert pack([[1, 1, 1], [-1, 1, -1]]).tobytes() == bytes([0b111, 0b010])
    assert B1.size_bytes(2, 9) == 4


def test_every_byte_value_comes_back():
    data = np.arange(256, dtype=np.uint8)
    back = B1.unpack(data, (256, 8), 1.0)
    assert set(np.unique(back.codes_NK)) == {-1, 1}
    assert B1.pack(back).tobytes() == data.tobytes()


def test_zero_is_no_sign():
    with pytest.raises(NotTernaryError, match=r"row 1, column 0 is 0; accepted: -1 and 1\. Pack"):
        pack([[1, 1], [0, 1]])


def test_padding_is_checked():
    with pytest.raises(FormatError, match="row 0 goes on after its 3 columns"):
        B1.unpack(np.array([0b1111], np.uint8), (1, 3), 1.0)
