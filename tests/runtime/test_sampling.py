"""Choosing a token: each step against its definition, on rows small enough to check by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit.errors import FormatError
from onebit.runtime import sampling
from onebit.runtime.options import GenerateOptions

RNG = np.random.default_rng(0)


def kept(weights):
    return set(np.flatnonzero(weights > 0).tolist())


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
    assert sampling.top_k(logits, 3).tolist() == [1, 2, 4]
    options = GenerateOptions(temperature=1.0, top_k=3)
    drawn = {sampling.choose(logits, [], options, RNG) for _ in range(100)}
    assert drawn == {1, 2, 4}
    options = GenerateOptions(temperature=5.0, top_k=99)
    assert {sampling.choose(logits, [], options, RNG) for _ in range(200)} == {0, 1, 2, 3, 4}


def test_weights_are_the_softmax_over_its_largest():
    logits = np.array([1.0, 3.0, -np.inf, 2.0], np.float32)
    expected = np.exp((logits - 3) / 0.7)
    np.testing.assert_allclose(sampling.soften(logits, 0.7), expected, rtol=1e-6)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    weights = np.array([1.0, 4.0, 2.0, 3.0])
    assert kept(sampling.keep_top_p(weights, 0.35)) == {1}
    assert kept(sampling.keep_top_p(weights, 0.65)) == {1, 3}
    assert kept(sampling.keep_top_p(weights, 0.85)) == {1, 2, 3}
    assert kept(sampling.keep_top_p(np.array([2.0, 0.0, 2.0, 4.0]), 0.6)) == {0, 3}


@given(
    st.integers(2, 60) | st.integers(500, 5000),
    st.floats(0.01, 0.99),
    st.floats(0.1, 6),
    st.integers(0, 2**32 - 1),
)
def test_top_p_is_the_plain_definition(V, p, spread, seed):
    weights = np.exp(np.random.default_rng(seed).normal(0, spread, V)).astype(np.float32)
    order = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[order], dtype=np.float64)
    need = p * weights.sum(dtype=np.float64)
    expected = set(order[np.concatenate([[0.0], sums[:-1]]) < need].tolist())
    assert kept(sampling.keep_top_p(weights, p)) == expected


def test_min_p_is_relative_to_the_likeliest():
    weights = np.array([0.5, 0.26, 0.24, 0.001])
    assert kept(sampling.keep_min_p(weights, 0.5)) == {0, 1}


def test_draw_follows_the_distribution():
    rng = np.random.default_rng(1)
    weights = np.array([2.0, 5.0, 0.0, 3.0])
    counts = np.bincount([sampling.draw(weights, rng) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, [0.2, 0.5, 0.0, 0.3], atol=0.03)


class Fixed:
    """A generator that draws this number."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


def test_draw_inverts_the_running_sum():
    """Weights that sum exactly, over several blocks, some of them empty."""
    weights = np.zeros(2000, np.float32)
    places = [3, 255, 256, 700, 1500, 1999]
    weights[places] = 1
    for i, place in enumerate(places):
        assert sampling.draw(weights, Fixed(i / 6 + 1e-9)) == place
        assert sampling.draw(weights, Fixed((i + 1) / 6 - 1e-9)) == place


@pytest.mark.parametrize("V", [5, 256, 1000])
def test_draw_never_takes_a_removed_token(V):
    weights = np.zeros(V)
    weights[1:3] = 0.3, 0.7
    assert sampling.draw(weights, Fixed(np.nextafter(1.0, 0.0))) == 2
    assert sampling.draw(weights, Fixed(0.0)) == 1


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


@pytest.mark.parametrize("V", [5, 1003, 70_000])
def test_the_chosen_log_probabilities_are_those_of_the_softmax_to_the_bit(V):
    rng = np.random.default_rng(V)
    logits_TV = (9 * rng.normal(size=(4, V))).astype(np.float32)
    chosen_T = rng.integers(0, V, 4)
    expected = sampling.log_softmax(logits_TV)[np.arange(4), chosen_T]
    assert sampling.chosen_logprobs(logits_TV, chosen_T).tolist() == expected.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    with pytest.raises(FormatError, match="not finite"):
        sampling.choose(np.array([0.0, bad], np.float32), [], GenerateOptions(), RNG)


@pytest.mark.parametrize("temperature", [1e-30, 1e-320])
def test_under_a_tiny_temperature_sampling_is_greedy(temperature):
    logits = np.array([1.0, 5.0, 4.9, -300.0], np.float32)
    options = GenerateOptions(temperature=temperature, top_k=3, top_p=0.9, min_p=0.1)
    assert sampling.choose(logits, [], options, RNG) == 1
