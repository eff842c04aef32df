"""hf_2bit: the bytes, pinned and as transformers packs them, and each way to break them."""

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.pack import FORMATS, Unpacked

HF_2BIT = FORMATS["hf_2bit"]


def pack(codes):
    codes_NK = np.array(codes, np.int8)
    return HF_2BIT.pack(Unpacked(codes_NK, np.ones((len(codes_NK), 1), np.float32)))


def test_packed_bytes_are_these():
    """The format, pinned: 8 rows make 2, and packed row 0 holds rows 0, 2, 4 and 6."""
    rows = [[-1], [0], [0], [1], [1], [-1], [1], [0]]
    assert pack(rows).tobytes() == bytes([0b10_10_01_00, 0b01_00_10_01])


def test_missing_rows_are_0_bits():
    assert pack([[1, 0], [1, 0], [1, 0], [1, 0], [1, 0]]).tobytes() == bytes(
        [0b00_10_10_10, 0b00_01_01_01, 0b00_00_10_10, 0b00_00_01_01]
    )
    assert HF_2BIT.size_bytes(5, 2) == 4


@pytest.mark.parametrize(("N", "K"), [(4, 3), (8, 5), (640, 64), (1, 1), (5, 2), (6, 7), (7, 1)])
def test_the_bytes_are_those_of_transformers(N, K):
    torch = pytest.importorskip("torch")
    bitnet = pytest.importorskip("transformers.integrations.bitnet")
    codes_NK = np.random.default_rng(N).integers(-1, 2, (N, K)).astype(np.int8)
    theirs = bitnet.pack_weights(torch.from_numpy(codes_NK).clone())
    assert pack(codes_NK).tobytes() == theirs.numpy().tobytes()
    unpacked = bitnet.unpack_weights(theirs, dtype=torch.int8).numpy()
    back = HF_2BIT.unpack(theirs.numpy().reshape(-1), (N, K), 1.0)
    np.testing.assert_array_equal(back.codes_NK, unpacked[:N])


@pytest.mark.parametrize("N", range(1, 10))
def test_any_number_of_rows(N):
    codes_NK = np.random.default_rng(N).integers(-1, 2, (N, 3)).astype(np.int8)
    np.testing.assert_array_equal(HF_2BIT.unpack(pack(codes_NK), (N, 3), 1.0).codes_NK, codes_NK)


def test_an_invalid_pair_is_named():
    with pytest.raises(FormatError, match="byte 1 of packed row 1 is 0x30, which holds bit pair 3"):
        HF_2BIT.unpack(np.array([0, 0, 0, 0b00_11_00_00], np.uint8), (8, 2), 1.0)


def test_a_row_too_many_is_refused():
    with pytest.raises(FormatError, match="a row after the 5 rows"):
        HF_2BIT.unpack(pack(np.ones((8, 2))), (5, 2), 1.0)
