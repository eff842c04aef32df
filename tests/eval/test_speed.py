"""Timing: what is measured is what is said, and nothing wrong is timed. No test asserts a time."""

import numpy as np
import pytest

from onebit import LLM
from onebit.errors import OnebitError, OptionError
from onebit.eval import speed
from onebit.eval.bench import bench_model


@pytest.fixture(scope="module")
def folder(save_tiny):
    return save_tiny("to be timed", num_hidden_layers=2, max_position_embeddings=140)


def test_prompts_that_do_not_fit_are_left_out(folder):
    with LLM(folder, threads=1) as llm:
        result = speed.measure_speed(llm, decode=4, rounds=3)
    assert list(result.prefill_rates_tokens_per_s) == [128]
    assert (result.decode_tokens, result.rounds, result.threads) == (4, 3, 1)
    rates = (result.decode_rate_tokens_per_s, *result.prefill_rates_tokens_per_s.values())
    assert all(rate > 0 for rate in rates)
    assert result.weight_rate_bytes_per_s == result.decode_rate_tokens_per_s * llm.token_bytes


def test_an_engine_whose_prompt_and_steps_disagree_is_not_timed(folder, monkeypatch):
    with LLM(folder, threads=1) as llm:
        after = llm.logits_after

        def off(tokens):
            logits, reused = after(tokens)
            return logits + np.float32(len(tokens) == 9), reused

        monkeypatch.setattr(llm, "logits_after", off)
        with pytest.raises(OnebitError, match=r"at position 8, .* nothing was timed"):
            speed.measure_speed(llm, decode=4)


@pytest.mark.parametrize("options", [{"decode": 0}, {"rounds": 0}, {"decode": 125}])
def test_numbers_that_cannot_be_are_refused(folder, options):
    with LLM(folder, threads=1) as llm, pytest.raises(OptionError, match="bench: decode"):
        speed.measure_speed(llm, **options)


def test_a_bench_names_the_machine(folder):
    result = bench_model(folder, decode=2, rounds=1, threads=1)
    data = result.to_dict()
    assert data["processor"]
    assert data["isa"]
    assert data["peak_memory_bytes"] > 10_000_000
    assert data["load_time_s"] > 0
    assert data["speed"]["decode_tokens"] == 2
