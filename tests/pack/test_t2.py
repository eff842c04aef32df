"""t2: the bytes, pinned, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

T2 = FORMATS["t2"]


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return T2.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    assert pack([[-1, 0, 1, 0, 1, 1, 1, 1]]).tobytes() == bytes([0b01_10_01_00, 0b10_10_10_10])


def test_a_row_ends_on_a_whole_byte():
    packed = pack([[-1, -1, -1, -1, -1], [1, 1, 1, 1, 1]])
    assert packed.tobytes() == bytes([0b00_00_00_00, 0b01_01_01_00, 0b10_10_10_10, 0b01_01_01_10])
    assert T2.size_bytes(2, 5) == 4


def test_every_byte_value_is_four_codes_or_refused():
    unpacked = 0
    for value in range(256):
        data = np.array([value], np.uint8)
        if any((value >> shift) & 3 == 3 for shift in (0, 2, 4, 6)):
            with pytest.raises(FormatError, match=f"{value:#04x}"):
                T2.unpack(data, (1, 4), 1.0)
        else:
            assert pack(T2.unpack(data, (1, 4), 1.0).codes_NK).tobytes() == data.tobytes()
            unpacked += 1
    assert unpacked == 81


def test_an_invalid_pair_is_named():
    with pytest.raises(FormatError) as caught:
        T2.unpack(np.array([0, 0xC0], np.uint8), (1, 8), 1.0)
    assert str(caught.value) == (
        "t2: byte 1 of row 0 is 0xc0, which holds bit pair 3; pairs must be 0, 1 or 2. "
        "The file is damaged or is in another format."
    )


def test_an_invalid_pair_far_into_the_data_is_named():
    data = np.zeros((3000, 512), np.uint8)
    data[2345, 67] = 3
    with pytest.raises(FormatError, match="byte 67 of row 2345 is 0x03"):
        T2.unpack(data.reshape(-1), (3000, 2048), 1.0)


def test_padding_is_checked():
    data = pack([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    data[3] ^= 0b01_00_00_00 | 0b10_00_00_00  # the pad code 0 (pair 1) becomes 1 (pair 2)
    with pytest.raises(FormatError, match="row 1 goes on after its 5 columns"):
        T2.unpack(data, (2, 5), 1.0)
