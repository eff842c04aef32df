"""i8: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError, InputError, ShapeError
from onebit.pack import FORMATS, Unpacked

I8 = FORMATS["i8"]


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    codes_NK = np.array([[-128, 127, 0], [1, -1, 2]], np.int8)
    data = I8.pack(Unpacked(codes_NK, np.ones((2, 1), np.float32)))
    assert data.tobytes() == bytes([0x80, 0x7F, 0x00, 0x01, 0xFF, 0x02])


def test_every_byte_value_comes_back():
    data = np.arange(256, dtype=np.uint8)
    back = I8.unpack(data, (16, 16), 1.0)
    assert sorted(np.unique(back.codes_NK)) == list(range(-128, 128))
    assert I8.pack(back).tobytes() == data.tobytes()


def test_what_is_broken_is_said():
    data = np.zeros(6, np.uint8)
    with pytest.raises(FormatError, match="i8: 2 x 4 weights take 8 bytes, and there are 6"):
        I8.unpack(data, (2, 4), 1.0)
    with pytest.raises(InputError, match="i8: the scale is stored apart"):
        I8.unpack(data, (2, 3))
    with pytest.raises(ShapeError, match=r"i8: the scale has shape \(4,\)"):
        I8.unpack(data, (2, 3), np.ones(4))
    with pytest.raises(FormatError, match="i8: the scale holds a number that is not finite"):
        I8.unpack(data, (2, 3), np.inf)
