"""Rotary positions: angles by hand, what rotation keeps, and the scaled frequencies."""

import math

import numpy as np
import pytest
import torch

from onebit import Architecture, OptionError
from onebit.nn import Rope, rotate


def architecture(theta=10000.0, **scaling):
    return Architecture(
        *(11, 8, 16, 1, 1, 1, 8),
        rope_theta=theta,
        rope_scaling={"rope_type": "default", **scaling},
    )


def test_frequencies_by_hand():
    np.testing.assert_allclose(architecture().inv_freq(), [1, 0.1, 0.01, 0.001], rtol=1e-6)
    assert architecture().inv_freq().dtype == np.float32


def test_a_pair_is_turned_by_position_times_frequency():
    """Value i goes with value i + 4 of a head of 8; position 3 turns pair 1 by 0.3."""
    x = torch.zeros(1, 5, 1, 8)
    x[0, :, 0, 1] = 1
    y = rotate(x, Rope(architecture().inv_freq())(5))[0, 3, 0]
    assert y[1].item() == pytest.approx(math.cos(0.3))
    assert y[5].item() == pytest.approx(math.sin(0.3))
    assert y[[0, 2, 3, 4, 6, 7]].tolist() == [0] * 6


def test_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    rotation = Rope(architecture().inv_freq())(40)
    turned = [rotate(v.expand(1, 40, 1, 8), rotation)[0, :, 0] for v in (q, k)]
    scores = turned[0] @ turned[1].T
    torch.testing.assert_close(scores[30, 25], scores[12, 7])
    torch.testing.assert_close(turned[0].norm(dim=1), q.norm().expand(40))


def test_angles_stay_float32_in_a_bf16_model():
    rope = Rope(architecture().inv_freq())
    exact = rope(2000).cos_TP[1999, 0]
    assert exact.item() == pytest.approx(math.cos(1999), abs=1e-4)
    assert rotate(torch.ones(1, 3, 1, 8).bfloat16(), rope(3)).dtype == torch.bfloat16


def test_linear_scaling_stretches_positions():
    plain, stretched = architecture(), architecture(rope_type="linear", factor=4.0)
    np.testing.assert_allclose(stretched.inv_freq(), plain.inv_freq() / 4, rtol=1e-6)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_llama3_scaling_keeps_fast_pairs_and_slows_slow_ones():
    """10.2 turns in 64 positions: kept. 1.02: just inside. 0.1 and 0.01: divided by 8."""
    ratio = architecture(**LLAMA3).inv_freq() / architecture().inv_freq()
    keep = (64 * 0.1 / (2 * math.pi) - 1) / 3
    np.testing.assert_allclose(ratio, [1, keep + (1 - keep) / 8, 1 / 8, 1 / 8], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 0}, "rope factor is 0"),
        ({"factor": "8"}, "rope factor is '8'"),
        ({"factor": None}, "rope factor is None"),
        ({"factor": float("nan")}, "rope factor is nan"),
        ({"high_freq_factor": 1.0}, "must be larger than low_freq_factor"),
        ({"original_max_position_embeddings": True}, "is True; it must be a number above 0"),
    ],
)
def test_absurd_scaling_is_refused(change, message):
    with pytest.raises(OptionError, match=message):
        architecture(**{**LLAMA3, **change}).inv_freq()


@pytest.mark.parametrize("theta", [0.0, -1.0, float("nan"), float("inf")])
def test_absurd_theta_is_refused(theta):
    with pytest.raises(OptionError, match="rope_theta is"):
        architecture(theta).inv_freq()
