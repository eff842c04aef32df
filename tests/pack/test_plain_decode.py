"""Plain floats through `decode`, and `decode` against `values`."""

import ml_dtypes
import numpy as np
import pytest

from onebit.errors import FormatError, InputError, OptionError, ShapeError
from onebit.pack import FORMATS, decode

DTYPES = {"f32": "<f4", "f16": "<f2", "bf16": ml_dtypes.bfloat16, "f64": "<f8"}


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 4), (), (0, 4)])
def test_floats_of_any_shape(name, shape):
    w = np.random.default_rng(0).normal(size=shape).astype(DTYPES[name])
    got = decode(name, np.frombuffer(w.tobytes(), np.uint8), shape)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, w.astype(np.float32))


def test_bytes_are_these():
    assert decode("f32", np.array([0, 0, 0x80, 0x3F], np.uint8), (1,)) == 1.0
    assert decode("f16", np.array([0, 0x3C], np.uint8), (1,)) == 1.0
    assert decode("bf16", np.array([0x80, 0x3F], np.uint8), (1,)) == 1.0
    assert decode("f64", np.array([0] * 6 + [0xF0, 0x3F], np.uint8), (1,)) == 1.0


def test_numbers_below_the_normal_range_are_kept():
    tiny = np.array([1e-40, -1e-39], ml_dtypes.bfloat16)
    got = decode("bf16", tiny.view(np.uint8), (2,))
    assert (got != 0).all()
    np.testing.assert_array_equal(got, tiny.astype(np.float32))


def test_bytes_that_do_not_start_on_a_word():
    data = np.zeros(9, np.uint8)
    data[1:] = np.array([1.5, -2.0], "<f4").view(np.uint8)
    np.testing.assert_array_equal(decode("f32", data[1:], (2,)), [1.5, -2.0])


@pytest.mark.parametrize("name", DTYPES)
def test_damage_is_refused(name):
    with pytest.raises(FormatError, match=f"{name}: weights of shape .* and there are 3"):
        decode(name, np.zeros(3, np.uint8), (2, 2))
    with pytest.raises(ShapeError, match="must not be negative"):
        decode(name, np.zeros(4, np.uint8), (-1, -2))
    with pytest.raises(InputError, match="accepted: uint8"):
        decode(name, np.zeros(4, np.float32), (2, 2))


def test_floats_have_no_scale():
    with pytest.raises(InputError, match="f32: floats take no scale"):
        decode("f32", np.zeros(4, np.uint8), (1, 1), scale=2.0)


def test_an_integer_type_is_not_weights():
    with pytest.raises(OptionError, match="'i32'"):
        decode("i32", np.zeros(4, np.uint8), (1, 1))


@pytest.mark.parametrize("name", FORMATS)
def test_decode_gives_the_values_of_unpack(name):
    """In pieces: 2,100 rows of 512 are more than one."""
    form = FORMATS[name]
    rng = np.random.default_rng(0)
    data = rng.integers(0, 2, form.size_bytes(2100, 512), dtype=np.uint8)
    if name == "t1_6":
        data = np.where(data == 0, 0, 128).astype(np.uint8)
        data[102::103] = 128  # 512 columns leave three trits of padding
    scale = None if form.scale_inside else 0.37
    np.testing.assert_array_equal(
        decode(name, data, (2100, 512), scale), form.unpack(data, (2100, 512), scale).values()
    )
