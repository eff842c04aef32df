"""Every rule that rounds activations: the integers of the reference and of training."""

import locale

import numpy as np
import pytest

from onebit.errors import OptionError
from onebit.kernels import cpu, ops, reference
from onebit.pack.unpacked import Unpacked
from onebit.scheme import STATIC_ACTIVATIONS

RULES = [*(rule for rule in ops.ACTIVATIONS if rule != "fp"), "dynamic:3.5"]
WIDTHS = [1, 3, 16, 17, 63, 576, 1020]
NO_NUMBERS = {
    "nan": 0x7FC00000,
    "signaling nan": 0xFF800001,
    "nan, all ones": 0xFFFFFFFF,
    "inf": 0x7F800000,
    "-inf": 0xFF800000,
}


def inputs(K, seed=0):
    """Rows of every size, with ties, zeros, extremes, a mean, and one that is all zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, K)).astype(np.float32)
    x *= np.float32(10.0) ** np.arange(-7, 5, dtype=np.float32)[:, None]
    x[3] = 0
    x[4] = np.linspace(-127, 127, K)  # factor 1: halves stay halves
    x[5] = np.round(rng.uniform(-12, 12, K) * 2) / 2  # equal magnitudes, and ties of fp4
    x[5, 0] = 12
    x[6] += 3
    x[7] = rng.choice([-2.0, -1.0, 1.0, 2.0], K)
    x[8, K // 2] = 1e4
    return x


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_the_reference(isa, rule):
    for K in WIDTHS:
        for parts in (1, 3):
            if K % parts or (parts > 1 and rule == "int8_absmax_tensor"):
                continue
            got = ops.quantize(inputs(K), rule, parts)
            for mine, expected in zip(got, reference.quantize(inputs(K), rule, parts), strict=True):
                np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_that_of_training(isa, rule):
    torch = pytest.importorskip("torch")
    activation = pytest.importorskip("onebit.quant.activation")
    for K in WIDTHS:
        for parts in (1, 3):
            if K % parts or (parts > 1 and rule == "int8_absmax_tensor"):
                continue
            x = inputs(K, seed=K)
            # the operation keeps the one scale of all tokens that this rule has while training
            alone = rule != "int8_absmax_tensor"
            trained = activation.quantize(torch.from_numpy(x), rule, parts, per_token=alone)
            codes, scale, minimum = ops.quantize(x, rule, parts)
            np.testing.assert_array_equal(codes, trained.codes.numpy())
            np.testing.assert_array_equal(scale, np.broadcast_to(trained.scale, scale.shape))
            assert (minimum is None) == (trained.minimum is None)
            if minimum is not None:
                np.testing.assert_array_equal(minimum, trained.minimum.numpy())


STATIC = [
    *((rule, 0) for rule in STATIC_ACTIVATIONS if not rule.endswith("_zero")),
    *((f"int{bits}_static_zero", zero) for bits, zero in ((2, -2), (4, 3), (8, -128), (8, 77))),
]


@pytest.mark.parametrize(("rule", "zero"), STATIC)
def test_static_rules_are_the_reference_and_that_of_torch(isa, rule, zero):
    torch = pytest.importorskip("torch")
    activation = pytest.importorskip("onebit.quant.activation")
    for K in (1, 17, 300):
        for scale in (np.float32(0.037), np.float32(3e-7), np.float32(1e4)):
            x = inputs(K, seed=K)
            static = (float(scale), zero)
            got = ops.quantize(x, rule, static=static)
            factors = activation.Static(torch.tensor([scale]))
            if rule.endswith("_zero"):
                factors = factors._replace(zero=torch.tensor([float(zero)]))
            trained = activation.quantize(torch.from_numpy(x), rule, static=factors)
            for mine, wanted in zip(got, reference.quantize(x, rule, static=static), strict=True):
                np.testing.assert_array_equal(mine, wanted)
            np.testing.assert_array_equal(got[0], trained.codes.numpy())
            assert (got[1] == float(trained.scale)).all()
            if trained.minimum is None:
                assert got[2] is None
            else:
                assert (got[2] == float(trained.minimum)).all()
                least, most = activation.static_range(rule)
                assert (
                    ops.quantize(x * 0, rule, static=static)[0].tolist() == (x * 0 + zero).tolist()
                )
                assert least <= zero <= most


@pytest.mark.parametrize(
    ("rule", "static"),
    [
        ("int8_static", None),
        ("int8_static", (0.0, 0)),
        ("int8_static", (float("inf"), 0)),
        ("int8_static", (0.1, 3)),
        ("int4_static_zero", (0.1, 8)),
        ("int8_absmax", (0.1, 0)),
    ],
)
def test_a_static_rule_without_factors_that_serve_is_refused(rule, static):
    with pytest.raises(OptionError, match=f"quantize: .*{rule}"):
        ops.quantize(inputs(8), rule, static=static)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("K", [1, 2, 17, 33])
def test_the_smallest_the_largest_and_equal_numbers(isa, rule, K):
    x = np.ones((5, K), np.float32)
    x[1] = np.float32(1e-45) * np.arange(1, K + 1)  # below the normal range
    x[2] = np.linspace(2e37, 9e37, K)
    x[3, ::2] = -1
    x[4] = -0.0
    got, expected = ops.quantize(x, rule), reference.quantize(x, rule)
    for mine, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_the_largest_of_all_floats_may_be_a_minimum(isa):
    x = np.full((1, 20), np.finfo(np.float32).max)
    codes, scale, minimum = ops.quantize(x, "int8_b1_positive")
    assert minimum[0, 0] == x[0, 0]
    assert not codes.any()
    assert np.isfinite(scale).all()


def with_one(x_TK, row, column, bits):
    """A copy with the float32 of these bits in one place."""
    x_TK = x_TK.copy()
    x_TK.view(np.uint32)[row, column] = bits
    return x_TK


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_one_that_is_no_number_takes_its_row_along(isa, rule, bits):
    for K in (1, 3, 16, 17, 63, 96):
        for parts in {1, 3} if K % 3 == 0 and rule != "int8_absmax_tensor" else {1}:
            x = np.random.default_rng(K).standard_normal((3, K)).astype(np.float32)
            clean = ops.quantize(x, rule, parts)
            for column in {0, K // 2, K - 1}:
                codes, scale, minimum = ops.quantize(with_one(x, 1, column, bits), rule, parts)
                lost = np.zeros(scale.shape, bool)
                lost[1, column // (K // parts)] = True
                if rule == "int8_absmax_tensor":  # one scale for all
                    lost[:] = True
                assert (np.isnan(scale) == lost).all()
                assert minimum is None or (np.isnan(minimum) == lost).all()
                kept = np.repeat(~lost, K // parts, axis=1)
                np.testing.assert_array_equal(codes[kept], clean[0][kept])
                np.testing.assert_array_equal(scale[~lost], clean[1][~lost])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_training_loses_the_same_rows(rule, bits):
    torch = pytest.importorskip("torch")
    activation = pytest.importorskip("onebit.quant.activation")
    x = with_one(inputs(96), 7, 40, bits)
    shared = rule == "int8_absmax_tensor"
    for parts in (1, 3) if not shared else (1,):
        trained = activation.rounded(torch.from_numpy(x), rule, parts, per_token=not shared)
        lost = activation.dequantize(trained).isnan().numpy()
        scale = ops.quantize(x, rule, parts)[1]
        np.testing.assert_array_equal(lost, np.repeat(np.isnan(scale), 96 // parts, axis=1))


@pytest.mark.parametrize("rule", ["fp", *RULES])
@pytest.mark.parametrize("layout", ["t2", "i8", "f32"])
def test_a_product_is_no_number_for_a_row_with_one_that_is_none(isa, rule, layout):
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((3, 64)).astype("f4"), rng.integers(-1, 2, (5, 64)).astype("i1")
    w[:, 9] = 1  # a float product with 0 times infinity would be NaN by itself
    codes = Unpacked(w, np.ones((5, 1), "f4"))
    matrix = ops.repack_floats(w.astype("f4")) if layout == "f32" else ops.repack(codes, layout)
    clean = ops.linear(matrix, x, rule)
    for bits in NO_NUMBERS.values():
        y = ops.linear(matrix, with_one(x, 1, 9, bits), rule)
        assert not np.isfinite(y[1]).any()
        if rule != "int8_absmax_tensor":
            np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_half_is_found_among_what_is_no_number(isa, special):
    for K in (1, 2, 31, 64):
        for count in {1, K // 2, K}:
            x = np.random.default_rng(K).standard_normal((1, K)).astype(np.float32)
            x[0, :count] = special
            kept = (ops.quantize(x, "int8_top50")[0] != 0).sum()
            assert kept <= max(count + 1, (K + 1) // 2)  # NaNs pass, and the largest number


def test_a_number_in_a_rule_has_a_point_in_every_locale():
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "fr_FR"):
            try:
                locale.setlocale(locale.LC_NUMERIC, name)
                break
            except locale.Error:
                continue
        else:
            pytest.skip("no locale with a decimal comma is installed")
        x = np.array([[1, 1, 1, 9]], np.float32)  # the largest is 3 times the mean
        assert np.abs(ops.quantize(x, "dynamic:3.5")[0]).max() == 7  # 4 bits; dynamic:3 is the same
        assert np.abs(ops.quantize(x, "dynamic:2.9")[0]).max() == 127
        x[0, 3] = 6.5  # 2.74 times: by "dynamic:2" it would have 8 bits
        assert np.abs(ops.quantize(x, "dynamic:2.9")[0]).max() == 7
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def test_half_of_the_codes_are_kept_and_ties_with_them(isa):
    x = np.array([[5, -4, 3, -2, 1], [1, -1, 1, 1, 0.5], [0, 0, 0, 7, 0]], np.float32)
    codes = ops.quantize(x, "int8_top50")[0]
    assert (codes != 0).tolist() == [
        [True] * 3 + [False] * 2,
        [True] * 4 + [False],
        [False] * 3 + [True, False],
    ]
    for K in (2, 64, 1020, 4099):
        x = np.random.default_rng(K).standard_normal((3, K)).astype(np.float32)
        kept = ops.quantize(x, "int8_top50")[0] != 0
        size = np.abs(x)
        for row in range(3):
            threshold = np.sort(size[row])[-((K + 1) // 2)]
            assert not kept[row][size[row] < threshold].any()
            assert kept[row][size[row] >= np.maximum(threshold, size[row].max() / 127)].all()


def test_fp4_ties_go_to_the_even_level(isa):
    x = np.array([[0.5, 1.5, 2.5, 3.5, 5, 7, 10, 12, -5, -7, -0.5, 4.5, 5.5]], np.float32)
    codes, scale, _ = ops.quantize(x, "fp4_e2m1")
    assert codes.tolist() == [[0, 2, 2, 4, 4, 8, 8, 12, -4, -8, 0, 4, 6]]
    assert scale.tolist() == [[1.0]]


def test_dynamic_takes_8_bits_for_tokens_with_an_outlier(isa):
    x = np.ones((2, 64), np.float32)
    x[1, 0] = 40
    codes, scale, _ = ops.quantize(x, "dynamic:10")
    wide, narrow = ops.quantize(x, "int8_absmax"), ops.quantize(x, "int4_absmean")
    for row, expected in ((0, narrow), (1, wide)):
        np.testing.assert_array_equal(codes[row], expected[0][row])
        np.testing.assert_array_equal(scale[row], expected[1][row])


def test_layer_norm_is_that_of_training(isa):
    torch = pytest.importorskip("torch")
    for K in WIDTHS:
        x = np.random.default_rng(K).standard_normal((4, K)).astype(np.float32) * 3 + 1
        for parts in (1, 3):
            if K % parts:
                continue
            y = ops.layer_norm(x, 1e-5, parts)
            np.testing.assert_allclose(y, reference.layer_norm(x, 1e-5, parts), atol=2e-5)
            cut = torch.from_numpy(x).unflatten(1, (parts, -1))
            theirs = torch.nn.functional.layer_norm(cut, cut.shape[-1:], eps=1e-5).flatten(1)
            np.testing.assert_allclose(y, theirs, atol=2e-5)


def test_layer_norm_has_the_same_bits_everywhere(monkeypatch):
    x = np.random.default_rng(0).standard_normal((4, 1020)).astype(np.float32)
    results = []
    for isa in cpu.isas():
        monkeypatch.setenv("ONEBIT_ISA", isa)
        results.append(ops.layer_norm(x, 1e-5, 2))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("rule", RULES)
def test_what_is_no_number_has_the_same_codes_everywhere(monkeypatch, rule):
    x = np.array([[np.nan, np.inf, -np.inf, 1, 0, np.nan, 3e38, -3e38], [np.nan] * 8], np.float32)
    results = []
    for isa in cpu.isas():
        monkeypatch.setenv("ONEBIT_ISA", isa)
        results.append(ops.quantize(x, rule)[0])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
