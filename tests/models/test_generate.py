"""Greedy text, token by token."""

import pytest
import torch

from onebit import Architecture, ShapeError, models
from onebit.scheme import SCHEMES

A = Architecture(31, 32, 48, 2, 4, 2, 8, max_position_embeddings=16, eos_token_id=(30,))
PROMPT = [3, 1, 4, 1]


@pytest.fixture
def model():
    made = models.build(A, SCHEMES["bitnet-b1.58"], seed=7)
    with torch.no_grad():  # untie what a new model repeats: its own last token
        made.model.norm.weight.copy_(torch.linspace(-1, 1, 32))
    return made


def test_each_token_is_the_most_likely_one(model):
    text = models.generate(model, PROMPT, 6)
    assert len(text) == 6
    for i, token in enumerate(text):
        logits = model(torch.tensor([PROMPT + text[:i]]))[0, -1]
        assert token == int(logits.argmax())
    assert models.generate(model, PROMPT, 3) == text[:3]


def test_it_stops_behind_an_end_token(model):
    first, *_ = models.generate(model, PROMPT, 6)
    model.architecture = A.__class__(**{**vars(A), "eos_token_id": (first,)})
    assert models.generate(model, PROMPT, 6) == [first]


@pytest.mark.parametrize("prompt", [[], [31], [-1]])
def test_a_prompt_outside_the_vocabulary_is_refused(model, prompt):
    with pytest.raises(ShapeError, match="ids from 0 to 30"):
        models.generate(model, prompt, 1)


def test_a_text_longer_than_the_context_is_refused(model):
    with pytest.raises(ShapeError, match="4 tokens and 13 new ones pass the context of 16"):
        models.generate(model, PROMPT, 13)


def test_a_model_in_training_generates_as_it_will_run():
    """BitNet b1 shares a scale among tokens while it trains; the mode is given back."""
    model = models.build(A, SCHEMES["bitnet-b1"], seed=7)
    expected = models.generate(model.eval(), PROMPT, 6)
    assert models.generate(model.train(), PROMPT, 6) == expected
    assert model.training
    assert model.model.layers[0].self_attn.q_proj.training
