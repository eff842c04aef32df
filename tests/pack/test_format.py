"""What every format must do: hold its codes, know its size, and refuse what it cannot hold.

The bytes of each format are pinned in the file named after it.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onebit.errors import (
    FormatError,
    InputError,
    NotTernaryError,
    OptionError,
    ShapeError,
    UnsupportedError,
)
from onebit.pack import FORMATS, Unpacked, decode, find

WRITTEN = [name for name, form in FORMATS.items() if form.packs]
APART = [name for name, form in FORMATS.items() if not form.scale_inside]

BESIDE = [f"i{bits}" for bits in range(2, 9)]  # those that take a minimum beside the scale

# the widths of real models, and those that fit nothing
WIDTHS = [1, 3, 17, 128, 256, 576, 3200, 8640]


def weights(name, N, K, seed=0, scale=0.5):
    """Random codes that the format holds, under one scale that float16 holds too."""
    rng = np.random.default_rng(seed)
    least, greatest = FORMATS[name].codes
    codes_NK = rng.integers(least, greatest + 1, (N, K)).astype(np.int8)
    if name == "b1":
        codes_NK[codes_NK == 0] = 1
    return Unpacked(codes_NK, np.full((N, 1), scale, np.float32))


def outer_scale(name, packed):
    return None if FORMATS[name].scale_inside else packed.scale_NG


def test_the_key_is_the_name():
    assert {name: form.name for name, form in FORMATS.items()} == {name: name for name in FORMATS}


def test_the_formats_are_these():
    """What is read, written, and takes a scale from outside: a change here is one for users."""
    ours, theirs = ["t2", "t1_6", "b1", *BESIDE], ["i2_s", "hf_2bit"]
    few_bits = ["q1_0", "q2_0", "q2_0_g128"]
    simple = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
    k_quants = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
    assert list(FORMATS) == [*ours, "tq1_0", "tq2_0", *few_bits, *simple, *k_quants, *theirs]
    assert list(WRITTEN) == [*ours, "tq1_0", "tq2_0", *simple, *k_quants, *theirs]
    assert list(APART) == [*ours, "hf_2bit"]
    assert [name for name, form in FORMATS.items() if form.takes_minimum] == BESIDE


@pytest.mark.parametrize("K", WIDTHS)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_width_is_held_or_refused(name, K):
    """Where the width fits, what is packed comes back; where it does not, the message helps."""
    form, given_weights = FORMATS[name], weights(name, 5, K)
    if K % form.columns:
        for refuse in (
            lambda: form.pack(given_weights),
            lambda: form.size_bytes(5, K),
            lambda: form.unpack(np.zeros(1, np.uint8), (5, K)),
        ):
            with pytest.raises(ShapeError, match=rf"{name}: {K} columns .* blocks of .*: t2, t1_6"):
                refuse()
        return
    data = form.pack(given_weights)
    assert data.dtype == np.uint8
    assert data.shape == (form.size_bytes(5, K),)
    back = form.unpack(data, (5, K), outer_scale(name, given_weights))
    np.testing.assert_array_equal(back.codes_NK, given_weights.codes_NK)
    assert back.codes_NK.dtype == np.int8
    assert (back.minimum_NG is not None) == form.has_minimum
    np.testing.assert_array_equal(back.values(), given_weights.values())


def test_the_formats_that_fit_are_named():
    with pytest.raises(ShapeError) as caught:
        FORMATS["tq1_0"].size_bytes(1, 576)
    assert str(caught.value) == (
        "tq1_0: 576 columns do not fill whole blocks of 256. "
        "Formats that hold 576 columns: t2, t1_6, b1, i2, i3, i4, i5, i6, i7, i8, q4_0, q4_1, "
        "q5_0, q5_1, q8_0, hf_2bit."
    )


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=25, deadline=None)
@given(N=st.integers(1, 9), units=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_round_trip(name, N, units, seed):
    form = FORMATS[name]
    K = units if form.columns == 1 else form.columns * (1 + units % 3)
    given_weights = weights(name, N, K, seed)
    back = form.unpack(form.pack(given_weights), (N, K), outer_scale(name, given_weights))
    np.testing.assert_array_equal(back.codes_NK, given_weights.codes_NK)
    np.testing.assert_array_equal(back.values(), given_weights.values())


@pytest.mark.parametrize("name", WRITTEN)
def test_more_than_one_chunk(name):
    """Work goes in pieces of a million; the seams must not show."""
    N, K = 1300, 1024 * 2
    given_weights = weights(name, N, K)
    back = FORMATS[name].unpack(
        FORMATS[name].pack(given_weights), (N, K), outer_scale(name, given_weights)
    )
    np.testing.assert_array_equal(back.codes_NK, given_weights.codes_NK)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_length_is_refused(name, change):
    size = FORMATS[name].size_bytes(3, 256)
    scale = None if FORMATS[name].scale_inside else 1.0
    with pytest.raises(FormatError, match=rf"{name}: 3 x 256 weights take {size} bytes"):
        FORMATS[name].unpack(np.zeros(size + change, np.uint8), (3, 256), scale)


@pytest.mark.parametrize("name", FORMATS)
def test_an_absurd_shape_allocates_nothing(name):
    with pytest.raises(FormatError, match="and there are 64"):
        FORMATS[name].unpack(np.zeros(64, np.uint8), (2**40, 2**20), None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(256,), (1, 2, 256), (0, 256), (2, 0), (-1, 256)])
def test_a_shape_that_is_no_matrix_is_refused(name, shape):
    with pytest.raises(ShapeError, match=rf"{name}: the shape is .*accepted: \(rows, columns\)"):
        FORMATS[name].unpack(np.zeros(64, np.uint8), shape)


@pytest.mark.parametrize("name", FORMATS)
def test_data_of_another_type_is_refused(name):
    with pytest.raises(InputError, match="the data is int8 of shape"):
        FORMATS[name].unpack(np.zeros(64, np.int8), (1, 256))
    with pytest.raises(InputError, match="accepted: uint8 of one dimension"):
        FORMATS[name].unpack(np.zeros((2, 32), np.uint8), (1, 256))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_view_with_gaps_unpacks(name):
    given_weights = weights(name, 2, 256)
    data = FORMATS[name].pack(given_weights)
    gaps = np.stack([data, np.full_like(data, 255)], axis=1)[:, 0]
    assert not gaps.flags.c_contiguous
    back = FORMATS[name].unpack(gaps, (2, 256), outer_scale(name, given_weights))
    np.testing.assert_array_equal(back.codes_NK, given_weights.codes_NK)


@pytest.mark.parametrize("name", WRITTEN)
def test_codes_in_any_memory_order_pack_alike(name):
    codes_NK, scale_NG, _ = weights(name, 3, 512)
    columns_first = Unpacked(np.asfortranarray(codes_NK), scale_NG)
    every_second = Unpacked(np.repeat(codes_NK, 2, axis=1)[:, ::2], scale_NG)
    data = FORMATS[name].pack(Unpacked(codes_NK, scale_NG))
    for other in (columns_first, every_second):
        assert FORMATS[name].pack(other).tobytes() == data.tobytes()


@pytest.mark.parametrize("name", WRITTEN)
def test_unpacked_arrays_are_the_callers_own(name):
    """They do not look into the file: it may be mapped read-only, and closed."""
    given_weights = weights(name, 2, 256)
    data = FORMATS[name].pack(given_weights)
    data.flags.writeable = False
    back = FORMATS[name].unpack(data, (2, 256), outer_scale(name, given_weights))
    for array in (back.codes_NK, back.scale_NG):
        assert array.flags.writeable
        assert not np.shares_memory(array, data)
        assert not np.shares_memory(array, given_weights.scale_NG)


# what is refused when packing


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("q8_0", "i8")])
def test_a_code_outside_is_named(name):
    codes_NK, scale_NG = np.ones((2, 256), np.int8), np.ones((2, 1), np.float32)
    greatest = FORMATS[name].codes[1]
    codes_NK[1, 7] = greatest + 1
    with pytest.raises(
        NotTernaryError, match=rf"{name}: the code at row 1, column 7 is {greatest + 1}"
    ):
        FORMATS[name].pack(Unpacked(codes_NK, scale_NG))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in WRITTEN])
def test_a_format_that_is_only_read_says_so(name):
    with pytest.raises(UnsupportedError, match=r"does not write it\. It writes t2, t1_6"):
        FORMATS[name].pack(weights(name, 1, 256))


@pytest.mark.parametrize(
    "name", [name for name in WRITTEN if not FORMATS[name].has_minimum and name not in BESIDE]
)
def test_a_minimum_is_refused(name):
    codes_NK, scale_NG, _ = weights(name, 1, 256)
    with pytest.raises(InputError, match="have a minimum and the format holds none"):
        FORMATS[name].pack(Unpacked(codes_NK, scale_NG, scale_NG))
    with pytest.raises(InputError, match=f"{name}: the format takes no minimum from outside"):
        FORMATS[name].unpack(
            FORMATS[name].pack(weights(name, 1, 256)),
            (1, 256),
            None if FORMATS[name].scale_inside else scale_NG,
            scale_NG,
        )


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (5, 4), (1, 4)])
def test_a_minimum_beside_the_scale_is_added(name, shape):
    codes_NK, _, _ = weights(name, 5, 16)
    rng = np.random.default_rng(1)
    scale, minimum = (rng.uniform(0.1, 1, shape).astype(np.float32) for _ in range(2))
    wide = [np.broadcast_to(factor, (5, shape[1])) for factor in (scale, minimum)]
    data = FORMATS[name].pack(Unpacked(codes_NK, *wide))
    back = FORMATS[name].unpack(data, (5, 16), scale, minimum)
    np.testing.assert_array_equal(back.minimum_NG, wide[1])
    expected = (codes_NK.reshape(5, shape[1], -1) * wide[0][..., None] + wide[1][..., None]).ravel()
    np.testing.assert_array_equal(back.values().ravel(), expected)
    np.testing.assert_array_equal(decode(name, data, (5, 16), scale, minimum).ravel(), expected)


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize(
    ("minimum", "error", "match"),
    [
        (np.ones((2, 3), np.float32), ShapeError, "the minimum has shape"),
        (np.ones((5, 2), np.float32), ShapeError, "give both for the same groups"),
        (np.full((5, 1), np.nan, np.float32), FormatError, "minimum holds a number that is not fi"),
    ],
)
def test_a_minimum_that_does_not_fit_is_refused(name, minimum, error, match):
    codes_NK, scale_NG, _ = weights(name, 5, 16)
    data = FORMATS[name].pack(Unpacked(codes_NK, scale_NG))
    with pytest.raises(error, match=match) as caught:
        FORMATS[name].unpack(data, (5, 16), scale_NG, minimum)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (5, 1), (5, 4), (1, 4)])
def test_zero_points_are_codes_of_the_format_one_for_each_scale(name, rows, groups):
    form, rng = FORMATS[name], np.random.default_rng(2)
    codes_NK = weights(name, 5, 16).codes_NK
    least, greatest = form.codes
    zero_RG = rng.integers(least, greatest + 1, (rows, groups)).astype(np.int8)
    scale = rng.integers(1, 9, (rows, groups)).astype(np.float32) / 8  # so that sums are exact
    ones = np.ones((5, 1), np.float32)
    data = form.pack(Unpacked(codes_NK, ones))
    zero = form.pack(Unpacked(zero_RG, ones[:rows])).reshape(rows, -1)
    back = form.unpack(data, (5, 16), scale, zero=zero)
    less = codes_NK.reshape(5, groups, -1) - zero_RG.astype(np.float32)[..., None]
    np.testing.assert_array_equal(back.values(), (less * scale[..., None]).reshape(5, 16))
    np.testing.assert_array_equal(decode(name, data, (5, 16), scale, None, zero), back.values())
    for wrong in (zero[:, :0], np.repeat(zero, 2, axis=1), np.repeat(zero, 3, axis=0), zero[0]):
        with pytest.raises(FormatError, match=f"{name}: the zeros are bytes of shape"):
            form.unpack(data, (5, 16), scale, zero=wrong)
    with pytest.raises(InputError, match="a minimum and a zero were given"):
        form.unpack(data, (5, 16), scale, scale, zero)


@pytest.mark.parametrize("name", [name for name in APART if name not in BESIDE])
def test_zero_points_are_refused_by_formats_that_take_none(name):
    given = weights(name, 1, 256)
    with pytest.raises(InputError, match=f"{name}: the format takes no zero from outside"):
        FORMATS[name].unpack(
            FORMATS[name].pack(given), (1, 256), given.scale_NG, zero=np.zeros((1, 1), np.uint8)
        )


@pytest.mark.parametrize("name", WRITTEN)
def test_codes_of_another_type_are_refused(name):
    codes_NK, scale_NG, _ = weights(name, 1, 256)
    for codes in (codes_NK.astype(np.float32), codes_NK[0]):
        with pytest.raises(InputError, match=r"accepted: int8 of shape \(N, K\)"):
            FORMATS[name].pack(Unpacked(codes, scale_NG))


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("shape", [(1,), (3, 1), (2, 3), (2, 0)])
def test_a_scale_that_does_not_go_with_the_codes_is_refused(name, shape):
    codes_NK, _, _ = weights(name, 2, 256)
    with pytest.raises(InputError, match=f"{name}: .*scale"):
        FORMATS[name].pack(Unpacked(codes_NK, np.ones(shape, np.float32)))


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_not_finite_is_not_packed(name, bad):
    codes_NK, scale_NG, _ = weights(name, 2, 256)
    scale_NG[1] = bad
    with pytest.raises(InputError, match="not finite"):
        FORMATS[name].pack(Unpacked(codes_NK, scale_NG))


# the scale that is stored apart


@pytest.mark.parametrize("name", APART)
def test_every_shape_of_scale_reaches_its_weights(name):
    codes_NK, _, _ = weights(name, 4, 6)
    data = FORMATS[name].pack(Unpacked(codes_NK, np.ones((4, 1), np.float32)))
    rows = np.array([1, 2, 3, 4], np.float32)
    groups = np.arange(12, dtype=np.float32).reshape(4, 3)
    for scale, wanted_NG in [
        (2.0, np.full((4, 1), 2)),
        ([2.0], np.full((4, 1), 2)),
        (rows, rows[:, None]),
        (rows[:, None], rows[:, None]),
        (groups, groups),
    ]:
        back = FORMATS[name].unpack(data, (4, 6), scale)
        np.testing.assert_array_equal(back.scale_NG, wanted_NG)
        assert back.scale_NG.dtype == np.float32
        wanted = codes_NK * np.repeat(wanted_NG, 6 // wanted_NG.shape[1], axis=1)
        np.testing.assert_array_equal(decode(name, data, (4, 6), scale), wanted)


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("shape", [(3,), (4, 4), (3, 1), (2, 2, 1), (0,), (4, 0)])
def test_a_scale_of_another_shape_is_refused(name, shape):
    data = FORMATS[name].pack(weights(name, 4, 6))
    with pytest.raises(ShapeError, match="the scale has shape"):
        FORMATS[name].unpack(data, (4, 6), np.ones(shape, np.float32))


@pytest.mark.parametrize("name", APART)
def test_a_scale_apart_must_be_given_and_finite(name):
    data = FORMATS[name].pack(weights(name, 4, 6))
    with pytest.raises(InputError, match=r"stored apart from the bytes\. Pass it"):
        FORMATS[name].unpack(data, (4, 6))
    with pytest.raises(FormatError, match="the scale holds a number that is not finite"):
        FORMATS[name].unpack(data, (4, 6), [1, 2, np.nan, 4])


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in APART])
def test_a_second_scale_is_refused(name):
    form = FORMATS[name]
    with pytest.raises(InputError, match="hold their own scale and another was given"):
        form.unpack(np.zeros(form.size_bytes(1, 256), np.uint8), (1, 256), 2.0)


# hostile bytes


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_damaged_bytes_give_codes_in_range_or_one_clear_error(name, changes, seed):
    form, shape = FORMATS[name], (2, 256)
    if form.packs:
        data = form.pack(weights(name, *shape, seed))
    else:
        data = np.full(form.size_bytes(*shape), seed % 60, np.uint8)
    for at, value in changes:
        data[at % data.size] = value
    try:
        back = form.unpack(data, shape, None if form.scale_inside else 1.0)
    except FormatError as error:
        message = str(error)
    else:
        assert back.codes_NK.min() >= form.codes[0]
        assert back.codes_NK.max() <= form.codes[1]
        assert np.isfinite(back.values()).all()
        return
    assert message.startswith(f"{name}: ")
    assert message.endswith("The file is damaged or is in another format.")


def test_an_unknown_format_is_refused_with_the_list():
    with pytest.raises(OptionError, match=r"'iq2_xxs' is not a format of codes\. Known: t2, t1_6"):
        find("iq2_xxs")
    with pytest.raises(OptionError, match="'int8'"):
        decode("int8", np.zeros(4, np.uint8), (1, 4))
    assert find("t2") is FORMATS["t2"]
