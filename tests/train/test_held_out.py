"""Bits per byte on held-out text: the protocol of onebit.eval, many windows at a time."""

import numpy as np
import pytest
import torch

from onebit import models
from onebit.architecture import Architecture
from onebit.data import Tokenizer
from onebit.data.blocks import write
from onebit.data.corpus import Document
from onebit.errors import InputError
from onebit.eval import perplexity
from onebit.scheme import find
from onebit.train.held_out import bits_per_byte

TEXTS = ("The state of the union is strong. " * 30, "Fellow citizens: peace, and work. " * 17, "a")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    architecture = Architecture(tokenizer.vocab_size, 32, 64, 1, 2, 2, 16)
    return models.build(architecture, find("bitnet-b1.58"), 0)


def written(folder, tokenizer, texts):
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    return write(folder / "held_out.tokens", documents, tokenizer)


def test_is_the_protocol_of_eval(model, tokenizer, tmp_path):
    file = written(tmp_path, tokenizer, TEXTS[:1])
    expected = perplexity(model, TEXTS[0], window=16, tokenizer=tokenizer).bits_per_byte
    assert bits_per_byte(model, file, 16) == pytest.approx(expected, rel=1e-6)


def test_windows_do_not_cross_documents(model, tokenizer, tmp_path):
    file = written(tmp_path, tokenizer, TEXTS)
    parts = [perplexity(model, text, 16, tokenizer) for text in TEXTS[:2]]
    scored = sum(part.scored_tokens for part in parts)
    nats = sum(part.nll_per_token * part.scored_tokens for part in parts)
    tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    size = sum(len(text) for text in TEXTS)
    expected = nats / scored * tokens / size / np.log(2)
    assert bits_per_byte(model, file, 16) == pytest.approx(expected, rel=1e-6)


def test_some_windows_are_close_to_all(model, tokenizer, tmp_path):
    file = written(tmp_path, tokenizer, TEXTS)
    everything = bits_per_byte(model, file, 16)
    assert bits_per_byte(model, file, 16, limit=8) == pytest.approx(everything, rel=0.05)
    assert bits_per_byte(model, file, 16, limit=10_000) == everything


def test_an_untrained_model_knows_nothing(model, tokenizer, tmp_path):
    file = written(tmp_path, tokenizer, TEXTS[:1])
    uniform = np.log2(tokenizer.vocab_size) * len(file.document(0)) / file.size_bytes
    assert bits_per_byte(model, file, 16) == pytest.approx(uniform, rel=0.05)
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.is_grad_enabled()


def test_nothing_to_score_is_refused(model, tokenizer, tmp_path):
    with pytest.raises(InputError, match="no held-out document has two tokens"):
        bits_per_byte(model, written(tmp_path, tokenizer, ["a", "b"]), 16)
