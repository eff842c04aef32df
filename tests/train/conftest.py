"""A tiny recipe on a tiny text, for the tests that really train."""

import random

import pytest

from onebit.train.progress import Silent

TINY = """
scheme = "bitnet-b1.58"
precision = "fp32"
threads = 1
evaluations = 2
held_out_windows = 2
checkpoint_every = 5
log_every = 1
[model]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
[data]
source = "{source}"
held_out = "every:4"
vocab_size = 300
context = 16
[optim]
batch = 2
accumulate = 2
[schedule]
lr = 1e-2
[budget]
steps = 20
"""
TEXT = "the people of this union ask the congress for peace and a good year of work"


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    """The path of a recipe of 20 steps; its twelve short documents are always the same."""
    folder = tmp_path_factory.mktemp("tiny")
    chance = random.Random(0)
    (folder / "text").mkdir()
    for number in range(12):
        words = " ".join(chance.choices(TEXT.split(), k=200))
        (folder / "text" / f"{number:02d}.txt").write_text(f"{words}.")
    path = folder / "tiny.toml"
    path.write_text(TINY.format(source=folder / "text"))
    return path


class Told(Silent):
    """Keeps what was said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def told():
    """Who watches a run and keeps its lines."""
    return Told()
