"""What numbers a matrix holds, from matrices whose making is known."""

import ml_dtypes
import numpy as np
import pytest

from onebit import pack
from onebit.analyze.grid import of_tensor, of_unpacked
from onebit.errors import FormatError
from onebit.io import StoredTensor
from onebit.pack import Unpacked

N, K = 48, 256
RNG = np.random.default_rng(3)
CODES = RNG.integers(-1, 2, (N, K)).astype(np.int8)
GAUSS = RNG.standard_normal((N, K)).astype(np.float32) * 0.02


def stored(w, dtype, format):
    data = np.ascontiguousarray(w.astype(dtype)).view(np.uint8).reshape(-1)
    return StoredTensor("w", format, w.shape, data)


@pytest.mark.parametrize(
    ("dtype", "format"),
    [("<f4", "f32"), ("<f2", "f16"), (ml_dtypes.bfloat16, "bf16"), ("<f8", "f64")],
)
def test_a_ternary_grid_shows_in_every_float_type(dtype, format):
    grid = of_tensor(stored(CODES * np.float32(0.0317), dtype, format))
    assert (grid.kind, grid.levels, grid.sharing) == ("ternary", 3, "tensor")
    assert grid.scale_NG[0, 0] == np.float32(np.float32(0.0317).astype(dtype))
    assert grid.zeros == pytest.approx((CODES == 0).mean(), abs=1e-12)
    assert sorted(grid.counts) == sorted(np.unique(CODES, return_counts=True)[1])


def test_gaussian_weights_are_float():
    grid = of_tensor(stored(GAUSS, "<f4", "f32"))
    assert (grid.kind, grid.levels, grid.entropy_bits, grid.scale_NG) == ("float", None, None, None)


@pytest.mark.parametrize(("groups", "sharing"), [(1, "row"), (2, "group:128"), (8, "group:32")])
def test_scales_by_row_and_group(groups, sharing):
    scale_NG = RNG.uniform(0.01, 0.1, (N, groups)).astype(np.float32)
    w = Unpacked(CODES, scale_NG).values()
    grid = of_tensor(stored(w, "<f4", "f32"))
    assert (grid.kind, grid.sharing) == ("ternary", sharing)
    np.testing.assert_array_equal(grid.scale_NG, scale_NG)


def test_an_uneven_group_is_found_when_it_is_claimed():
    codes = np.where(RNG.random((N, 60)) < 0.3, 0, 1).astype(np.int8)
    w = Unpacked(codes, RNG.uniform(0.01, 0.1, (N, 3)).astype(np.float32)).values()
    assert of_tensor(stored(w, "<f4", "f32")).sharing != "group:20"
    assert of_tensor(stored(w, "<f4", "f32"), group=20).sharing == "group:20"


def test_one_weight_off_the_grid_is_off_the_grid():
    w = CODES * np.float32(0.03)
    w[5, 7] = 0.0301
    grid = of_tensor(stored(w, "<f4", "f32"))
    assert (grid.kind, grid.levels) == ("codebook", 4)


def test_binary_has_no_zeros():
    grid = of_tensor(stored(np.where(CODES < 0, -0.5, 0.5), "<f4", "f32"))
    assert (grid.kind, grid.levels, grid.zeros) == ("binary", 2, 0.0)
    assert grid.entropy_bits == pytest.approx(0.92, abs=0.02)  # a third of the signs is minus


@pytest.mark.parametrize(("reach", "kind"), [(3, "int3"), (7, "int4"), (127, "int8")])
@pytest.mark.parametrize(("dtype", "format"), [("<f4", "f32"), ("<f2", "f16")])
def test_integers_stored_as_floats(reach, kind, dtype, format):
    codes = RNG.integers(-reach, reach + 1, (N, K))
    codes[0, 0] = reach
    grid = of_tensor(stored(codes * np.float32(0.013), dtype, format))
    assert (grid.kind, grid.levels) == (kind, len(np.unique(codes)))


def test_all_zeros():
    assert of_tensor(stored(np.zeros((N, K)), "<f4", "f32")).kind == "zero"


def test_plain_integers_are_no_weights():
    with pytest.raises(FormatError, match="w: holds int8, and weights are floats or packed codes"):
        of_tensor(stored(CODES, np.int8, "int8"))


def test_what_is_not_finite_is_said():
    w = GAUSS.copy()
    w[1, 1] = np.nan
    assert not of_tensor(stored(w, "<f4", "f32")).finite


def test_a_large_matrix_is_looked_at_in_pieces():
    codes = RNG.integers(-1, 2, (5000, 1000)).astype(np.int8)  # over two chunks, no multiple of 32
    grid = of_tensor(stored(codes * np.float32(0.03), "<f2", "f16"))
    assert (grid.kind, grid.sharing) == ("ternary", "tensor")
    assert grid.counts[1] == (codes == 0).sum()


@pytest.mark.parametrize("name", ["t2", "t1_6", "tq1_0", "tq2_0", "i2_s", "hf_2bit"])
def test_packed_ternary(name):
    form = pack.FORMATS[name]
    scale = np.full((N, 1), 0.0312, np.float32)
    data = form.pack(Unpacked(CODES, scale))
    tensor = StoredTensor("w", name, (N, K), data, None if form.scale_inside else scale)
    grid = of_tensor(tensor)
    assert (grid.kind, grid.sharing) == ("ternary", "tensor")
    assert grid.scale_NG[0, 0] == pytest.approx(0.0312, rel=1e-3)
    assert grid.entropy_bits == pytest.approx(np.log2(3), abs=0.001)


def test_ternary_hidden_in_int8_codes():
    """Q8_0 made from ternary weights: the codes are -127, 0 and 127."""
    grid = of_unpacked(Unpacked(CODES * np.int8(127), np.full((N, 8), 0.0002, np.float32)))
    assert (grid.kind, grid.levels, grid.sharing) == ("ternary", 3, "tensor")


def test_int4_with_a_minimum():
    codes = RNG.integers(0, 16, (N, K)).astype(np.int8)
    factors = RNG.uniform(0.01, 0.02, (2, N, 8)).astype(np.float32)
    grid = of_unpacked(Unpacked(codes, factors[0], -factors[1]))
    assert (grid.kind, grid.levels, grid.sharing) == ("int4", 16, "group:32")


@pytest.mark.parametrize(
    "values", [[0, np.nan], [0.5, np.nan, 0.25], [0, 1, np.inf, 2], [0, np.inf], [np.nan, np.nan]]
)
def test_few_values_and_one_that_is_not_finite(values):
    grid = of_tensor(stored(np.array([values]), "<f4", "f32"))
    assert (grid.kind, grid.finite) == ("float", False)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_matrix_is_refused(shape):
    with pytest.raises(FormatError, match="holds no weights"):
        of_tensor(stored(np.zeros(shape), "<f4", "f32"))
