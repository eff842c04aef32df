"""t1_6: all 243 codes, the bytes pinned, and each way to break them."""

from itertools import product

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

T1_6 = FORMATS["t1_6"]
ALL_FIVES = np.array(list(product((-1, 0, 1), repeat=5)), np.int8)  # (243, 5), counting up


def pack(rows):
    codes_NK = np.array(rows, np.int8)
    return T1_6.pack(Unpacked(codes_NK, np.ones((len(rows), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: a change here is a change of file format."""
    rows = [[-1, -1, -1, -1, -1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, -1, 0, 1]]
    assert pack(rows).tobytes() == bytes([0, 128, 255, 205])


def test_all_243_codes():
    """Byte q is ceil(q * 256 / 243), in exact integers, and comes back as the digits of q."""
    packed = pack(ALL_FIVES)
    assert packed.tolist() == [-(-q * 256 // 243) for q in range(243)]
    assert len(set(packed.tolist())) == 243
    back = T1_6.unpack(packed, (243, 5), 1.0)
    np.testing.assert_array_equal(back.codes_NK, ALL_FIVES)


def test_digits_come_from_multiplication_alone():
    """The promise to kernels: trit n is (byte * 3^n mod 256) * 3 >> 8."""
    for byte, codes in zip(pack(ALL_FIVES).tolist(), ALL_FIVES.tolist(), strict=True):
        assert [(((byte * 3**n) % 256) * 3 >> 8) - 1 for n in range(5)] == codes


def test_the_13_other_bytes_are_refused():
    written = set(pack(ALL_FIVES).tolist())
    others = sorted(set(range(256)) - written)
    assert others == [1, 20, 40, 60, 79, 99, 119, 138, 158, 178, 197, 217, 237]
    for value in others:
        with pytest.raises(FormatError, match=f"byte 0 of row 0 is {value:#04x}, which no five"):
            T1_6.unpack(np.array([value], np.uint8), (1, 5), 1.0)


def test_a_bad_byte_is_named():
    data = np.full(3 * 1383, 128, np.uint8)
    data[2 * 1383 + 1000] = 20
    with pytest.raises(FormatError) as caught:
        T1_6.unpack(data, (3, 6912), 1.0)
    assert str(caught.value) == (
        "t1_6: byte 1000 of row 2 is 0x14, which no five trits make. "
        "The file is damaged or is in another format."
    )


def test_a_row_ends_on_a_whole_byte():
    packed = pack([[1], [-1], [0]])
    assert packed.tobytes() == pack([[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [0] * 5]).tobytes()
    assert T1_6.size_bytes(3, 6912) == 3 * 1383


def test_padding_is_checked():
    data = pack([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    with pytest.raises(FormatError, match="row 1 goes on after its 4 columns"):
        T1_6.unpack(data, (2, 4), 1.0)
