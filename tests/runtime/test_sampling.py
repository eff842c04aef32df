"""Choosing a token: each step against its definition, on rows small enough to check by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit.errors import FormatError
from onebit.runtime import sampling
from onebit.runtime.options import GenerateOptions

RNG = np.random.default_rng(0)


def kept(logits):
    return set(np.flatnonzero(logits > -np.inf).tolist())


def logits_of(probabilities):
    return np.log(np.array(probabilities))


def test_greedy_takes_the_lowest_id_of_equals():
    logits = np.array([1.0, 5.0, 5.0, 2.0], np.float32)
    assert sampling.choose(logits, [], GenerateOptions(), RNG) == 1


def test_greedy_draws_nothing():
    rng = np.random.default_rng(7)
    sampling.choose(np.arange(5, dtype=np.float32), [], GenerateOptions(), rng)
    assert rng.random() == np.random.default_rng(7).random()


def test_penalty_divides_positive_and_multiplies_negative_logits():
    logits = np.array([2.0, -2.0, 3.0, 0.0], np.float32)
    out = sampling.penalize(logits, [0, 1, 1, 3], 2.0)
    np.testing.assert_array_equal(out, [1.0, -4.0, 3.0, 0.0])
    np.testing.assert_array_equal(logits, [2.0, -2.0, 3.0, 0.0])  # the input is untouched


def test_penalty_can_change_the_greedy_choice():
    logits = np.array([3.0, 2.9], np.float32)
    options = GenerateOptions(repetition_penalty=1.1)
    assert sampling.choose(logits, [0], options, RNG) == 1


def test_top_k_keeps_k_and_breaks_ties_by_id():
    logits = np.array([1.0, 2.0, 2.0, 2.0, 3.0])
    assert kept(sampling.keep_top_k(logits, 3)) == {4, 1, 2}
    assert kept(sampling.keep_top_k(logits, 99)) == {0, 1, 2, 3, 4}


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = logits_of([0.1, 0.4, 0.2, 0.3])
    assert kept(sampling.keep_top_p(logits, 0.35)) == {1}
    assert kept(sampling.keep_top_p(logits, 0.65)) == {1, 3}
    assert kept(sampling.keep_top_p(logits, 0.85)) == {1, 2, 3}


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_top_p_is_the_plain_definition(V, p, seed):
    logits = np.random.default_rng(seed).normal(0, 4, V)
    probability = np.exp(sampling.log_softmax(logits))
    order = np.argsort(-probability, kind="stable")
    before = np.cumsum(probability[order]) - probability[order]
    expected = set(order[before < p - 1e-12].tolist())
    assert kept(sampling.keep_top_p(logits, p)) == expected


def test_min_p_is_relative_to_the_likeliest():
    logits = logits_of([0.5, 0.26, 0.24, 0.001])
    assert kept(sampling.keep_min_p(logits, 0.5)) == {0, 1}


def test_draw_follows_the_distribution():
    rng = np.random.default_rng(1)
    logits = logits_of([0.2, 0.5, 0.3])
    counts = np.bincount([sampling.draw(logits, rng) for _ in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.2, 0.5, 0.3], atol=0.03)


def test_draw_never_takes_a_removed_token():
    class Almost1:
        def random(self):
            return np.nextafter(1.0, 0.0)

    logits = np.array([0.0, 0.3, 0.7, -np.inf, -np.inf])
    assert sampling.draw(logits, Almost1()) == 2


def test_a_low_temperature_is_nearly_greedy_and_a_high_one_is_not():
    logits = np.array([1.0, 2.0, 3.0], np.float32)
    cold, hot = GenerateOptions(temperature=0.01), GenerateOptions(temperature=50.0)
    rng = np.random.default_rng(2)
    assert {sampling.choose(logits, [], cold, rng) for _ in range(50)} == {2}
    assert {sampling.choose(logits, [], hot, rng) for _ in range(200)} == {0, 1, 2}


def test_filters_work_on_the_tempered_distribution():
    logits = np.array([0.0, 1.0], np.float32)  # 0.27, 0.73; at temperature 10 both about a half
    options = GenerateOptions(temperature=10.0, min_p=0.5)
    rng = np.random.default_rng(3)
    assert {sampling.choose(logits, [], options, rng) for _ in range(100)} == {0, 1}


def test_log_softmax_is_float64_and_does_not_overflow():
    out = sampling.log_softmax(np.array([[1e4, 1e4], [0.0, -1e4]], np.float32))
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, [[-np.log(2), -np.log(2)], [0.0, -1e4]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    with pytest.raises(FormatError, match="not finite"):
        sampling.choose(np.array([0.0, bad], np.float32), [], GenerateOptions(), RNG)


@pytest.mark.parametrize("temperature", [1e-30, 1e-320])
def test_under_a_tiny_temperature_sampling_is_greedy(temperature):
    logits = np.array([1.0, 5.0, 4.9, -300.0], np.float32)
    options = GenerateOptions(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
    assert sampling.choose(logits, [], options, RNG) == 1
