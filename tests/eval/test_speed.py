"""Timing: nothing wrong is timed. No test asserts a time."""

import numpy as np
import pytest

from onebit import LLM
from onebit.errors import OnebitError
from onebit.eval import speed


@pytest.fixture(scope="module")
def folder(save_tiny):
    return save_tiny("to be timed", num_hidden_layers=2, max_position_embeddings=140)


def test_an_engine_whose_prompt_and_steps_disagree_is_refused(folder, monkeypatch):
    with LLM(folder, threads=1) as llm:
        after = llm.logits_after

        def off(tokens):
            logits, reused = after(tokens)
            return logits + np.float32(len(tokens) == 9), reused

        monkeypatch.setattr(llm, "logits_after", off)
        with pytest.raises(OnebitError, match=r"at position 8, .* token by token .* nothing was"):
            speed.check(llm)


def test_an_engine_whose_batch_disagrees_is_refused(folder, monkeypatch):
    step = speed.Together.step

    def off(self, tokens):
        step(self, tokens)
        self.logits_SV[-1] += 1

    monkeypatch.setattr(speed.Together, "step", off)
    with LLM(folder, threads=1) as llm, pytest.raises(OnebitError, match=r"1, .* in a batch give"):
        speed.check(llm)


def test_times_are_times(folder):
    with LLM(folder, threads=1) as llm:
        assert speed.time_prefill(llm, 128) > 0
        assert speed.time_decode(llm, 3) > 0
        assert speed.time_together(llm, sequences=3, tokens=3) > 0


def test_what_is_written_together_is_what_one_writes(folder):
    with LLM(folder, threads=1) as llm:
        prompts = [speed.random_prompt(llm, n, n) for n in (3, 1, 7)]
        together = speed.Together(llm, prompts, 12)
        together.step([5, 6, 7])
        for row, prompt in enumerate(prompts):
            logits_V, _ = llm.logits_after([*prompt, 5 + row])
            np.testing.assert_array_equal(together.logits_SV[row], logits_V)
