"""Perplexity against numbers that can be worked out by hand, and on both kinds of model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from onebit import LLM, models
from onebit.data import Tokenizer
from onebit.errors import InputError, OnebitError, OptionError
from onebit.eval import engines, perplexity

TEXT = "A text of letters, ö and ü, to be cut into tokens. " * 6


@pytest.fixture(scope="module")
def folder(save_tiny):
    return save_tiny(TEXT, spread=20, max_position_embeddings=64)


@pytest.fixture
def llm(folder):
    with LLM(folder, threads=1, kv_bits=32) as opened:
        yield opened


def by_definition(model, ids, window):
    """Every token but a window's first, scored one window at a time in float64."""
    nll = []
    for start in range(0, len(ids), window):
        part = torch.tensor([ids[start : start + window]])
        with torch.no_grad():
            logprobs = model(part).double().log_softmax(-1)[0]
        nll += [-float(logprobs[i, part[0, i + 1]]) for i in range(part.shape[1] - 1)]
    return np.array(nll)


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("window", [16, 64])
def test_both_engines_follow_the_definition(folder, engine, window):
    model, tokenizer = engines.open_model(folder, engine, threads=1)
    result = perplexity(model, TEXT, window, tokenizer)
    ids = tokenizer.encode(TEXT)
    nll = by_definition(models.load(folder), ids, window)
    assert result.nll_per_token == pytest.approx(nll.mean(), rel=2e-4)
    assert result.perplexity == math.exp(result.nll_per_token)
    assert (result.scored_tokens, result.tokens) == (len(nll), len(ids))
    assert result.windows == math.ceil(len(ids) / window)
    assert result.size_bytes == len(TEXT.encode()) > len(TEXT)
    bits = result.nll_per_token * len(ids) / math.log(2) / len(TEXT.encode())
    assert result.bits_per_byte == pytest.approx(bits, rel=1e-12)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tmp_path, folder):
    model = models.load(folder)
    with torch.no_grad():
        model.model.norm.weight.zero_()
    models.save(model, tmp_path)
    with LLM(tmp_path) as llm:
        result = perplexity(llm, [5, 9, 13, 200, 7])
    assert result.perplexity == pytest.approx(300, rel=1e-12)
    assert result.bits_per_byte is None


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_model_that_begins_texts_with_a_token_has_it_in_every_window(folder, engine):
    """Then all of the text is scored, in windows of one token less."""
    model, tokenizer = engines.open_model(folder, engine, threads=1)
    tokenizer = Tokenizer(tokenizer._plain, replace(tokenizer._settings, bos_id=7, add_bos=True))
    ids = tokenizer.encode(TEXT)
    cut = [[7, *ids[start : start + 15]] for start in range(0, len(ids), 15)]
    nll = np.concatenate([by_definition(models.load(folder), window, 16) for window in cut])
    result = perplexity(model, TEXT, 16, tokenizer)
    assert len(nll) == len(ids) == result.scored_tokens == result.tokens
    assert result.bos
    assert "every token of the text scored" in result.protocol
    assert result.nll_per_token == pytest.approx(nll.mean(), rel=2e-4)
    assert perplexity(model, ids, 16, bos=7).nll_per_token == result.nll_per_token
    assert not perplexity(model, ids, 16).bos


def test_a_last_window_of_one_token_scores_nothing(llm):
    ids = llm.tokenizer.encode(TEXT)[:33]
    result = perplexity(llm, ids, 16)
    assert (result.windows, result.scored_tokens, result.tokens) == (2, 30, 33)


def test_a_last_window_of_two_tokens_scores_one(llm):
    result = perplexity(llm, [5, 6, 7, 8, 9, 10], window=4)
    assert (result.windows, result.scored_tokens) == (2, 4)


def test_the_window_is_512_or_what_the_model_can_hold(llm):
    assert perplexity(llm, TEXT).window == 64


def test_the_protocol_says_what_was_counted(llm):
    result = perplexity(llm, TEXT, 16)
    for number in (result.tokens, result.windows, result.window, result.scored_tokens):
        assert str(number) in result.protocol
    assert "do not overlap" in result.protocol
    assert result.to_dict()["protocol"] == result.protocol


def test_progress_is_told_after_every_window(llm):
    seen = []
    result = perplexity(llm, TEXT, 16, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, result.windows) for i in range(result.windows)]


@pytest.mark.parametrize("window", [1, 65, 0, -5])
def test_a_window_that_does_not_fit_is_refused(llm, window):
    with pytest.raises(OptionError, match=f"window is {window}; accepted for this model: 2 to 64"):
        perplexity(llm, TEXT, window)


@pytest.mark.parametrize("text", ["", [3]])
def test_a_text_of_less_than_two_tokens_is_refused(llm, text):
    with pytest.raises(InputError, match="fewer than two tokens"):
        perplexity(llm, text)


def test_a_torch_model_and_a_text_need_a_tokenizer(folder):
    with pytest.raises(InputError, match="pass one, or token ids"):
        perplexity(models.load(folder), TEXT)


def test_an_unknown_engine_is_refused(folder):
    with pytest.raises(OptionError, match="engine is 'cuda'; accepted: native, torch"):
        engines.open_model(folder, "cuda")


def test_a_model_that_is_not_finite_is_named(folder):
    model = models.load(folder)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(OnebitError, match="add up to nan"):
        perplexity(model, [1, 2, 3])


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_no_threads_are_refused(folder, engine):
    with pytest.raises(OptionError, match="threads is 0; accepted: a whole number from 1"):
        engines.open_model(folder, engine, threads=0)
